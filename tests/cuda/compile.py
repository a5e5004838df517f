"""Compiles every kernel for every architecture and shape; needs NVRTC (`pip install nvidia-cuda-nvrtc`), no GPU. Compares
the structures of params.py with the kernels'.

usage: python3 compile.py [--all] [-v] [file.cu ...]
Without --all only a few shapes of each kernel are compiled, one of them in all its variants. -v prints registers, shared memory and spills.
What compiled before from the same source, with the same options and compiler, is not compiled again: what the compiler said of it is in
the build folder.
"""

import ctypes
import hashlib
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import params
from device import compile_cubin, nvrtc_version, options, source

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "cuda"

ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]
FEW = [(64, 32, 8), (64, 64, 16), (128, 128, 64), (96, 16, 8), (256, 64, 16), (64, 16, 4)]  # head dim, block q, block k
ESTIMATES = ["FIRST", "MIDDLE", "MEAN_SPREAD", "TWO_MEANS"]
SOFT_CAPS = ["0.0f", "0x1.9p+9f"]  # none, and 800
ALL = [(d, bq, bk) for d in (64, 96, 128, 256) for bq in (16, 32, 64, 128) for bk in (4, 8, 16, 32, 64)]


FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]


def variants(file, shapes):
    """Macros with which a file is compiled."""
    if file in ("rms_norm.cu", "elementwise.cu", "experts.cu", "recall.cu", "sentences.cu"):
        return [{}]
    if file.startswith("grouped"):
        return [{"ACTIVATION": name} for name in ("gated_silu", "gated_gelu", "gated_clamped")]
    if file in ("rope.cu", "written.cu"):
        return [{"HEAD_DIM": d} for d in sorted({s[0] for s in shapes})]
    if file == "dequantize.cu":
        return [{"FORMAT": f} for f in FORMATS]
    if file in ("clusters.cu", "pyramid.cu"):
        return [{"HEAD_DIM": d, "BLOCK_K": k} for d, k in sorted({(s[0], s[2]) for s in shapes})]
    found = []
    for d, q, k in shapes:
        if file.endswith("_sm90.cu") and (q < 64 or k < 8 or d not in (64, 128)):
            continue
        blocks, whole = {"HEAD_DIM": d, "BLOCK_Q": q, "BLOCK_K": k}, shapes is ALL or d == 128
        caps = SOFT_CAPS if whole else SOFT_CAPS[:1]
        if file == "search_hierarchical.cu":
            for estimate, rescore in product(ESTIMATES, (0, 1)) if whole else [("TWO_MEANS", 1)]:
                found.append({**blocks, "ESTIMATE": estimate, "RESCORE": rescore})
        elif file == "search_exhaustive.cu":
            found.append({**blocks, "ESTIMATE": "FIRST"})
        elif file == "sample.cu":
            found += [{**blocks, "ESTIMATE": "FIRST", "SOFT_CAP": c} for c in caps]
        elif file == "attention_recorded.cu":
            found += [{**blocks, "ANCHORS": a, "ALL_KEYS": 0, "SOFT_CAP": c} for a in (0, 1) for c in caps]
        elif file.startswith("attention_record"):
            found += [{**blocks, "ANCHORS": a, "ALL_KEYS": k, "SOFT_CAP": c} for a in (0, 1) for k in (0, 1) for c in caps]
        elif file.startswith("attention"):
            found += [{**blocks, "SOFT_CAP": c} for c in caps]
        else:
            found.append(blocks)
    return found


FILES = ["rms_norm.cu", "rope.cu", "written.cu", "elementwise.cu", "experts.cu", "grouped.cu", "pyramid.cu", "clusters.cu", "search_hierarchical.cu", "search_exhaustive.cu",
         "attention.cu", "attention_record.cu", "attention_recorded.cu", "proximity.cu", "recall.cu", "sentences.cu", "sample.cu", "dequantize.cu", "attention_sm90.cu",
         "attention_record_sm90.cu", "grouped_sm90.cu"]


def entries_of(log):
    return set(re.findall(r"Compiling entry function '(\w+)'", log))


def compare_params(file):
    """Fields and sizes of the structures that a file and params.py both have; how many these are."""
    text, n = re.sub(r"//.*", "", source(file)), 0
    for name, body in re.findall(r"^struct (\w+) \{(.*?)\}", text, re.M | re.S):
        kind = getattr(params, name, None)
        if kind is None:
            continue
        fields = [word for one in re.split("[,;]", body.split("DEVICE")[0]) for word in re.split(r"[\s*]+", one.strip())[-1:] if word]
        assert fields == params.fields_of(kind), f"{name} of {file}: {fields}, but in params.py {params.fields_of(kind)}"
        size = re.search(rf"static_assert\(sizeof\({name}(?:<const u16\*>)?\) == (\d+)", text)
        if name != "Geometry":
            assert int(size[1]) == ctypes.sizeof(kind), f"{name} of {file}: {size[1]} bytes, but in params.py {ctypes.sizeof(kind)}"
        n += 1
    return n


def compiler_log(file, defines, arch):
    """What the compiler says of a kernel, and whether it was asked now."""
    asked = "\0".join([nvrtc_version(), *options(defines, arch), source(file)])
    kept = KEPT / hashlib.sha256(asked.encode()).hexdigest()
    if kept.exists():
        return kept.read_text(), False
    cubin, log = compile_cubin(file, defines, arch)
    for entry in entries_of(log):
        assert f"\0{entry}_geometry\0".encode() in cubin, f"{entry} of {file} says nothing of its launches"
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, whoever else compiles the same.
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(log)
    part.replace(kept)
    return log, True


def main():
    files = [a for a in sys.argv[1:] if a.endswith(".cu")] or FILES
    shapes, verbose = (ALL if "--all" in sys.argv else FEW), "-v" in sys.argv
    archs = [a for a in ARCHITECTURES if a in sys.argv] or ARCHITECTURES
    print(f"NVRTC {nvrtc_version()}")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for file in files:
            start, n_new, entries, n_structures = time.time(), 0, set(), compare_params(file)
            asked = [(file, d, a) for a in archs if a == "90a" or not file.endswith("_sm90.cu") for d in variants(file, shapes)]
            for (_, defines, arch), (log, is_new) in zip(asked, pool.map(compiler_log, *zip(*asked))):
                n_new += is_new
                warnings = [l for l in log.splitlines() if "warning" in l.lower() or "Potential" in l]
                entries |= entries_of(log)
                if verbose or warnings:
                    used = re.findall(r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers", log, re.S)
                    print(f"  sm_{arch} {defines}", *[f"{e}: {r} registers, {s} bytes spilled, stack {f}" for e, f, s, r in used], *warnings, sep="\n      ")
            print(f"{file}: {len(asked)} variants, {n_new} of them compiled now, in {time.time() - start:.1f} s: "
                  f"{', '.join(sorted(entries))}; {n_structures} structures", flush=True)


if __name__ == "__main__":
    main()
