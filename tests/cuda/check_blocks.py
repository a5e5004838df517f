"""Checks kernels/dequantize.cu against the package `gguf`, which reads llama.cpp's blocks with numpy.

usage: python3 check_blocks.py, with torch, numpy and gguf; exit code 1 if a number differs by more than bf16 rounds
"""

import sys

import gguf
import numpy as np
import torch

import launch
from compile import FORMATS

# Where a block has its numbers of 16 bits; the first byte of MXFP4 is an exponent.
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": []}
N_ROWS, WIDTH, HEAD_DIM = 48, 1024, 16


def random_blocks(format, random):
    """Rows of blocks of random bytes; their scales are small and finite."""
    n, size = gguf.GGML_QUANT_SIZES[getattr(gguf.GGMLQuantizationType, format)]
    blocks = random.integers(0, 256, (N_ROWS, WIDTH // n, size), dtype=np.uint8)
    for at in HALVES.get(format, [0]):
        scales = random.normal(size=blocks.shape[:2]).astype(np.float16)
        blocks[:, :, at : at + 2] = scales[..., None].view(np.uint8)
    if format == "MXFP4":
        blocks[:, :, 0] = random.integers(120, 134, blocks.shape[:2])
    return blocks.reshape(N_ROWS, -1)


def in_halves(x):
    """Rows (0, 1), (2, 3), … of each head as rows (0, half), (1, half + 1), …."""
    return x.reshape(-1, HEAD_DIM // 2, 2, WIDTH).swapaxes(1, 2).reshape(-1, WIDTH)


def main():
    random, n_wrong = np.random.default_rng(1), 0
    for format in FORMATS:
        blocks = random_blocks(format, random)
        want = gguf.quants.dequantize(blocks, getattr(gguf.GGMLQuantizationType, format))
        on_card = torch.from_numpy(blocks).cuda()
        for head_dim, expected in ((0, want), (HEAD_DIM, in_halves(want))):
            got = launch.dequantize(format, on_card, N_ROWS, WIDTH, head_dim, 0.5, 1.0).float().cpu().numpy()
            expected = 0.5 * expected + 1.0
            error = np.abs(got - expected).max() / np.abs(expected).max()
            n_wrong += error > 2**-8
            print(f"{format}, heads of {head_dim}: {error:.1e}")
    print(f"{n_wrong} wrong")
    sys.exit(int(n_wrong > 0))


if __name__ == "__main__":
    main()
