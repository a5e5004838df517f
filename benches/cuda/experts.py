"""Times the products of experts with rows that take them, beside PyTorch's, one expert after the other and grouped.

usage: python3 experts.py [--rows 8192]
Random routers and weights in bf16. Medians of device events on one card; a product is 2 · rows · top_k · n_in · n_out operations.
"""

import argparse

import torch
from bench import milliseconds

import launch

#         experts top_k hidden inner
SHAPES = {"Qwen3-30B-A3B": (128, 8, 2048, 768), "gpt-oss-20b": (32, 4, 2880, 2880), "Mixtral-8x7B": (8, 2, 4096, 14336)}


def torch_grouped(x, weights, ends):
    """PyTorch's grouped product, or none where it has none for these sizes."""
    try:
        run = lambda: torch._grouped_mm(x, weights.transpose(1, 2), offs=ends)
        run()
        return run
    except (AttributeError, RuntimeError):
        return None


def measure(name, n_rows):
    n_experts, top_k, hidden, inner = SHAPES[name]
    routes = launch.route(torch.randn(n_rows, n_experts, device="cuda"), top_k, normalised=True)
    counts, rows = routes.counts.tolist(), routes.rows.flatten().long()
    x = torch.randn(n_rows, hidden, device="cuda").bfloat16()
    both = torch.randn(n_experts, 2, inner, hidden, device="cuda").bfloat16()
    down = torch.randn(n_experts, hidden, inner, device="cuda").bfloat16()
    gate_up, downs = launch.OfExperts(both[:, 0], both[:, 1]), launch.OfExperts(down, down)
    act = launch.grouped("grouped_gate", x, routes, gate_up)
    part = launch.grouped("grouped_down", act, routes, downs)
    ends = routes.counts.cumsum(0).int()
    gathered, stacked = x[rows], both.flatten(1, 2)
    old = {"warpgroups": False}
    runs = {
        "gate and up, any card": (lambda: launch.grouped("grouped_gate", x, routes, gate_up, out=act, **old), 2),
        "down, any card": (lambda: launch.grouped("grouped_down", act, routes, downs, out=part, **old), 1),
        "gate and up": (lambda: launch.grouped("grouped_gate", x, routes, gate_up, out=act), 2),
        "down": (lambda: launch.grouped("grouped_down", act, routes, downs, out=part), 1),
        "sum": (lambda: launch.sum_of_experts(part, routes), 0),
        "torch, each expert: gate and up": (lambda: [a @ w.T for a, w in zip(gathered.split(counts), stacked)], 2),
        "torch, each expert: down": (lambda: [a @ w.T for a, w in zip(act.split(counts), down)], 1),
    }
    for what, of, rows_of, n in (("gate and up", stacked, gathered, 2), ("down", down, act, 1)):
        grouped = torch_grouped(rows_of, of, ends)
        if grouped:
            runs[f"torch, grouped: {what}"] = (grouped, n)
    for what, (run, n) in runs.items():
        ms = milliseconds(lambda: [run() for _ in range(10)], 5) / 10
        rate = f"{2e-9 * n * n_rows * top_k * hidden * inner / ms:6.0f} TFLOP/s" if n else ""
        print(f"{name:14} {n_rows:6} rows  {what:32} {ms:8.3f} ms {rate}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=8192)
    o = parser.parse_args()
    for name in SHAPES:
        measure(name, o.rows)


if __name__ == "__main__":
    main()
