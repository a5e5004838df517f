"""What the kernels compute, in plain torch, so simple that it is unlikely to be wrong. Slow; for small shapes.

Queries [n_tokens, n_heads, head_dim], keys and values [n_tokens, n_kv_heads, head_dim].
"""

import math
from dataclasses import dataclass

import torch

NONE = 0xFFFFFFFF
FIRST, MIDDLE, MEAN, MEAN_SPREAD = 0, 1, 2, 3


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


def search_hierarchical(shape, queries, keys, estimate, means=None, variances=None):
    """[n_heads, n_query_blocks, top_k]; `means` and `variances` by level when the estimate needs them."""
    q = per_head(queries, shape.n_heads)
    k = per_head(keys, shape.n_heads)
    group = shape.n_heads // shape.n_kv_heads
    rows = []
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            c0, c1, budget = shape.candidates(block)
            tokens = shape.queries(block)
            qs = q[head, tokens.start : tokens.stop]
            rows.append(kept_row(shape, block, descend(shape, qs, k[head], head // group, c0, c1, budget, estimate, means, variances)))
    return torch.tensor(rows).view(shape.n_heads, shape.n_query_blocks, shape.top_k)


def descend(shape, qs, k, kv_head, c0, c1, budget, estimate, means, variances):
    if c1 - c0 <= budget:
        return list(range(c0, c1))
    if budget <= 0:
        return []
    width, level = max(shape.beam, budget), 0
    while ((c1 - 1) >> level) - (c0 >> level) + 1 > 2 * width:
        level += 1
    frontier = list(range(c0 >> level, ((c1 - 1) >> level) + 1))
    while True:
        whole = [(i << level) >= c0 and ((i + 1) << level) <= c1 for i in frontier]
        keep = budget if level == 0 else width + whole.count(False)
        if len(frontier) > keep:
            scores = node_scores(shape, qs, k, kv_head, level, frontier, estimate, means, variances)
            frontier = best([s if w else math.inf for s, w in zip(scores.tolist(), whole)], frontier, keep)
        if level == 0:
            return frontier
        level -= 1
        children = [c for i in frontier for c in (2 * i, 2 * i + 1)]
        frontier = [c for c in children if (c << level) < c1 and ((c + 1) << level) > c0]


def node_scores(shape, qs, k, kv_head, level, nodes, estimate, means, variances):
    size = shape.block_k << level
    index = torch.tensor(nodes, device=qs.device)
    if estimate in (FIRST, MIDDLE):
        start = index * size
        end = torch.clamp(start + size, max=shape.n_tokens)
        return (qs @ k[start if estimate == FIRST else start + (end - start) // 2].T).amax(0)
    scores = qs @ means[level][kv_head, index].double().T
    if estimate == MEAN_SPREAD:
        squares = (qs * qs).bfloat16().double()
        scores = scores + (squares @ variances[level][kv_head, index].double().T).sqrt() * math.sqrt(2 * math.log(size))
    return scores.amax(0)


def search_exhaustive(shape, queries, keys):
    q, k = per_head(queries, shape.n_heads), per_head(keys, shape.n_heads)
    dots = torch.where(shape.seen(q.device), q @ k.transpose(1, 2), -math.inf)
    rows = []
    for head in range(shape.n_heads):
        for block in range(shape.n_query_blocks):
            c0, c1, budget = shape.candidates(block)
            tokens = shape.queries(block)
            candidates = list(range(c0, c1))
            top = dots[head, tokens.start : tokens.stop].amax(0).tolist()
            scores = [max(top[b * shape.block_k : (b + 1) * shape.block_k]) for b in candidates]
            rows.append(kept_row(shape, block, best(scores, candidates, max(budget, 0))))
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


def attention(shape, queries, keys, values, kept=None):
    """`(out [n_tokens, n_heads, head_dim], lse [n_heads, n_tokens], probabilities [n_heads, n_tokens, n_tokens])`, f64."""
    q, k, v = (per_head(x, shape.n_heads) for x in (queries, keys, values))
    scores = q @ k.transpose(1, 2) / math.sqrt(shape.head_dim)
    scores = scores.masked_fill(~kept_keys(shape, kept, q.device), -math.inf)
    p = scores.softmax(-1)
    return (p @ v).transpose(0, 1), scores.logsumexp(-1), p


def record(shape, kept, p, focus, sentence, distance):
    """`(mass, received, focus, anchors)` of `kept`, from the probabilities of all pairs."""
    received = p.sum(1)
    n_in_sentence = torch.bincount(sentence.long())[sentence.long()].double()
    far = sentence[:, None].long() >= sentence[None, :].long() + distance
    anchors = (p * far / n_in_sentence[:, None]).sum(1)
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
    return mass, received, rows, anchors


def recall(p_dense, mask):
    """[n_heads]: sum over rows of the dense mass on kept keys."""
    return (p_dense * mask).sum((1, 2))


def embed(table, tokens):
    return table[tokens.long()]


def rms_norm(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def rope(x, frequency, first_position, n_rotated):
    """x [n_rows, n_heads, head_dim]."""
    angle = (first_position + torch.arange(x.shape[0], device=x.device, dtype=torch.float64))[:, None, None] * frequency
    a, b, rest = x.double().split([n_rotated // 2, n_rotated // 2, x.shape[2] - n_rotated], -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)


def swiglu(gate, up):
    gate, up = gate.double(), up.double()
    return gate * gate.sigmoid() * up
