"""Checks every kernel on the GPU at hand against reference.py. Prints a line a kernel and shape; exits 1 if one fails.

usage: python3 check.py [--few] [--seed N]      (--few: small shapes for compute-sanitizer)
"""

import dataclasses
import sys

import torch

import launch
import reference
from reference import FIRST, MEAN_SPREAD, MIDDLE, NONE, TWO_MEANS, Shape

SEED = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
FEW = "--few" in sys.argv
FAILED = []

#      T   bq  bk  H  G   D  top_k sinks local window beam down rescore
SHAPES = [
    Shape(1, 16, 8, 1, 1, 64, 4),
    Shape(100, 128, 64, 2, 1, 128, 4),
    Shape(500, 32, 8, 4, 2, 64, 12, 2, 4),
    Shape(777, 64, 32, 4, 1, 128, 6),
    Shape(1000, 128, 64, 4, 2, 128, 6),
    Shape(1000, 128, 8, 2, 2, 64, 24, 1, 16),
    Shape(700, 16, 16, 2, 1, 96, 7, 1, 2, beam=12),
    Shape(600, 16, 64, 2, 2, 256, 3),
    Shape(901, 64, 16, 2, 1, 256, 9, 0, 4),
    Shape(2100, 128, 16, 2, 1, 128, 20, 2, 8, window=900),
    Shape(1500, 32, 32, 3, 3, 64, 6, 1, 1, window=700, beam=9),
    Shape(1111, 64, 64, 2, 1, 64, 5, 1, 2, window=500),
    Shape(3000, 64, 8, 2, 1, 128, 40, 4, 16, beam=64),
    Shape(2000, 32, 8, 2, 1, 64, 30, 1, 6, beam=16, down=2, rescore=True),
    Shape(1900, 16, 16, 2, 2, 96, 14, 1, 2, beam=4, down=2, rescore=True, window=1100),
    Shape(2500, 64, 8, 2, 1, 64, 20, 1, 6, beam=8, down=3, rescore=True, window=1500),
    Shape(3001, 128, 16, 2, 1, 128, 16, 1, 2, beam=8, down=2, rescore=True),
    Shape(1600, 32, 8, 4, 1, 128, 40, 1, 6, beam=16, down=2, rescore=True),
    Shape(1300, 32, 8, 2, 1, 256, 24, 1, 6, beam=16, down=2, rescore=True),
    Shape(1500, 16, 4, 4, 2, 64, 60, 1, 4, beam=16, down=2, rescore=True),
    Shape(901, 32, 4, 2, 1, 128, 30, 2, 8, beam=16, down=2, rescore=True, window=400),
    Shape(700, 64, 4, 2, 1, 96, 40, 1, 16, beam=8, down=1),
    Shape(2600, 128, 8, 1, 1, 64, 100, 1, 16, beam=16, down=2, rescore=True),  # more than the search can hold
]


def report(name, shape, ok, note):
    print(f"{'ok  ' if ok else 'FAIL'} {name:44} {note:36} {shape if shape else ''}", flush=True)
    if not ok:
        FAILED.append(name)


def error(got, want):
    """Relative error; NaN counts as infinite."""
    value = ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-12)).item()
    return value if value == value else float("inf")


def close(name, shape, got, want, tolerance):
    e = error(got, want)
    report(name, shape, e < tolerance, f"error {e:.1e} (at most {tolerance:.0e})")


def inputs(shape, generator, whole):
    """Queries, keys and values; `whole`: small integers, so that every product is exact and ties abound."""
    def one(heads):
        size = (shape.n_tokens, heads, shape.head_dim)
        if whole:
            return torch.randint(-1, 2, size, generator=generator, device="cuda").bfloat16()
        return torch.randn(size, generator=generator, device="cuda").bfloat16()
    return one(shape.n_heads), one(shape.n_kv_heads), one(shape.n_kv_heads)


def as_mask(kept):
    return kept.long() & NONE


def new_mask(shape):
    return launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k, dtype=torch.int32)


def chunks(shape, x):
    """Query blocks in two chunks, as a layer that never holds all queries would send them."""
    first = shape.n_query_blocks // 2
    parts = [(0, x[: first * shape.block_q]), (first, x[first * shape.block_q :])]
    return [(b, part.contiguous()) for b, part in parts if part.shape[0]]


def same_masks(name, shape, got, want, share):
    rows = (got == want).all(-1).double().mean().item()
    report(name, shape, rows >= share, f"rows equal {rows:.4f} (at least {share})")


def check_pyramids(shape, k, kind):
    """What estimates read, after it was compared with the reference: by estimate `(nodes, means, spreads)`."""
    pyramid, clusters = launch.Pyramid(shape).build(shape, k), launch.Clusters(shape).build(shape, k)
    means, variances = reference.pyramid(k, shape.block_k)
    close(f"pyramid mean, {kind}", shape, pyramid.mean, torch.cat(means, 1), 3e-3)
    close(f"pyramid variance, {kind}", shape, pyramid.variance, torch.cat(variances, 1), 3e-3)
    if kind == "normal":  # between whole numbers, ties abound
        of_clusters = [torch.cat(x, 1).cuda() for x in reference.clusters(k, shape.block_k)]
        means, spreads = ordered_alike(clusters.mean, *of_clusters)
        apart = (clusters.mean.double() - means).norm(dim=-1) / means.norm(dim=-1) + (clusters.spread - spreads).abs() / spreads.abs().clamp_min(1e-6)
        same = (apart < 0.05).double().mean().item()  # means rounded to bf16 may turn which two are merged
        report("clusters", shape, same > 0.9, f"the same {same:.3f} (at least 0.9)")
    of_level = lambda x: launch.levels_of(shape, x)
    return {
        FIRST: (None, None, None),
        MIDDLE: (None, None, None),
        MEAN_SPREAD: (pyramid, of_level(pyramid.mean), of_level(pyramid.variance)),
        TWO_MEANS: (clusters, of_level(clusters.mean), of_level(clusters.spread)),
    }


def ordered_alike(got, means, spreads):
    """The reference's two clusters of each node in the order of the kernel's."""
    apart = lambda x: (got.double() - x).norm(dim=-1).sum(-1)
    turned = (apart(means.flip(2)) < apart(means))[..., None]
    return torch.where(turned[..., None], means.flip(2), means), torch.where(turned, spreads.flip(2), spreads)


def check_search(shape, generator):
    for whole in (True, False):
        q, k, _ = inputs(shape, generator, whole)
        kind = "whole numbers" if whole else "normal"
        nodes = check_pyramids(shape, k, kind)
        for estimate, name in ((FIRST, "first"), (MIDDLE, "middle"), (MEAN_SPREAD, "mean_spread"), (TWO_MEANS, "two_means")):
            pyramid, means, spreads = nodes[estimate]
            want, want_read = reference.search_hierarchical(shape, q, k, estimate, means, spreads)
            exact = whole and estimate in (FIRST, MIDDLE) and not shape.rescore  # sums of rounded means are not exact in f32: near ties may turn
            kept, n_read = new_mask(shape), torch.zeros(1, dtype=torch.int64, device="cuda")
            for first, part in chunks(shape, q):
                launch.search_hierarchical(shape, part, k, estimate, pyramid, kept, n_read, first)
            label = f"search {name}, {kind}"
            same_masks(label, shape, as_mask(kept.cpu()), want, 1.0 if exact else 0.95)
            # Which ranges are kept at the edges decides how many are read after them.
            report(f"{label}: rows read", shape, abs(n_read.item() - want_read) <= 0.001 * want_read, f"{n_read.item()}, expected {want_read}")
        kept, scores = new_mask(shape), launch.new(shape, shape.n_heads * shape.n_query_blocks * shape.n_key_blocks, dtype=torch.int32)
        for first, part in chunks(shape, q):
            launch.search_exhaustive(shape, part, k, kept, scores, first)
        same_masks(f"search exhaustive, {kind}", shape, as_mask(kept.cpu()), reference.search_exhaustive(shape, q, k), 0.95)


def check_placed(shape, generator):
    """Kernels that look up where their query block is do what others do there."""
    q, k, v = inputs(shape, generator, False)
    block = (shape.n_query_blocks - 1) // 2
    first = block * shape.block_q
    length = first + shape.block_q // 2 + 1
    if first + shape.block_q > shape.n_tokens:
        return
    now, as_last = dataclasses.replace(shape, n_tokens=length), shape.n_query_blocks - 1
    place = torch.tensor([length, first], dtype=torch.int32, device="cuda")
    rows, rows_now = q[first : first + shape.block_q].contiguous(), q[first:length].contiguous()
    kept, kept_now = new_mask(shape), new_mask(now)
    scores = launch.new(shape, shape.n_heads * shape.n_key_blocks, dtype=torch.int32)
    launch.search_exhaustive(now, rows_now, k, kept_now, scores, block)
    launch.search_exhaustive(shape, rows, k, kept, scores, as_last, place=place)
    report("search, placed", shape, torch.equal(kept[:, block], kept_now[:, block]), "equal")
    at = torch.tensor([length, length - 1], dtype=torch.int32, device="cuda")
    row, one = q[length - 1 : length].contiguous(), dataclasses.replace(shape, block_q=16)
    out_row, lse_row = torch.empty_like(row), launch.new(shape, shape.n_heads, 1)
    launch.attention(one, row, k, v, None, out_row, lse_row, one.n_query_blocks - 1, False, None, 5, at)
    for name, placed, there in (("sparse", kept, kept_now), ("dense", None, None)):
        out, out_now = torch.empty_like(rows), torch.empty_like(rows_now)
        lse, lse_now = (launch.new(shape, shape.n_heads, x.shape[0]) for x in (rows, rows_now))
        launch.attention(shape, rows, k, v, placed, out, lse, as_last, False, None, 5, place)
        launch.attention(now, rows_now, k, v, there, out_now, lse_now, block, False, None, 5)
        close(f"attention {name}, placed", shape, out[: length - first], out_now.double(), 6e-3)
        close(f"attention {name} lse, placed", shape, lse[:, : length - first], lse_now.double(), 1e-4)
    close("attention of a row, placed", shape, out_row, out_now[-1:].double(), 6e-3)
    close("attention of a row lse, placed", shape, lse_row, lse_now[:, -1:].double(), 1e-4)


def check_attention(shape, generator):
    q, k, v = inputs(shape, generator, False)
    kept, found = new_mask(shape), launch.new(shape, shape.n_tokens, shape.n_heads, fill=0.0)
    launch.search_hierarchical(shape, q, k, MIDDLE, None, kept, torch.zeros(1, dtype=torch.int64, device="cuda"), 0, found)
    mask = as_mask(kept.cpu())
    sentence = (torch.arange(shape.n_tokens, device="cuda") // 23).int()
    weight = 1.0 / torch.bincount(sentence)[sentence.long()].float()
    focus = range(max(shape.n_tokens - 33, 0), shape.n_tokens - 1)
    sinks = torch.randn(shape.n_heads, generator=generator, device="cuda") * 3 if shape.n_tokens % 2 else None
    want_out, want_lse, p = reference.attention(shape, q, k, v, mask, sinks)
    want = reference.record(shape, mask, p, focus, sentence, 4)
    dense_out, dense_lse, dense_p = reference.attention(shape, q, k, v, None, sinks)
    check_recorded(shape, (q, k, v), kept, found, sinks, (focus, sentence, weight), (want_out, want_lse, *want))
    kinds = [("warps", False, 1), ("parts", False, 5)] + [("warpgroups", True, 1)] * launch.hopper(shape)
    for kind, warpgroups, n_parts in kinds:
        outs, lses, dense, dense_lses = [], [], [], []
        mass = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k)
        of_sinks = launch.new(shape, shape.n_heads, shape.n_query_blocks)
        received, anchors = (launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0) for _ in range(2))
        rows = launch.new(shape, shape.n_heads, max(len(focus), 1), shape.top_k * shape.block_k, fill=0.0)
        for first, part in chunks(shape, q):
            for kept_or_none, all_outs, all_lses in ((kept, outs, lses), (None, dense, dense_lses)):
                out, lse = launch.new(shape, *part.shape, dtype=torch.bfloat16), launch.new(shape, shape.n_heads, part.shape[0])
                launch.attention(shape, part, k, v, kept_or_none, out, lse, first, warpgroups, sinks, n_parts)
                all_outs.append(out), all_lses.append(lse)
            launch.record(shape, part, k, kept, lses[-1], mass, received, rows, focus, sentence, weight, anchors, 4, first, warpgroups)
            if sinks is not None:
                launch.on_sink(shape, lses[-1], sinks, of_sinks, first)
        lse, lse_dense = torch.cat(lses, 1), torch.cat(dense_lses, 1)
        close(f"attention sparse, {kind}", shape, torch.cat(outs), want_out, 6e-3)
        close(f"attention sparse lse, {kind}", shape, lse, want_lse, 1e-4)
        close(f"attention dense, {kind}", shape, torch.cat(dense), dense_out, 6e-3)
        close(f"attention dense lse, {kind}", shape, lse_dense, dense_lse, 1e-4)
        close(f"record mass, {kind}", shape, mass, want[0], 1e-3)
        if sinks is not None:
            close(f"record on sinks, {kind}", shape, of_sinks, reference.on_sink(shape, p), 1e-3)
        close(f"record received, {kind}", shape, received, want[1], 1e-3)
        if len(focus):
            close(f"record focus, {kind}", shape, rows, want[2], 1e-3)
        close(f"record anchors, {kind}", shape, anchors, want[3], 1e-3)
        plain = launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0)
        launch.record(shape, q, k, kept, lse, mass, plain, rows, focus, warpgroups=warpgroups)
        close(f"record received alone, {kind}", shape, plain, want[1], 1e-3)
        received, anchors = (launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0) for _ in range(2))
        launch.record(shape, q, k, kept, lse_dense, None, received, None, range(0), sentence, weight, anchors, 4, 0, warpgroups, True)
        of_all = reference.received(dense_p, sentence, 4)
        close(f"record received, all keys, {kind}", shape, received, of_all[0], 1e-3)
        close(f"record anchors, all keys, {kind}", shape, anchors, of_all[1], 1e-3)
        got = launch.recall(shape, lse, lse_dense, sinks)
        close(f"recall, {kind}", shape, got, reference.recall(dense_p, reference.kept_keys(shape, mask, "cuda")), 1e-3)


def check_recorded(shape, inputs, kept, found, sinks, of_record, want):
    """Attention and its record in one pass, with the search's log-sum-exps and without."""
    (q, k, v), (focus, sentence, weight) = inputs, of_record
    if sinks is None:
        known = found != 0
        close("search, log-sum-exps", shape, torch.where(known, found, want[1].T.to(found).float()), want[1].T.double(), 1e-4)
        has_room = shape.rescore and shape.top_k * 5 // 4 < 11264 // shape.block_q
        report("search, log-sum-exps", shape, known.any().item() == has_room, f"{known.double().mean().item():.3f} known")
    for kind, norms in (("found", found), ("not found", None)):
        mass = launch.new(shape, shape.n_heads, shape.n_query_blocks, shape.top_k)
        received, anchors = (launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0) for _ in range(2))
        rows = launch.new(shape, shape.n_heads, max(len(focus), 1), shape.top_k * shape.block_k, fill=0.0)
        outs, lses = [], []
        for first, part in chunks(shape, q):
            out, lse = launch.new(shape, *part.shape, dtype=torch.bfloat16), launch.new(shape, shape.n_heads, part.shape[0])
            of_part = None if norms is None else norms[first * shape.block_q :][: part.shape[0]].contiguous()
            launch.attention_recorded(shape, part, k, v, kept, of_part, out, lse, mass, received, rows, focus, sentence, weight, anchors, 4,
                                      first, sinks)
            outs.append(out), lses.append(lse)
        got = [torch.cat(outs), torch.cat(lses, 1), mass, received, rows, anchors]
        names = ["out", "lse", "mass", "received", "focus", "anchors"]
        for name, one, expected, tolerance in zip(names, got, want, (6e-3, 1e-4, 1e-3, 1e-3, 1e-3, 1e-3)):
            if name != "focus" or len(focus):
                close(f"attention recorded, {name}, {kind}", shape, one, expected, tolerance)
        plain = launch.new(shape, shape.n_heads, shape.n_tokens, fill=0.0)
        out, lse = torch.empty_like(q), launch.new(shape, shape.n_heads, shape.n_tokens)
        launch.attention_recorded(shape, q, k, v, kept, norms, out, lse, mass, plain, rows, focus, sinks=sinks)
        close(f"attention recorded, received alone, {kind}", shape, plain, want[3], 1e-3)


def check_sample(shape, generator):
    q, k, v = inputs(shape, generator, False)
    kept = new_mask(shape)
    launch.search_hierarchical(shape, q, k, MIDDLE, None, kept, torch.zeros(1, dtype=torch.int64, device="cuda"))
    blocks = sorted({0, shape.n_query_blocks // 2, shape.n_query_blocks - 1})
    p = reference.attention(shape, q, k, v)[2]
    want = reference.masses(shape, p, blocks)
    masses, counts, sums, on_kept = launch.sample(shape, q, k, blocks, kept)
    got = (masses.long() & 0xFFFFFFFF).double() / 2**31
    close("sample masses", shape, got, want, 1e-3)
    of_got = reference.histogram(shape, got, blocks, counts.shape[2])
    same = (counts.cpu() - of_got).abs().sum().item() <= 0.01 * of_got.sum().item()  # masses at the edge of a bin may turn
    report("sample histogram", shape, same and counts.sum().item() == of_got.sum().item(), f"{counts.sum().item()} candidates")
    close("sample sums", shape, (sums.long() & 0xFFFFFFFF).sum(-1).double() / 2**31,
          torch.stack([got[i, :, slice(*shape.candidates(b)[:2])].sum(-1) for i, b in enumerate(blocks)], 1), 1e-6)
    mask = reference.kept_keys(shape, as_mask(kept.cpu()), "cuda")
    want = torch.stack([(p * mask)[:, list(shape.queries(b))].sum(2).mean(1) for b in blocks], 1)
    close("sample recall", shape, (on_kept.long() & 0xFFFFFFFF).double() / 2**31, want, 1e-3)


def check_rest(generator):
    def normal(*size):
        return torch.randn(size, generator=generator, device="cuda").bfloat16()
    x, weight, y = normal(37, 1032), normal(1032), normal(37, 1032)
    for entry in ("rms_norm", "rms_norm_of_few"):
        close(entry, None, launch.rms_norm(x, weight, 1e-5, entry), reference.rms_norm(x, weight, 1e-5), 3e-3)
    close("swiglu", None, launch.swiglu(x, y), reference.swiglu(x, y), 3e-3)
    close("geglu", None, launch.geglu(x, y), reference.geglu(x, y), 3e-3)
    close("clamped_swiglu", None, launch.clamped_swiglu(x, y, 0.7), reference.clamped_swiglu(x, y, 0.7), 3e-3)
    report("add", None, torch.equal(launch.add(x, y), x + y), "equal")
    want = y + weight
    launch.add_bias(y, weight)
    report("add_bias", None, torch.equal(y, want), "equal")
    rows, kept = normal(2, 7, 32), torch.zeros(2, 20, 32, device="cuda", dtype=torch.bfloat16)
    launch.append(rows[0], rows[1], kept[0], kept[1], 3)
    launch.append(rows[1], rows[0], kept[0], kept[1], 0, torch.tensor([11], dtype=torch.int32, device="cuda"))
    report("append", None, torch.equal(kept[:, 3:10], rows) and torch.equal(kept[:, 11:18], rows.flip(0)) and kept[:, [2, 10, 18]].eq(0).all().item(), "equal")
    report("is_finite", None, launch.is_finite(x), "finite")
    for odd in (float("nan"), float("-inf"), 1e17):
        x[36, 1031] = odd
        report("is_finite", None, not launch.is_finite(x), f"sees {odd}")
    for dim, n_rotated, normed in ((64, 64, True), (96, 48, False), (128, 128, True), (256, 256, False)):
        x, weight = normal(21, 6, dim), normal(dim)
        frequency = 10000.0 ** (-torch.arange(n_rotated // 2, device="cuda", dtype=torch.float64) * 2 / n_rotated)
        start = reference.rms_norm(x, weight, 1e-6).bfloat16() if normed else x
        turn, scale = (1.0, 1.0) if n_rotated == dim else (1.2, 0.7)
        want = reference.rope(start, frequency, 999_990, n_rotated, turn, scale)
        got = launch.rope(x, weight if normed else None, frequency, n_rotated, 999_990, 1e-6, turn, scale)
        close("rope with norm" if normed else "rope", f"head dim {dim}, rotated {n_rotated}", got, want, 4e-3)


def check_grouped(normal, label, routes, n_rows):
    n_experts, hidden, inner = len(routes.counts), 72, 200
    experts = torch.repeat_interleave(torch.arange(n_experts, device="cuda"), routes.counts)
    x = normal(n_rows, hidden).bfloat16()
    gate, up = ([(normal(inner, hidden) / hidden**0.5).bfloat16() for _ in range(n_experts)] for _ in range(2))
    down = [(normal(hidden, inner) / inner**0.5).bfloat16() for _ in range(n_experts)]
    of_gate, of_up, of_down = ([normal(n).bfloat16() for _ in range(n_experts)] for n in (inner, inner, hidden))
    rows, gate_up, downs = x[routes.rows.flatten().long()], launch.OfExperts(gate, up), launch.OfExperts(down, down)
    gate_up_biases, down_biases = launch.OfExperts(of_gate, of_up), launch.OfExperts(of_down, of_down)
    for warpgroups in (False, True) if launch.is_hopper() else (False,):
        on = ", warpgroups" if warpgroups else ""
        for name, biased, gated in (("gated_silu", False, reference.swiglu), ("gated_gelu", False, reference.geglu),
                                    ("gated_clamped", True, lambda g, u: reference.clamped_swiglu(g, u, 0.7))):
            want = gated(*(reference.grouped(rows, experts, w, b if biased else None) for w, b in ((gate, of_gate), (up, of_up))))
            biases = gate_up_biases if biased else None
            got = launch.grouped("grouped_gate", x, routes, gate_up, biases, name, 0.7, warpgroups=warpgroups)
            close(f"grouped_gate, {name}{on}", label, got, want, 4e-3)
        want = reference.grouped(got, experts, down, of_down)
        part = launch.grouped("grouped_down", got, routes, downs, down_biases, warpgroups=warpgroups)
        close(f"grouped_down{on}", label, part, want, 4e-3)
    want = (part[routes.places.long()].double() * routes.weights.double()[..., None]).sum(1)
    close("sum_of_experts", label, launch.sum_of_experts(part, routes), want, 4e-3)


def check_experts(generator):
    def normal(*size):
        return torch.randn(size, generator=generator, device="cuda")
    for n_rows, n_experts, top_k, how in (
        (1, 8, 2, {"normalised": True}),
        (77, 60, 4, {}),
        (1000, 128, 8, {"normalised": True, "scale": 2.5}),
        (333, 32, 4, {"normalised": True, "bias": normal(32).bfloat16()}),
        (333, 160, 6, {"sigmoid": True, "correction": normal(160) * 0.1, "n_groups": 8, "top_groups": 3, "normalised": True}),
        (5, 512, 32, {"sigmoid": True}),
    ):
        logits, label = normal(n_rows, n_experts), f"{n_rows} rows, {top_k} of {n_experts}"
        want = reference.route(logits, top_k, **how)
        routes = launch.route(logits, top_k, **how)
        got = torch.zeros(n_rows, n_experts, dtype=torch.float64, device="cuda")
        for expert in range(n_experts):
            rows, weights = routes.of_expert(expert)
            got[rows.long(), expert] = weights.double()
        report("route", label, bool((routes.counts == (want > 0).sum(0)).all()), "rows by expert")
        close("route weights", label, got, want, 1e-5)
        x, total = normal(n_rows, 72).bfloat16(), normal(n_rows, 72).bfloat16()
        rows, weights = routes.of_expert(int(routes.counts.argmax()))
        gathered = launch.gather_rows(x, rows)
        report("gather_rows", label, torch.equal(gathered, x[rows.long()]), "equal")
        sums = total.double().index_add(0, rows.long(), gathered.double() * weights.double()[:, None])
        launch.add_scattered(total, gathered, rows, weights)
        close("add_scattered", label, total, sums, 3e-3)
        check_grouped(normal, label, routes, n_rows)
    y, x, gate = normal(37, 1032).bfloat16(), normal(37, 2056).bfloat16(), (normal(2056) / 40).bfloat16()
    want = y.double() * (x.double() @ gate.double()).sigmoid()[:, None]
    launch.times_sigmoid(y, x, gate)
    close("times_sigmoid", None, y, want, 4e-3)


def main():
    generator = torch.Generator("cuda").manual_seed(SEED)
    shapes = [s for s in SHAPES if s.n_tokens <= 1000] if FEW else SHAPES
    check_rest(generator)
    check_experts(generator)
    for shape in shapes:
        check_search(shape, generator)
        check_attention(shape, generator)
        check_placed(shape, generator)
        check_sample(shape, generator)
    torch.cuda.synchronize()
    print(f"{len(FAILED)} failed" + "".join(f"\n  {name}" for name in FAILED))
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
