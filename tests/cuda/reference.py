"""What the kernels compute, in plain torch, so simple that it is unlikely to be wrong. Slow; for small shapes.

Queries [n_tokens, n_heads, head_dim], keys and values [n_tokens, n_kv_heads, head_dim].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

NONE = 0xFFFFFFFF
FIRST, MIDDLE, MEAN_SPREAD, TWO_MEANS = 0, 1, 2, 3


@dataclass
class Shape:
    n_tokens: int
    block_q: int
    block_k: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    top_k: int
    sink_blocks: int = 1
    local_blocks: int = 1
    window: int = 0  # 0: none
    beam: int = 0
    down: int = 1  # a round splits ranges in 2^down
    rescore: bool = False

    @property
    def n_query_blocks(self):
        return -(-self.n_tokens // self.block_q)

    @property
    def n_key_blocks(self):
        return -(-self.n_tokens // self.block_k)

    @property
    def local(self):
        return max(self.local_blocks, -(-self.block_q // self.block_k))

    def queries(self, block):
        return range(block * self.block_q, min((block + 1) * self.block_q, self.n_tokens))

    def visible(self, block):
        queries = self.queries(block)
        first = max(queries[0] + 1 - self.window, 0) // self.block_k if self.window else 0
        return range(first, queries[-1] // self.block_k + 1)

    def candidates(self, block):
        """`(c0, c1, budget)`: key blocks that compete and how many of them may stay."""
        visible = self.visible(block)
        c0 = max(visible.start, min(self.sink_blocks, visible.stop))
        c1 = max(visible.stop - self.local, c0)
        return c0, c1, self.top_k - (c0 - visible.start) - (visible.stop - c1)

    def widths(self, budget):
        """`(nodes kept in a round, blocks kept in the last one)`."""
        survivors = max(2 * self.beam, budget + budget // 4) if self.rescore else budget
        return max(self.beam or budget, -(-survivors >> self.down)), survivors

    @property
    def max_frontier(self):
        """Room for the nodes of any round, a multiple of 64."""
        width, survivors = self.widths(self.top_k)
        return -(-max(survivors + self.sink_blocks + self.local, (width + 2) << self.down) // 64) * 64

    def seen(self, device="cpu"):
        """[n_tokens, n_tokens] bool: whether the row's query sees the column's key."""
        q, k = torch.arange(self.n_tokens, device=device)[:, None], torch.arange(self.n_tokens, device=device)[None, :]
        return (k <= q) & (k > q - self.window) if self.window else k <= q


def per_head(x, n_heads):
    """[n_heads, n_tokens, head_dim] f64, the key-value heads repeated for their group."""
    return x.double().transpose(0, 1).repeat_interleave(n_heads // x.shape[1], 0)


def pyramid(keys, block_k):
    """Mean and variance of the keys of each node: lists by level of [n_kv_heads, n_nodes, head_dim] f64."""
    means, variances, n_tokens = [], [], keys.shape[0]
    size = block_k
    while True:
        nodes = keys.double().split(size)
        means.append(torch.stack([n.mean(0) for n in nodes], 1))
        variances.append(torch.stack([n.var(0, unbiased=False) for n in nodes], 1))
        if len(nodes) == 1:
            return means, variances
        size *= 2


def clusters(keys, block_k):
    """Two clusters of the keys of each node: lists by level of means [n_kv_heads, n_nodes, 2, head_dim] and of spreads
    [n_kv_heads, n_nodes, 2], f64. Keys that the last block lacks repeat its last one."""
    keys = keys.double().cpu().numpy()
    keys = np.concatenate([keys, np.repeat(keys[-1:], -len(keys) % block_k, 0)])
    heads = [cluster_levels(keys[:, h], block_k) for h in range(keys.shape[1])]
    means, spreads = [], []
    for level in zip(*heads):
        means.append(torch.tensor(np.array([[[c[1] for c in node] for node in nodes] for nodes in level])))
        spread = [[[math.sqrt(c[2] / c[0] / len(c[1]) * 2 * math.log(c[0])) for c in node] for node in nodes] for nodes in level]
        spreads.append(torch.tensor(spread, dtype=torch.float64))
    return means, spreads


def cluster_levels(keys, block_k):
    """Nodes of each level from the key blocks on, each with two clusters (count, mean, squares)."""
    nodes, size, levels = [[(1, a, 0.0), (1, b, 0.0)] for a, b in zip(keys[::2], keys[1::2])], 2, []
    while True:
        if size >= block_k:
            levels.append(nodes)
            if len(nodes) == 1:
                return levels
        nodes, size = [merged(sum(nodes[i : i + 2], [])) for i in range(0, len(nodes), 2)], size * 2


def merged(found):
    """The cheapest pair becomes one until two are left (Ward 1963)."""
    while len(found) > 2:
        cost, a, b = min((ward(found[a], found[b]), a, b) for b in range(len(found)) for a in range(b))
        (n, mean, squares), (m, other, more) = found[a], found[b]
        one = (n + m, mean + (other - mean) * m / (n + m), squares + more + cost)
        found = [one] + [c for i, c in enumerate(found) if i not in (a, b)]
    return found


def ward(a, b):
    return a[0] * b[0] / (a[0] + b[0]) * ((a[1] - b[1]) ** 2).sum()


def kept_row(shape, block, found):
    """A row of the mask: what is always kept and what was found."""
    visible = shape.visible(block)
    c0, c1, _ = shape.candidates(block)
    row = [*range(visible.start, c0), *sorted(found), *range(c1, visible.stop)]
    return row + [NONE] * (shape.top_k - len(row))


def best(scores, nodes, keep):
    """The `keep` nodes with the largest scores, ascending; ties: the lower node."""
    ranked = sorted(range(len(nodes)), key=lambda i: (-scores[i], nodes[i]))
    return sorted(nodes[i] for i in ranked[:keep])


def search_hierarchical(shape, queries, keys, estimate, means=None, spreads=None):
    """`([n_heads, n_query_blocks, top_k], rows read)`; `means` and `spreads` (mean + spread: variances) by level when the
    estimate needs them."""
    q = per_head(queries, shape.n_heads)
    k = per_head(keys, shape.n_heads)
    group, rows, n_read = shape.n_heads // shape.n_kv_heads, [], 0
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            tokens = shape.queries(block)
            nodes = Nodes(shape, q[head, tokens.start : tokens.stop], k[head], head // group, estimate, means, spreads)
            found, read = descend(shape, nodes, *shape.candidates(block))
            c0, c1, budget = shape.candidates(block)
            if len(found) > max(budget, 0):
                visible = shape.visible(block)
                always = [*range(visible.start, c0), *range(c1, visible.stop)]
                read += (len(found) + len(always)) * shape.block_k
                found = best(shares(shape, nodes.queries, nodes.keys, tokens, found + always)[: len(found)], found, budget)
            rows.append(kept_row(shape, block, found))
            n_read += read
    return torch.tensor(rows).view(shape.n_heads, shape.n_query_blocks, shape.top_k), n_read


def descend(shape, nodes, c0, c1, budget):
    """Blocks that survive the rounds, and how many rows were read."""
    if c1 - c0 <= budget:
        return list(range(c0, c1)), 0
    if budget <= 0:
        return [], 0
    (width, survivors), level, n_read = shape.widths(budget), 0, 0
    while ((c1 - 1) >> level) - (c0 >> level) + 1 > width << shape.down:
        level += shape.down
    frontier = list(range(c0 >> level, ((c1 - 1) >> level) + 1))
    while True:
        inside = [(i << level) >= c0 and ((i + 1) << level) <= c1 for i in frontier]
        keep = (width if level else survivors) + inside.count(False)
        if len(frontier) > keep:
            whole = [i for i, w in zip(frontier, inside) if w]
            scores = dict(zip(whole, nodes.scores(level, whole).tolist()))
            n_read += len(whole) * (2 if nodes.estimate in (MEAN_SPREAD, TWO_MEANS) else 1)
            frontier = best([scores.get(i, math.inf) for i in frontier], frontier, keep)
        if level == 0:
            return frontier, n_read
        level -= shape.down
        children = [c for i in frontier for c in range(i << shape.down, (i + 1) << shape.down)]
        frontier = [c for c in children if (c << level) < c1 and ((c + 1) << level) > c0]


@dataclass
class Nodes:
    """One head's queries of a block, and what scores nodes for them."""

    shape: Shape
    queries: torch.Tensor
    keys: torch.Tensor
    kv_head: int
    estimate: int
    means: list
    spreads: list
    norms: torch.Tensor = None

    def scores(self, level, nodes):
        estimates = self.estimates(level, torch.tensor(nodes, device=self.queries.device))
        if self.estimate == TWO_MEANS:
            temperature = math.sqrt(self.shape.head_dim)
            if self.norms is None:
                self.norms = temperature * (estimates / temperature).logsumexp(1, keepdim=True)
            estimates = estimates - self.norms
        return estimates.amax(0)

    def estimates(self, level, nodes):
        q, size = self.queries, self.shape.block_k << level
        if self.estimate in (FIRST, MIDDLE):
            start = nodes * size
            end = torch.clamp(start + size, max=self.shape.n_tokens)
            return q @ self.keys[start if self.estimate == FIRST else start + (end - start) // 2].T
        means, spreads = self.means[level][self.kv_head, nodes].double(), self.spreads[level][self.kv_head, nodes].double()
        if self.estimate == TWO_MEANS:
            return ((means @ q.T).permute(2, 0, 1) + q.norm(dim=1)[:, None, None] * spreads).amax(2)
        return q @ means.T + ((q * q).bfloat16().double() @ spreads.T).sqrt() * math.sqrt(2 * math.log(size))


def shares(shape, queries, keys, tokens, blocks):
    """The largest share, over all queries, of a query's attention to these blocks' keys that falls on each block."""
    device = queries.device
    index = (torch.tensor(blocks, device=device)[:, None] * shape.block_k + torch.arange(shape.block_k, device=device)).flatten()
    query = torch.arange(tokens.start, tokens.stop, device=device)[:, None]
    seen = (index <= query) & (index > query - shape.window) if shape.window else index <= query
    logits = (queries @ keys[index.clamp_max(shape.n_tokens - 1)].T / math.sqrt(shape.head_dim)).masked_fill(~seen, -math.inf)
    return logits.softmax(1).view(len(tokens), len(blocks), shape.block_k).sum(2).amax(0).tolist()


def search_exhaustive(shape, queries, keys):
    q, k = per_head(queries, shape.n_heads), per_head(keys, shape.n_heads)
    rows = []
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            (c0, c1, budget), visible, tokens = shape.candidates(block), shape.visible(block), shape.queries(block)
            scores = shares(shape, q[head, tokens.start : tokens.stop], k[head], tokens, [*visible])[c0 - visible.start : c1 - visible.start]
            rows.append(kept_row(shape, block, best(scores, [*range(c0, c1)], max(budget, 0))))
    return torch.tensor(rows).view(shape.n_heads, shape.n_query_blocks, shape.top_k)


def kept_keys(shape, kept, device="cpu"):
    """[n_heads, n_tokens, n_tokens] bool: keys that a query sees and its block keeps; `kept` None keeps all."""
    seen = shape.seen(device).expand(shape.n_heads, -1, -1)
    if kept is None:
        return seen
    mask = torch.zeros(shape.n_heads, shape.n_tokens, shape.n_tokens, dtype=torch.bool, device=device)
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            tokens = shape.queries(block)
            for b in kept[head, block].tolist():
                if b != NONE:
                    mask[head, tokens.start : tokens.stop, b * shape.block_k : (b + 1) * shape.block_k] = True
    return mask & seen


def attention(shape, queries, keys, values, kept=None, sinks=None):
    """`(out [n_tokens, n_heads, head_dim], lse [n_heads, n_tokens], probabilities [n_heads, n_tokens, n_tokens])`, f64. `sinks`
    [n_heads] are logits beside the keys, without a value."""
    q, k, v = (per_head(x, shape.n_heads) for x in (queries, keys, values))
    scores = q @ k.transpose(1, 2) / math.sqrt(shape.head_dim)
    scores = scores.masked_fill(~kept_keys(shape, kept, q.device), -math.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(-1, scores.shape[1], 1)], -1)
    p = scores.softmax(-1)[..., : shape.n_tokens]
    return (p @ v).transpose(0, 1), scores.logsumexp(-1), p


def received(p, sentence, distance):
    """What each key receives of the probabilities of all pairs, and of sentences far enough behind it, [n_heads, n_tokens] each."""
    n_in_sentence = torch.bincount(sentence.long())[sentence.long()].double()
    far = sentence[:, None].long() >= sentence[None, :].long() + distance
    return p.sum(1), (p * far / n_in_sentence[:, None]).sum(1)


def record(shape, kept, p, focus, sentence, distance):
    """`(mass, received, focus, anchors)` of `kept`, from the probabilities of all pairs."""
    of_keys, anchors = received(p, sentence, distance)
    mass = torch.zeros(kept.shape, dtype=torch.float64, device=p.device)
    rows = torch.zeros(shape.n_heads, len(focus), shape.top_k * shape.block_k, dtype=torch.float64, device=p.device)
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            tokens = shape.queries(block)
            for slot, b in enumerate(kept[head, block].tolist()):
                if b == NONE:
                    continue
                keys = slice(b * shape.block_k, min((b + 1) * shape.block_k, shape.n_tokens))
                mass[head, block, slot] = p[head, tokens.start : tokens.stop, keys].sum() / len(tokens)
                for i, token in enumerate(focus):
                    if token in tokens:
                        at = slot * shape.block_k
                        rows[head, i, at : at + keys.stop - keys.start] = p[head, token, keys]
    return mass, of_keys, rows, anchors


def masses(shape, p_dense, sample):
    """[n_sampled, n_heads, n_key_blocks]: mean over a query block's queries of what each key block gets of dense attention."""
    pad = shape.n_key_blocks * shape.block_k - shape.n_tokens
    of_blocks = torch.nn.functional.pad(p_dense, (0, pad)).view(shape.n_heads, shape.n_tokens, shape.n_key_blocks, shape.block_k).sum(3)
    return torch.stack([of_blocks[:, list(shape.queries(block))].mean(1) for block in sample])


def histogram(shape, of_blocks, sample, n_bins):
    """[n_heads, n_sampled, n_bins]: how many candidates have a mass from 2^(-(bin + 1) / 4) to 2^(-bin / 4), the last bin all that have less."""
    counts = torch.zeros(shape.n_heads, len(sample), n_bins, dtype=torch.int64)
    for i, block in enumerate(sample):
        c0, c1, _ = shape.candidates(block)
        bins = (-4 * of_blocks[i, :, c0:c1].double().log2()).clamp(0, n_bins - 1).long().cpu()
        for head in range(shape.n_heads):
            counts[head, i] = torch.bincount(bins[head], minlength=n_bins)
    return counts


def recall(p_dense, mask):
    """[n_heads]: sum over rows of the share of the dense mass on keys that is on kept ones."""
    return ((p_dense * mask).sum(2) / p_dense.sum(2)).sum(1)


def on_sink(shape, p):
    """[n_heads, n_query_blocks]: what is missing to 1, mean over each block's queries."""
    missing = 1 - p.sum(2)
    return torch.stack([missing[:, list(shape.queries(block))].mean(1) for block in range(shape.n_query_blocks)], 1)


def route(logits, top_k, bias=None, correction=None, sigmoid=False, normalised=False, n_groups=1, top_groups=1, scale=1.0):
    """[n_rows, n_experts] f64: the weight of each expert that a row takes, 0 of the others."""
    logits = logits.double() + (0 if bias is None else bias.double())
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    candidates = scores + (0 if correction is None else correction.double())
    if top_groups < n_groups:
        groups = candidates.unflatten(1, (n_groups, -1))
        best = groups.topk(2, -1)[0].sum(-1).topk(top_groups, -1)[1]
        inside = torch.zeros(groups.shape[:2], dtype=torch.bool, device=logits.device).scatter(1, best, True)
        candidates = groups.masked_fill(~inside[..., None], -math.inf).flatten(1)
    chosen = candidates.topk(top_k, -1)[1]
    weights = scores.gather(1, chosen)
    if normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(1, chosen, weights * scale)


def grouped(x, experts, weights, biases=None):
    """[n_places, n_out] f64: each row of x times the weights of its expert."""
    out = torch.stack([weights[e].double() @ row for e, row in zip(experts, x.double())])
    return out if biases is None else out + torch.stack(biases)[experts].double()


def rms_norm(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def rope(x, frequency, first_position, n_rotated, turn=1.0, scale=1.0):
    """x [n_rows, n_heads, head_dim]."""
    angle = (first_position + torch.arange(x.shape[0], device=x.device, dtype=torch.float64))[:, None, None] * frequency
    a, b, rest = x.double().split([n_rotated // 2, n_rotated // 2, x.shape[2] - n_rotated], -1)
    cos, sin = turn * angle.cos(), turn * angle.sin()
    return scale * torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def swiglu(gate, up):
    gate, up = gate.double(), up.double()
    return gate * gate.sigmoid() * up


def clamped_swiglu(gate, up, limit):
    gate, up = gate.double().clamp(max=limit), up.double().clamp(-limit, limit)
    return gate * (1.702 * gate).sigmoid() * (up + 1)


def geglu(gate, up):
    return torch.nn.functional.gelu(gate.double(), approximate="tanh") * up.double()
