"""Write blocks.json: blocks of llama.cpp's formats and the numbers that its own Python package reads from them.

    pip install gguf==0.19.0
    python tests/gguf/blocks.py
"""

import json
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Exponents of MXFP4: the two that make subnormal scales, ordinary ones, and one near the largest.
EXPONENTS = [0, 1, 2, 120, 127, 250]


def main():
    random = np.random.default_rng(7)
    rows = [row(random, name, n) for name, n in [("IQ4_NL", 2), ("IQ4_XS", 1), ("MXFP4", len(EXPONENTS))]]
    lines = ",\n".join(json.dumps(row) for row in rows)
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def row(random, name, n_blocks):
    """Every bit is random, but for MXFP4's exponents and the scales that make numbers infinite."""
    kind = GGMLQuantizationType[name]
    blocks = random.integers(0, 256, (n_blocks, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = EXPONENTS
    else:
        blocks[:, :2] = np.array([[-0.0123], [1.75]], np.float16)[:n_blocks].view(np.uint8)
    bits = dequantize(blocks, kind).astype("<f4").tobytes().hex()
    return {"format": name, "type": int(kind), "blocks": blocks.tobytes().hex(), "numbers": bits}


if __name__ == "__main__":
    main()
