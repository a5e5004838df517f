"""Runs every kernel once on small odd shapes, with nothing to compare: for compute-sanitizer, which is slow.

usage: PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck|racecheck --error-exitcode 9 python3 sanitize.py
"""

import torch

import launch
from reference import FIRST, MEAN_SPREAD, TWO_MEANS, Shape

SHAPES = [
    Shape(1, 16, 8, 1, 1, 64, 4),
    Shape(333, 32, 8, 4, 2, 64, 12, 2, 4),
    Shape(300, 64, 32, 4, 1, 128, 4, 0, 2),
    Shape(900, 128, 64, 2, 1, 128, 6, 1, 2),
    Shape(700, 128, 16, 2, 2, 64, 14, 1, 8, window=300),
    Shape(210, 16, 16, 2, 1, 96, 5, 1, 2, beam=8),
    Shape(290, 64, 64, 2, 1, 256, 3),
    Shape(700, 32, 8, 2, 1, 64, 12, 1, 4, beam=4, down=2, rescore=True),
    Shape(900, 128, 16, 2, 1, 128, 12, 1, 2, beam=2, down=2, rescore=True, window=600),
]


def normal(*size):
    return torch.randn(size, device="cuda").bfloat16()


def run(shape):
    q, k, v = (normal(shape.n_tokens, heads, shape.head_dim) for heads in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads))
    pyramid, clusters = launch.Pyramid(shape).build(shape, k), launch.Clusters(shape).build(shape, k)
    n_read = torch.zeros(1, dtype=torch.int64, device="cuda")
    kept = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k, dtype=torch.int32)
    scores = launch.new(shape, shape.n_heads * shape.n_query_blocks * shape.n_key_blocks, dtype=torch.int32)
    launch.search_exhaustive(shape, q, k, kept, scores)
    sentence = (torch.arange(shape.n_tokens, device="cuda") // 23).int()
    weight = torch.full((shape.n_tokens,), 1 / 23, device="cuda")
    focus = range(max(shape.n_tokens - 33, 0), shape.n_tokens)
    found = launch.new(shape, shape.n_tokens, shape.n_heads, fill=0.0)
    for estimate, nodes in ((FIRST, None), (MEAN_SPREAD, pyramid), (TWO_MEANS, clusters)):
        launch.search_hierarchical(shape, q, k, estimate, nodes, kept, n_read, 0, found)
    for warpgroups in (False, True) if launch.hopper(shape) else (False,):
        out, lse, dense_lse = torch.empty_like(q), *(launch.new(shape, shape.n_heads, shape.n_tokens) for _ in range(2))
        launch.attention(shape, q, k, v, kept, out, lse, warpgroups=warpgroups)
        launch.attention(shape, q, k, v, None, out, dense_lse, warpgroups=warpgroups)
        if not warpgroups:
            launch.attention(shape, q, k, v, kept, out, lse, warpgroups=False, n_parts=3)
        mass = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k)
        received, anchors = (launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0) for _ in range(2))
        rows = launch.new(shape, shape.n_heads, len(focus), shape.top_k * shape.block_k, fill=0.0)
        launch.record(shape, q, k, kept, lse, mass, received, rows, focus, sentence, weight, anchors, 4, 0, warpgroups)
        launch.record(shape, q, k, kept, lse, mass, received, rows, focus, warpgroups=warpgroups)
        launch.record(shape, q, k, kept, dense_lse, None, received, None, range(0), sentence, weight, anchors, 4, 0, warpgroups, True)
        for norms, of_sentences in ((found, (sentence, weight, anchors)), (None, ())):
            launch.attention_recorded(shape, q, k, v, kept, norms, out, lse, mass, received, rows, focus, *of_sentences)
        launch.recall(shape, lse, dense_lse)
    torch.cuda.synchronize()


for entry in ("rms_norm", "rms_norm_of_few"):
    launch.rms_norm(normal(37, 1032), normal(1032), 1e-5, entry)
launch.swiglu(normal(19, 264), normal(19, 264))
launch.geglu(normal(19, 264), normal(19, 264))
launch.add_bias(launch.add(normal(19, 264), normal(19, 264)), normal(264))
launch.is_finite(normal(19, 264))
launch.rope(normal(21, 6, 96), normal(96), torch.rand(24, device="cuda", dtype=torch.float64), 48, 7, 1e-6)
routes = launch.route(torch.randn(77, 60, device="cuda"), 4)
gate, up = ([normal(200, 72) for _ in range(60)] for _ in range(2))
down = [normal(72, 200) for _ in range(60)]
for warpgroups in (False, True) if launch.is_hopper() else (False,):
    act = launch.grouped("grouped_gate", normal(77, 72), routes, launch.OfExperts(gate, up), warpgroups=warpgroups)
    part = launch.grouped("grouped_down", act, routes, launch.OfExperts(down, down), warpgroups=warpgroups)
launch.sum_of_experts(part, routes)
for shape in SHAPES:
    run(shape)
print("every kernel ran")
