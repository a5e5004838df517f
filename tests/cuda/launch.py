"""The kernels as functions on torch tensors: outputs are made here; how they are launched the kernels say themselves."""

import functools

import torch

import params
from device import Kernels
from reference import MEAN_SPREAD, TWO_MEANS

ESTIMATES = ["FIRST", "MIDDLE", "MEAN_SPREAD", "TWO_MEANS"]

GPU = None


def gpu():
    global GPU
    GPU = GPU or Kernels()
    return GPU


def is_hopper():
    return gpu().arch == "90a"


def hopper(shape):
    """Whether the warpgroup kernels take this shape."""
    return is_hopper() and shape.block_q >= 64 and shape.block_k >= 8 and shape.head_dim in (64, 128)


def n_blocks(shape, queries):
    return -(-queries.shape[0] // shape.block_q)


def pointer(x):
    return gpu().pointer(x)


@functools.cache
def budgets_of(n_heads, top_k):
    """Of each head its budget, and those of the heads before it; kept for as long as kernels may read them."""
    return torch.tensor([[top_k, head * top_k] for head in range(n_heads)], dtype=torch.int32, device="cuda")


def mask_of(shape, kept):
    return params.Mask(pointer(kept), pointer(budgets_of(shape.n_heads, shape.top_k)), shape.n_query_blocks, 0)


def sizes_of(shape):
    return params.Sizes(shape.n_tokens, shape.n_kv_heads, shape.window)


def rule_of(shape):
    return params.Rule(shape.sink_blocks, shape.local)


def blocks_of(shape):
    return {"HEAD_DIM": shape.head_dim, "BLOCK_Q": shape.block_q, "BLOCK_K": shape.block_k}


def new(shape, *size, dtype=torch.float32, fill=None):
    """Poisoned memory: what a kernel does not write is seen. With `fill`, what it adds to."""
    x = torch.empty(*size, dtype=dtype, device="cuda")
    if fill is not None:
        return x.fill_(fill)
    return x.fill_(7 if dtype == torch.int32 else float("nan"))


def rms_norm(x, weight, eps, entry="rms_norm"):
    out = new(None, *x.shape, dtype=torch.bfloat16)
    p = params.RmsNormParams(x=pointer(x), weight=pointer(weight), out=pointer(out), n_rows=x.shape[0], hidden=x.shape[1], eps=eps)
    gpu().launch("rms_norm.cu", entry, {}, p, x.shape[0])
    return out


def rope(x, norm_weight, frequency, n_rotated, first_position, eps, turn=1.0, scale=1.0, starts=None, stretch=1):
    rows, heads, dim = x.shape
    out = new(None, *x.shape, dtype=torch.bfloat16)
    p = params.RopeParams(x=pointer(x), norm_weight=pointer(norm_weight), frequency=pointer(frequency), starts=pointer(starts),
                          out=pointer(out), n_heads=heads, n_rotated=n_rotated, first_position=first_position, stretch=stretch, eps=eps, turn=turn, scale=scale)
    gpu().launch("rope.cu", "rope", {"HEAD_DIM": dim}, p, rows, heads)
    return out


def elementwise(entry, p):
    gpu().launch("elementwise.cu", entry, {}, p, p.n_vectors)


def pairwise(entry, x, y):
    out = new(None, *x.shape, dtype=torch.bfloat16)
    elementwise(entry, params.PairParams(x=pointer(x), y=pointer(y), out=pointer(out), n_vectors=x.numel() // 8))
    return out


def swiglu(gate, up):
    return pairwise("swiglu", gate, up)


def geglu(gate, up):
    return pairwise("geglu", gate, up)


def add(x, y):
    return pairwise("add", x, y)


def add_bias(x, bias):
    elementwise("add_bias", params.BiasParams(x=pointer(x), bias=pointer(bias), n_vectors=x.numel() // 8, width=bias.numel()))


def append(keys, values, to_keys, to_values, row, first_row=None):
    """Writes rows from `row` on, or from that in `first_row` `[1]` i32."""
    p = params.AppendParams(keys=pointer(keys), values=pointer(values), to_keys=pointer(to_keys), to_values=pointer(to_values),
                            first_row=pointer(first_row), n_vectors=keys.numel() // 8, row=row, width=keys.shape[1] // 8)
    elementwise("append", p)


def is_finite(x):
    found = new(None, 1, dtype=torch.int32, fill=0)
    elementwise("is_finite", params.FiniteParams(x=pointer(x), found=pointer(found), n_vectors=x.numel() // 8))
    return found.item() == 0


def n_nodes(shape):
    total, level = 0, shape.n_key_blocks
    while level > 1:
        total, level = total + level, -(-level // 2)
    return total + 1


class Pyramid:
    """Means and variances `[n_kv_heads, n_nodes, head_dim]` bf16 and room for the spans' sums."""

    def __init__(self, shape):
        self.defines = {"HEAD_DIM": shape.head_dim, "BLOCK_K": shape.block_k}
        size = (shape.n_kv_heads, n_nodes(shape), shape.head_dim)
        self.mean, self.variance = new(shape, *size, dtype=torch.bfloat16), new(shape, *size, dtype=torch.bfloat16)
        span = gpu().geometry("pyramid.cu", "pyramid_spans", self.defines).items
        self.n_spans = -(-shape.n_key_blocks // span)
        self.spans = new(shape, shape.n_kv_heads, self.n_spans, 2, shape.head_dim)
        self.n_nodes = n_nodes(shape)
        self.in_spans = min(sum(-(-shape.n_key_blocks >> level) for level in range(span.bit_length())), self.n_nodes)

    def build(self, shape, keys):
        p = params.PyramidParams(keys=pointer(keys), means=pointer(self.mean), variances=pointer(self.variance), spans=pointer(self.spans),
                                 n_tokens=shape.n_tokens, n_kv_heads=shape.n_kv_heads, n_spans=self.n_spans, n_nodes=self.n_nodes)
        gpu().launch("pyramid.cu", "pyramid_spans", self.defines, p, shape.n_key_blocks, shape.n_kv_heads)
        if self.n_nodes > self.in_spans:
            gpu().launch("pyramid.cu", "pyramid_top", self.defines, p, self.n_nodes - self.in_spans, shape.n_kv_heads)
        return self

    def nodes(self):
        return params.Nodes(pointer(self.mean), pointer(self.variance), None, self.n_nodes)


class Clusters:
    """Two clusters a node: means `[n_kv_heads, n_nodes, 2, head_dim]` bf16, spreads `[n_kv_heads, n_nodes, 2]` f32."""

    def __init__(self, shape):
        self.n_nodes = n_nodes(shape)
        self.mean = new(shape, shape.n_kv_heads, self.n_nodes, 2, shape.head_dim, dtype=torch.bfloat16)
        self.spread = new(shape, shape.n_kv_heads, self.n_nodes, 2)
        self.sums = new(shape, shape.n_kv_heads, self.n_nodes, 2, 2)

    def build(self, shape, keys):
        defines = {"HEAD_DIM": shape.head_dim, "BLOCK_K": shape.block_k}

        def launch(entry, n, below, n_children):
            p = params.ClusterParams(keys=pointer(keys), means=pointer(self.mean), spreads=pointer(self.spread), sums=pointer(self.sums),
                                     n_tokens=shape.n_tokens, n_kv_heads=shape.n_kv_heads, n_nodes=self.n_nodes, below=below,
                                     n_children=n_children)
            gpu().launch("clusters.cu", entry, defines, p, n, shape.n_kv_heads)

        launch("clusters_of_blocks", shape.n_key_blocks, 0, 0)
        below, n = 0, shape.n_key_blocks
        while n > 1:
            launch("clusters_of_nodes", -(-n // 2), below, n)
            below, n = below + n, -(-n // 2)
        return self

    def nodes(self):
        return params.Nodes(pointer(self.mean), None, pointer(self.spread), self.n_nodes)


def levels_of(shape, x):
    """What nodes have, `[n_kv_heads, n_nodes, ...]`, as a list by level, as the reference takes it."""
    parts, at, n = [], 0, shape.n_key_blocks
    while True:
        parts.append(x[:, at : at + n])
        at += n
        if n == 1:
            return parts
        n = -(-n // 2)


def search_hierarchical(shape, queries, keys, estimate, nodes, kept, n_read, first_block=0, found=None):
    """`nodes`: a Pyramid or Clusters where the estimate reads one; adds to `n_read` `[1]` i64; `found` [n_rows, n_heads], zeroed."""
    defines = {**blocks_of(shape), "ESTIMATE": ESTIMATES[estimate], "RESCORE": int(shape.rescore)}
    reads_nodes = nodes is not None and estimate in (MEAN_SPREAD, TWO_MEANS)
    p = params.SearchParams(queries=pointer(queries), keys=pointer(keys), nodes=nodes.nodes() if reads_nodes else params.Nodes(),
                            mask=mask_of(shape, kept), n_read=pointer(n_read), found=pointer(found), sizes=sizes_of(shape),
                            rule=rule_of(shape), first_block=first_block, beam=shape.beam, down=shape.down, max_frontier=shape.max_frontier)
    gpu().launch("search_hierarchical.cu", "search_hierarchical", defines, p, n_blocks(shape, queries), shape.n_heads, shape.max_frontier)


def search_exhaustive(shape, queries, keys, kept, scores, first_block=0, n_segments=3, place=None):
    """`place` `[2]` i32: length of the prompt and first row of the one query block, wherever `first_block` says."""
    defines, n = {**blocks_of(shape), "ESTIMATE": "FIRST"}, n_blocks(shape, queries)
    norms = new(shape, shape.n_heads * n * n_segments * shape.block_q)
    p = params.ExhaustiveParams(queries=pointer(queries), keys=pointer(keys), norms=pointer(norms), scores=pointer(scores), place=pointer(place),
                                mask=mask_of(shape, kept), sizes=sizes_of(shape), rule=rule_of(shape), n_segments=n_segments,
                                first_block=first_block)
    for entry, items in (("exhaustive_norms", n * n_segments), ("exhaustive_scores", n * n_segments), ("exhaustive_select", n)):
        gpu().launch("search_exhaustive.cu", entry, defines, p, items, shape.n_heads)


def attention(shape, queries, keys, values, kept, out, lse, first_block=0, warpgroups=None, sinks=None, n_parts=1, place=None):
    """Sparse over `kept`, or dense if it is None; several thread blocks share a row's keys if `n_parts` is more than 1."""
    entry = "attention_dense" if kept is None else "attention_sparse"
    on_hopper = hopper(shape) if warpgroups is None else warpgroups
    rest = {"mask": mask_of(shape, kept), "out": pointer(out), "lse": pointer(lse), "sinks": pointer(sinks), "rows": params.Rows(first_block, queries.shape[0]),
            "sizes": sizes_of(shape)}
    if on_hopper:
        p = params.AttentionMapParams(gpu().tensor_map(queries, 64), gpu().tensor_map(keys, shape.block_k),
                                      gpu().tensor_map(values, shape.block_k), **rest)
    else:
        p = params.AttentionParams(pointer(queries), pointer(keys), pointer(values), **rest)
    if n_parts > 1:
        outs, lses = new(shape, n_parts, *out.shape), new(shape, n_parts, *lse.shape)
        in_parts = params.AttentionPartsParams(p, params.Parts(pointer(outs), pointer(lses), n_parts), pointer(place))
        gpu().launch("attention.cu", entry + "_parts", blocks_of(shape), in_parts, n_blocks(shape, queries) * n_parts, shape.n_heads)
        gpu().launch("attention.cu", "attention_of_parts", blocks_of(shape), in_parts, queries.shape[0], shape.n_heads)
        return
    file = "attention_sm90.cu" if on_hopper else "attention.cu"
    gpu().launch(file, entry, blocks_of(shape), p, n_blocks(shape, queries), shape.n_heads)


def limits_of(sentence, distance):
    """Of each token where the first sentence starts that is less than `distance` before its own, `[n_tokens]` i32; or None."""
    return None if sentence is None else torch.searchsorted(sentence, sentence - distance + 1).int()


def record(shape, queries, keys, kept, lse, mass, received, focus_rows, focus, sentence=None, weight=None, anchors=None, distance=4,
           first_block=0, warpgroups=None, all_keys=False):
    """Adds to `received`, `anchors` (if given) and writes `mass` and `focus_rows`, without `all_keys`; `focus` is a range of tokens."""
    on_hopper, limits = hopper(shape) if warpgroups is None else warpgroups, limits_of(sentence, distance)
    rest = {"mask": mask_of(shape, kept), "lse": pointer(lse), "mass": pointer(mass), "received": pointer(received), "shares": None,
            "focus": params.Focus(pointer(focus_rows), focus.start, focus.stop),
            "anchors": params.Anchors(pointer(limits), pointer(weight), pointer(anchors)),
            "rows": params.Rows(first_block, queries.shape[0]), "sizes": sizes_of(shape)}
    if on_hopper:
        p = params.RecordMapParams(gpu().tensor_map(queries, 64), gpu().tensor_map(keys, shape.block_k), **rest)
    else:
        p = params.RecordParams(pointer(queries), pointer(keys), **rest)
    file = "attention_record_sm90.cu" if on_hopper else "attention_record.cu"
    defines = {**blocks_of(shape), "ANCHORS": int(anchors is not None), "ALL_KEYS": int(all_keys)}
    gpu().launch(file, "attention_record", defines, p, n_blocks(shape, queries), shape.n_heads, 0 if all_keys else shape.top_k)


def attention_recorded(shape, queries, keys, values, kept, found, out, lse, mass, received, focus_rows, focus, sentence=None, weight=None,
                       anchors=None, distance=4, first_block=0, sinks=None):
    """Attention over `kept` and its record, as `attention` and `record` give them; `found` as of `search_hierarchical`, or None."""
    mask, rows, sizes = mask_of(shape, kept), params.Rows(first_block, queries.shape[0]), sizes_of(shape)
    q, k, v, limits = pointer(queries), pointer(keys), pointer(values), limits_of(sentence, distance)
    p = params.AttentionRecordedParams(
        params.AttentionParams(q, k, v, mask, pointer(out), pointer(lse), pointer(sinks), rows, sizes),
        params.RecordParams(q, k, mask, pointer(lse), pointer(mass), pointer(received), None,
                            params.Focus(pointer(focus_rows), focus.start, focus.stop),
                            params.Anchors(pointer(limits), pointer(weight), pointer(anchors)), rows, sizes),
        pointer(found))
    defines = {**blocks_of(shape), "ANCHORS": int(anchors is not None), "ALL_KEYS": 0}
    gpu().launch("attention_recorded.cu", "attention_recorded", defines, p, n_blocks(shape, queries), shape.n_heads, shape.top_k)


def sample(shape, queries, keys, blocks, kept, n_segments=3, n_bins=128):
    """Of sampled query blocks: masses [n_sampled, n_heads, n_key_blocks] i32, 2^31 is 1; counts and sums [n_heads, n_sampled, n_bins];
    what of them falls on kept blocks, [n_heads, n_sampled]."""
    defines = {**blocks_of(shape), "ESTIMATE": "FIRST"}
    masses = new(shape, len(blocks), shape.n_heads, shape.n_key_blocks, dtype=torch.int32, fill=0)
    norms = new(shape, shape.n_heads, len(blocks) * n_segments, shape.block_q)
    listed = torch.tensor(blocks, dtype=torch.int32, device="cuda")
    rows = queries[[token for block in blocks for token in shape.queries(block)]].contiguous()
    p = params.SampleParams(queries=pointer(rows), keys=pointer(keys), sample=pointer(listed), norms=pointer(norms), masses=pointer(masses),
                            sizes=sizes_of(shape), n_segments=n_segments)
    for entry in ("sample_norms", "sample_masses"):
        gpu().launch("sample.cu", entry, defines, p, len(blocks) * n_segments, shape.n_heads)
    counts, sums = (new(shape, shape.n_heads, len(blocks), n_bins, dtype=torch.int32) for _ in range(2))
    p = params.HistogramParams(masses=pointer(masses), sample=pointer(listed), counts=pointer(counts), sums=pointer(sums),
                               sizes=sizes_of(shape), rule=rule_of(shape))
    gpu().launch("sample.cu", "sample_histogram", defines, p, len(blocks), shape.n_heads)
    on_kept = new(shape, shape.n_heads, len(blocks), dtype=torch.int32, fill=0)
    p = params.SampleRecallParams(masses=pointer(masses), sample=pointer(listed), recall=pointer(on_kept), mask=mask_of(shape, kept),
                                  sizes=sizes_of(shape))
    gpu().launch("sample.cu", "sample_recall", defines, p, len(blocks), shape.n_heads)
    torch.cuda.synchronize()
    return masses, counts, sums, on_kept


def recall(shape, lse_kept, lse_dense, sinks=None):
    total = new(shape, shape.n_heads, fill=0.0)
    p = params.RecallParams(lse_kept=pointer(lse_kept), lse_dense=pointer(lse_dense), sinks=pointer(sinks), recall=pointer(total),
                            n_rows=lse_kept.shape[1])
    gpu().launch("recall.cu", "recall", {}, p, shape.n_heads)
    return total


def on_sink(shape, lse, sinks, mass, first_block):
    n_rows = lse.shape[1]
    p = params.OnSinkParams(lse=pointer(lse), sinks=pointer(sinks), mass=pointer(mass), n_rows=n_rows, block_size=shape.block_q,
                            first_block=first_block, n_query_blocks=shape.n_query_blocks)
    gpu().launch("recall.cu", "on_sink", {}, p, -(-n_rows // shape.block_q), shape.n_heads)


def experts(entry, p, n):
    gpu().launch("experts.cu", entry, {}, p, n)


class Routes:
    """What rows take: `counts` by expert, `rows` and `of_rows` (weights) by place, `places` and `weights` by row."""

    def __init__(self, counts, rows, of_rows, places, weights):
        self.counts, self.rows, self.of_rows, self.places, self.weights = counts, rows, of_rows, places, weights

    def of_expert(self, expert):
        """The rows that an expert takes, and their weights."""
        start = int(self.counts[:expert].sum())
        places = slice(start, start + int(self.counts[expert]))
        return self.rows.flatten()[places], self.of_rows.flatten()[places]


def route(logits, top_k, bias=None, correction=None, sigmoid=False, normalised=False, n_groups=1, top_groups=1, scale=1.0):
    n_rows, n_experts = logits.shape
    chosen, places, rows = (new(None, n_rows, top_k, dtype=torch.int32) for _ in range(3))
    weights, of_rows = (new(None, n_rows, top_k) for _ in range(2))
    counts = new(None, n_experts, dtype=torch.int32, fill=0)
    p = params.RouteParams(logits=pointer(logits), bias=pointer(bias), correction=pointer(correction), chosen=pointer(chosen),
                           weights=pointer(weights), places=pointer(places), counts=pointer(counts), n_rows=n_rows, n_experts=n_experts,
                           top_k=top_k, sigmoid=sigmoid, normalised=normalised, n_groups=n_groups, top_groups=top_groups, scale=scale)
    experts("route", p, n_rows)
    p = params.ListParams(chosen=pointer(chosen), weights=pointer(weights), places=pointer(places), counts=pointer(counts),
                          rows=pointer(rows), of_rows=pointer(of_rows), n=n_rows * top_k, top_k=top_k)
    experts("rows_by_expert", p, n_rows * top_k)
    torch.cuda.synchronize()
    return Routes(counts, rows, of_rows, places, weights)


def gather_rows(x, rows):
    out = new(None, len(rows), x.shape[1], dtype=torch.bfloat16)
    experts("gather_rows", params.GatherParams(x=pointer(x), rows=pointer(rows), out=pointer(out), width=x.shape[1]), len(rows))
    return out


def add_scattered(total, part, rows, weights):
    p = params.ScatterParams(sum=pointer(total), part=pointer(part), rows=pointer(rows), weights=pointer(weights), width=part.shape[1])
    experts("add_scattered", p, len(rows))


class OfExperts:
    """Pairs of tensors, one for each expert, and where they lie."""

    def __init__(self, first, second):
        self.held, self.shape = [*first, *second], first[0].shape
        addresses = [[x.data_ptr() for x in pair] for pair in zip(first, second)]
        self.addresses = torch.tensor(addresses, dtype=torch.int64, device="cuda")


def grouped(entry, x, routes, weights, biases=None, activation="gated_silu", limit=0.0, out=None, warpgroups=None):
    """`weights` of experts are [n_out, n_in], `biases` [n_out]. `warpgroups` says whether Hopper's kernel runs."""
    file = "grouped_sm90.cu" if (is_hopper() if warpgroups is None else warpgroups) else "grouped.cu"
    (n_out, n_in), n_experts, n_places = weights.shape, len(weights.addresses), routes.rows.numel()
    out = new(None, n_places, n_out, dtype=torch.bfloat16) if out is None else out
    p = params.GroupedParams(x=pointer(x), rows=pointer(routes.rows) if entry == "grouped_gate" else None, counts=pointer(routes.counts),
                             weights=pointer(weights.addresses), biases=biases and pointer(biases.addresses), out=pointer(out),
                             n_experts=n_experts, n_in=n_in, n_out=n_out, limit=limit)
    defines = {"ACTIVATION": activation}
    gpu().launch(file, entry, defines, p, n_out, n_places + n_experts * gpu().geometry(file, entry, defines).heads)
    return out


def sum_of_experts(part, routes):
    n_rows, top_k = routes.places.shape
    out = new(None, n_rows, part.shape[1], dtype=torch.bfloat16)
    p = params.SumParams(part=pointer(part), places=pointer(routes.places), weights=pointer(routes.weights), out=pointer(out),
                         width=part.shape[1], top_k=top_k)
    experts("sum_of_experts", p, n_rows)
    return out


def times_sigmoid(y, x, gate):
    p = params.SigmoidParams(y=pointer(y), x=pointer(x), gate=pointer(gate), width=y.shape[1], inner=x.shape[1])
    experts("times_sigmoid", p, y.shape[0])


def clamped_swiglu(gate, up, limit):
    out = new(None, *gate.shape, dtype=torch.bfloat16)
    elementwise("clamped_swiglu", params.ClampedParams(x=pointer(gate), y=pointer(up), out=pointer(out), n_vectors=gate.numel() // 8,
                                                       limit=limit))
    return out


def dequantize(format, blocks, n_rows, width, head_dim=0, factor=1.0, offset=0.0):
    """`blocks` [n_rows, bytes of a row] u8 to [n_rows, width] bf16."""
    out = torch.empty(n_rows, width, device="cuda", dtype=torch.bfloat16)
    p = params.DequantizeParams(pointer(blocks), pointer(out), n_rows * width // 8, width, head_dim, factor, offset)
    gpu().launch("dequantize.cu", "dequantize", {"FORMAT": format}, p, n_rows * width // 8, 1)
    return out
