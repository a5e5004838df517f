"""Times one layer's attention of an 8B shape, stage by stage, beside PyTorch's dense attention and FlexAttention.

usage: python3 bench.py [--tokens 131072,1048576] [--no-torch] [--bq 128] [--bk 64] [--estimate two_means] [--json out.json]
32 query heads, 8 key-value heads, head dim 128, bf16, 2,048 keys kept per query block. Medians of device events on one card.
"""

import argparse
import json
import os
import statistics
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "cuda"))
import launch
from device import nvrtc_version
from reference import FIRST, MEAN_SPREAD, MIDDLE, TWO_MEANS, Shape

ESTIMATES = {"first": FIRST, "middle": MIDDLE, "mean_spread": MEAN_SPREAD, "two_means": TWO_MEANS}


def milliseconds(run, repeats):
    """Median of `repeats` runs after two to warm up."""
    times = []
    for i in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:])


def ours(shape, estimate, repeats):
    """Milliseconds of each stage of a whole layer's attention, and the TFLOP/s of its products."""
    q, k, v = (torch.randn(shape.n_tokens, heads, shape.head_dim, device="cuda", dtype=torch.bfloat16)
               for heads in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads))
    kept = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k, dtype=torch.int32)
    out, lse = torch.empty_like(q), launch.new(shape, shape.n_heads, shape.n_tokens)
    mass = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k)
    received = launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0)
    focus = range(shape.n_tokens - 32, shape.n_tokens)
    rows = launch.new(shape, shape.n_heads, 32, shape.top_k * shape.block_k, fill=0.0)
    nodes, n_read = (launch.Clusters if estimate == TWO_MEANS else launch.Pyramid)(shape), torch.zeros(1, dtype=torch.int64, device="cuda")
    found = launch.new(shape, shape.n_tokens, shape.n_heads, fill=0.0) if shape.rescore and not launch.hopper(shape) else None
    stages = {
        "pyramid": lambda: nodes.build(shape, k),
        "search": lambda: launch.search_hierarchical(shape, q, k, estimate, nodes, kept, n_read, 0, found),
        "attention": lambda: launch.attention(shape, q, k, v, kept, out, lse),
        "record": lambda: launch.record(shape, q, k, kept, lse, mass, received, rows, focus),
    }
    if not launch.hopper(shape):
        stages["both"] = lambda: launch.attention_recorded(shape, q, k, v, kept, found, out, lse, mass, received, rows, focus)
    times = {name: milliseconds(run, repeats) for name, run in stages.items()}
    if "both" in stages:
        del stages["attention"], stages["record"]

    def layer():
        for run in stages.values():
            run()

    times["all"] = milliseconds(layer, repeats)
    flops = 2 * shape.n_tokens * shape.top_k * shape.block_k * shape.head_dim * shape.n_heads
    rates = {"attention": 2 * flops / times["attention"] / 1e9, "record": flops / times["record"] / 1e9}
    return times, rates


def dense(shape, backend, repeats):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (torch.randn(1, shape.n_heads, shape.n_tokens, shape.head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with sdpa_kernel(getattr(SDPBackend, backend)):
        return milliseconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), repeats)


def flex(shape, repeats, block=128):
    """FlexAttention over a given mask of as many keys: random earlier blocks and the diagonal one."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    n_blocks, keep = shape.n_tokens // block, shape.top_k * shape.block_k // block
    q = torch.randn(1, shape.n_heads, shape.n_tokens, shape.head_dim, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, shape.n_kv_heads, shape.n_tokens, shape.head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    row = torch.arange(n_blocks, device="cuda")
    full = torch.zeros(1, shape.n_heads, n_blocks, n_blocks, dtype=torch.int32, device="cuda")
    picked = (torch.rand(1, shape.n_heads, n_blocks, keep - 1, device="cuda") * row[:, None].clamp_min(1)).int().sort(-1).values
    full[..., : keep - 1] = picked
    diagonal = torch.zeros_like(full)
    diagonal[..., 0] = row
    ones = torch.ones(1, shape.n_heads, n_blocks, dtype=torch.int32, device="cuda")
    mask = BlockMask.from_kv_blocks(ones, diagonal, (ones * (keep - 1)).int(), full, BLOCK_SIZE=block, mask_mod=lambda b, h, i, j: i >= j, compute_q_blocks=False)
    run = torch.compile(flex_attention)
    return milliseconds(lambda: run(q, k, v, block_mask=mask, enable_gqa=True), repeats)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="131072,1048576")
    parser.add_argument("--bq", type=int, default=128)
    parser.add_argument("--bk", type=int, default=64)
    parser.add_argument("--keys", type=int, default=2048)
    parser.add_argument("--sinks", type=int, default=128, help="tokens")
    parser.add_argument("--local", type=int, default=512, help="tokens")
    parser.add_argument("--beam", type=int, default=30, help="(30 + 2) * 4 nodes fill whole tiles of the kernel")
    parser.add_argument("--split", type=int, choices=(2, 4, 8), default=4)
    parser.add_argument("--rescore", action="store_true", help="rank more blocks than are kept by their real keys")
    parser.add_argument("--estimate", choices=ESTIMATES, default="two_means")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--warps", action="store_true", help="the portable kernels, not Hopper's")
    parser.add_argument("--json")
    o = parser.parse_args()
    if o.warps:
        launch.hopper = lambda shape: False
    torch.manual_seed(1)
    results = {"device": torch.cuda.get_device_name(), "driver": driver(), "torch": torch.__version__, "nvrtc": nvrtc_version(), "options": vars(o), "rows": []}
    print(f"{results['device']}, driver {results['driver']}, torch {torch.__version__}, NVRTC {nvrtc_version()}, {o}")
    print("| tokens | pyramid | search | attention | record | both in one | all, ms | attention, TFLOP/s | record, TFLOP/s | cuDNN | flash | FlexAttention |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for n_tokens in map(int, o.tokens.split(",")):
        shape = Shape(n_tokens, o.bq, o.bk, 32, 8, 128, o.keys // o.bk, o.sinks // o.bk, o.local // o.bk, 0, o.beam, o.split.bit_length() - 1, o.rescore)
        times, rates = ours(shape, ESTIMATES[o.estimate], o.repeats)
        others = {}
        if not o.no_torch:
            others["flex"] = attempt(lambda: flex(shape, o.repeats))
            if n_tokens <= 131072:
                others["cudnn"] = attempt(lambda: dense(shape, "CUDNN_ATTENTION", 3))
                others["flash"] = attempt(lambda: dense(shape, "FLASH_ATTENTION", 3))
        results["rows"].append({"tokens": n_tokens, "ms": times, "tflops": rates, "others": others})
        cells = [f"{times[s]:.2f}" if s in times else "-" for s in ("pyramid", "search", "attention", "record", "both", "all")] + [f"{r:.0f}" for r in rates.values()]
        cells += [f"{others[name]:.1f}" if others.get(name) else "-" for name in ("cudnn", "flash", "flex")]
        print(f"| {n_tokens:,} | " + " | ".join(cells) + " |", flush=True)
    if o.json:
        json.dump(results, open(o.json, "w"), indent=1)


def attempt(run):
    """None, and a line, when PyTorch cannot."""
    try:
        return run()
    except Exception as e:  # another library's failure must not lose our numbers
        print(f"({type(e).__name__}: {str(e).splitlines()[0]})", flush=True)
        return None
    finally:
        torch.cuda.empty_cache()


def driver():
    import subprocess

    return subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
