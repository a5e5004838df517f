"""The kernels as functions on torch tensors: outputs are made here, launch settings worked out as their headers say."""

import ctypes

import torch

from device import Kernels
from reference import MEAN_SPREAD, TWO_MEANS

GPU = None


def gpu():
    global GPU
    GPU = GPU or Kernels()
    return GPU


def hopper(shape):
    """Whether the warpgroup kernels take this shape."""
    return gpu().arch == "90a" and shape.block_q >= 64 and shape.head_dim in (64, 128)


def warps(shape, tile):
    warps_q = shape.block_q // 16
    return warps_q * min(8 // warps_q, tile // 16)


def row_bytes(shape):
    return shape.head_dim * 2 + 16


def n_blocks(shape, queries):
    return -(-queries.shape[0] // shape.block_q)


def new(shape, *size, dtype=torch.float32, fill=None):
    """Poisoned memory: what a kernel does not write is seen. With `fill`, what it adds to."""
    x = torch.empty(*size, dtype=dtype, device="cuda")
    if fill is not None:
        return x.fill_(fill)
    return x.fill_(7 if dtype == torch.int32 else float("nan"))


def rms_norm(x, weight, eps):
    out = new(None, *x.shape, dtype=torch.bfloat16)
    gpu().launch("rms_norm.cu", "rms_norm", {}, (x.shape[0],), (256,), 0, x, weight, out, x.shape[1], eps)
    return out


def rope(x, norm_weight, frequency, n_rotated, first_position, eps, turn=1.0, scale=1.0):
    rows, heads, dim = x.shape
    out = new(None, *x.shape, dtype=torch.bfloat16)
    gpu().launch("rope.cu", "rope", {"HEAD_DIM": dim}, (rows, -(-heads // 4)), (32, 4), 0, x, norm_weight, frequency, out, heads,
                 n_rotated, first_position, eps, turn, scale)
    return out


def elementwise(entry, x, *args):
    n_vectors = x.numel() // 8
    gpu().launch("elementwise.cu", entry, {}, (-(-n_vectors // 256),), (256,), 0, x, *args, ctypes.c_uint64(n_vectors))


def swiglu(gate, up):
    out = new(None, *gate.shape, dtype=torch.bfloat16)
    elementwise("swiglu", gate, up, out)
    return out


def geglu(gate, up):
    out = new(None, *gate.shape, dtype=torch.bfloat16)
    elementwise("geglu", gate, up, out)
    return out


def add(x, y):
    out = new(None, *x.shape, dtype=torch.bfloat16)
    elementwise("add", x, y, out)
    return out


def add_bias(x, bias):
    elementwise("add_bias", x, bias, bias.numel())


def is_finite(x):
    found = new(None, 1, dtype=torch.int32, fill=0)
    elementwise("is_finite", x, found)
    return found.item() == 0


def n_nodes(shape):
    total, level = 0, shape.n_key_blocks
    while level > 1:
        total, level = total + level, -(-level // 2)
    return total + 1


class Pyramid:
    """Means and variances `[n_kv_heads, n_nodes, head_dim]` bf16 and room for the spans' sums."""

    def __init__(self, shape):
        size = (shape.n_kv_heads, n_nodes(shape), shape.head_dim)
        self.mean, self.variance = new(shape, *size, dtype=torch.bfloat16), new(shape, *size, dtype=torch.bfloat16)
        self.levels = (1024 // shape.block_k).bit_length() - 1
        self.n_spans = -(-shape.n_key_blocks >> self.levels)
        self.spans = new(shape, shape.n_kv_heads, self.n_spans, 2, shape.head_dim)
        self.in_spans = sum(-(-shape.n_key_blocks >> l) for l in range(self.levels + 1))
        self.n_nodes = n_nodes(shape)

    def build(self, shape, keys):
        defines = {"HEAD_DIM": shape.head_dim, "BLOCK_K": shape.block_k, "SPAN_LEVELS": self.levels}
        block = (shape.head_dim // 2,)
        first = min(self.in_spans, self.n_nodes)
        gpu().launch("pyramid.cu", "pyramid_spans", defines, (self.n_spans, shape.n_kv_heads), block, 0, keys, self.mean, self.variance,
                     self.spans, shape.n_tokens, shape.n_kv_heads, self.n_nodes)
        if self.n_nodes > first:
            gpu().launch("pyramid.cu", "pyramid_top", defines, (self.n_nodes - first, shape.n_kv_heads), block, 0, self.spans, self.mean,
                         self.variance, shape.n_tokens, self.n_spans, self.n_nodes)
        return self


class Clusters:
    """Two clusters a node: means `[n_kv_heads, n_nodes, 2, head_dim]` bf16, spreads `[n_kv_heads, n_nodes, 2]` f32."""

    WARPS = 8

    def __init__(self, shape):
        self.n_nodes = n_nodes(shape)
        self.mean = new(shape, shape.n_kv_heads, self.n_nodes, 2, shape.head_dim, dtype=torch.bfloat16)
        self.spread = new(shape, shape.n_kv_heads, self.n_nodes, 2)
        self.sums = new(shape, shape.n_kv_heads, self.n_nodes, 2, 2)

    def build(self, shape, keys):
        defines, outputs = {"HEAD_DIM": shape.head_dim, "BLOCK_K": shape.block_k}, (self.mean, self.spread, self.sums)
        launch = lambda entry, n, *args: gpu().launch("clusters.cu", entry, defines, (-(-n // self.WARPS), shape.n_kv_heads), (32 * self.WARPS,), 0, *args)
        launch("clusters_of_blocks", shape.n_key_blocks, keys, *outputs, shape.n_tokens, shape.n_kv_heads, self.n_nodes)
        below, n = 0, shape.n_key_blocks
        while n > 1:
            launch("clusters_of_nodes", -(-n // 2), *outputs, self.n_nodes, below, n)
            below, n = below + n, -(-n // 2)
        return self


def levels_of(shape, x):
    """What nodes have, `[n_kv_heads, n_nodes, ...]`, as a list by level, as the reference takes it."""
    parts, at, n = [], 0, shape.n_key_blocks
    while True:
        parts.append(x[:, at : at + n])
        at += n
        if n == 1:
            return parts
        n = -(-n // 2)


def search_hierarchical(shape, queries, keys, estimate, nodes, kept, n_read, first_block=0, warpgroups=None):
    """`nodes`: a Pyramid or Clusters where the estimate reads one; adds to `n_read` `[1]` i64."""
    kinds = 2 if estimate == MEAN_SPREAD else 1
    defines = {"HEAD_DIM": shape.head_dim, "BLOCK_Q": shape.block_q, "BLOCK_K": shape.block_k, "ESTIMATE": estimate, "RESCORE": int(shape.rescore)}
    if hopper(shape) if warpgroups is None else warpgroups:
        file, threads, defines["COLUMNS"] = "search_hierarchical_sm90.cu", 2 * shape.block_q, 64 if shape.rescore else 88 if kinds == 2 else 128
        scoring = 1024 + kinds * shape.head_dim * 2 * (shape.block_q + defines["COLUMNS"]) + 4 * defines["COLUMNS"]
    else:
        tile = 32 if shape.head_dim > 128 else 64
        file, threads, scoring = "search_hierarchical.cu", 32 * warps(shape, tile), 2 * tile * (kinds * row_bytes(shape) + 4)
    rows = {MEAN_SPREAD: lambda: (nodes.mean, nodes.variance, None), TWO_MEANS: lambda: (nodes.mean, None, nodes.spread)}
    gpu().launch(file, "search_hierarchical", defines, (n_blocks(shape, queries), shape.n_heads), (threads,), scoring + 16 * shape.max_frontier,
                 queries, keys, *rows.get(estimate, lambda: (None, None, None))(), kept, n_read, first_block, shape.n_query_blocks, shape.n_tokens,
                 shape.window, shape.n_kv_heads, nodes.n_nodes if nodes else 0, shape.sink_blocks, shape.local, shape.top_k, shape.beam,
                 shape.down, shape.max_frontier)


def search_exhaustive(shape, queries, keys, kept, scores, first_block=0, n_segments=3):
    tile = 32 if shape.head_dim > 128 else 64
    defines = {"HEAD_DIM": shape.head_dim, "BLOCK_Q": shape.block_q, "BLOCK_K": shape.block_k, "ESTIMATE": 0}
    grid, in_segments = (n_blocks(shape, queries), shape.n_heads), (n_blocks(shape, queries) * n_segments, shape.n_heads)
    norms = new(shape, shape.n_heads * grid[0] * n_segments * shape.block_q)
    for entry, into in (("exhaustive_norms", (norms,)), ("exhaustive_scores", (norms, scores))):
        gpu().launch("search_exhaustive.cu", entry, defines, in_segments, (32 * warps(shape, tile),), 2 * tile * row_bytes(shape),
                     queries, keys, *into, n_segments, first_block, shape.n_tokens, shape.window, shape.n_kv_heads, shape.sink_blocks,
                     shape.local, shape.top_k)
    gpu().launch("search_exhaustive.cu", "exhaustive_select", defines, grid, (256,), 0, scores, kept, first_block, shape.n_query_blocks,
                 shape.n_tokens, shape.window, shape.sink_blocks, shape.local, shape.top_k)


def attention(shape, queries, keys, values, kept, out, lse, first_block=0, step=1, warpgroups=None):
    """Sparse over `kept`, or dense if it is None."""
    entry = "attention_dense" if kept is None else "attention_sparse"
    grid = (-(-n_blocks(shape, queries) // step), shape.n_heads)
    tail = (kept, out, lse, first_block, step, queries.shape[0], shape.n_query_blocks, shape.n_tokens, shape.window, shape.n_kv_heads,
            shape.top_k)
    defines = {"HEAD_DIM": shape.head_dim, "BLOCK_Q": shape.block_q, "BLOCK_K": shape.block_k}
    if hopper(shape) if warpgroups is None else warpgroups:
        tile = 64 if shape.block_q == 64 else 128
        shared = 1024 + shape.head_dim * 2 * (shape.block_q + 4 * tile)
        maps = (gpu().tensor_map(queries, 64), gpu().tensor_map(keys, shape.block_k), gpu().tensor_map(values, shape.block_k))
        gpu().launch("attention_sm90.cu", entry, defines, grid, (2 * shape.block_q + 128,), shared, *maps, *tail)
        return
    tile = 64 if shape.block_k == 64 or (shape.block_q >= 64 and shape.head_dim <= 128) else 32
    shared = 4 * tile * row_bytes(shape) + (shape.block_q * row_bytes(shape) if shape.head_dim > 128 else 0)
    gpu().launch("attention.cu", entry, defines, grid, (2 * shape.block_q,), shared, queries, keys, values, *tail)


def record(shape, queries, keys, kept, lse, mass, received, focus_rows, focus, sentence=None, weight=None, anchors=None, distance=4,
           first_block=0, warpgroups=None):
    """Adds to `received`, `anchors` (if given) and writes `mass` and `focus_rows`; `focus` is a range of tokens."""
    defines = {"HEAD_DIM": shape.head_dim, "BLOCK_Q": shape.block_q, "BLOCK_K": shape.block_k, "ANCHORS": int(anchors is not None)}
    grid = (n_blocks(shape, queries), shape.n_heads)
    tail = (kept, lse, mass, received, focus_rows, sentence, weight, anchors, None, first_block, queries.shape[0], shape.n_query_blocks,
            shape.n_tokens, shape.window, shape.n_kv_heads, shape.top_k, focus.start, focus.stop, distance)
    if hopper(shape) if warpgroups is None else warpgroups:
        shared = 1024 + 128 * shape.head_dim * (shape.block_q // 64 + 2) + 4 * shape.top_k + 32 * -(-shape.top_k * shape.block_k // 64)
        maps = (gpu().tensor_map(queries, 64), gpu().tensor_map(keys, shape.block_k))
        gpu().launch("attention_record_sm90.cu", "attention_record", defines, grid, (160,), shared, *maps, *tail)
        return
    shared = 2 * 64 * row_bytes(shape) + 4 * (2 * 64 + shape.top_k)
    gpu().launch("attention_record.cu", "attention_record", defines, grid, (32 * warps(shape, 64),), shared, queries, keys, *tail)


def recall(shape, lse_kept, lse_dense):
    total = new(shape, shape.n_heads, fill=0.0)
    gpu().launch("recall.cu", "recall", {}, (shape.n_heads,), (256,), 0, lse_kept, lse_dense, total, lse_kept.shape[1])
    return total
