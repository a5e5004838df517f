"""Where should a budget of key blocks go? Exact selection in every layer of a real model, its errors going on through the layers.

    python3 benches/budgets.py MODEL.gguf TEXT [--tokens 8192] [--pruned 0.9 0.95]

Needs a GPU, and `pip install torch transformers gguf`. Compares with dense attention (f32) after every position of the last three quarters:
share with the same most likely token, mean and 99th percentile of KL in nats; recall, mean over heads and least head of a layer, mean over
layers. Each line is a rule: block sizes; how blocks of a query block are ranked (`mean`, `max` or root mean `square` of the shares of its
queries; `value`: mean share times distance of the block's values from the output); and how the pairs of a layer are shared out (`uniform`;
`mass` or `squares`: to the heads where the next block takes most mass, or most from the squares of what is missed; `written`: squares,
weighed by what heads write; `anywhere`: any block of any head); `sample` chooses from 16 query blocks alone, `layers` with one threshold
for all layers.
"""

import argparse
import os

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

torch.backends.cuda.matmul.allow_tf32 = True
SAMPLED = 16
RULE, FOUND, CURVES, LENGTHS = {}, [], {}, {}


class Blocks:
    """Which key blocks query blocks see, which they always keep, and how many pairs a budget takes."""

    def __init__(self, n_tokens, bq, bk, device):
        self.bq, self.bk, self.nq, self.nk = bq, bk, n_tokens // bq, n_tokens // bk
        self.end = ((torch.arange(self.nq, device=device) + 1) * bq + bk - 1)[:, None] // bk
        columns = torch.arange(self.nk, device=device)[None]
        own = max(1, bq // bk)
        self.visible = columns < self.end
        self.always = self.visible & ((columns < 1) | (columns >= self.end - own))
        query, key = torch.arange(n_tokens, device=device).view(self.nq, bq, 1, 1), torch.arange(n_tokens, device=device).view(self.nk, bk)
        edge = torch.stack([(query[:, :, 0] >= key[(self.end[:, 0] - 1 - j).clamp(min=0)][:, None]).sum((1, 2)) for j in range(own)])
        self.pairs = torch.where(self.visible, float(bq * bk), 0.0)
        for j in range(own):
            self.pairs.scatter_(1, (self.end - 1 - j).clamp(min=0), edge[j].float()[:, None])
        n_candidates = (self.visible & ~self.always).sum(-1)
        # Pairs that the i-th best candidate of each query block adds, over all query blocks.
        self.of_place = (self.nq - torch.bincount(n_candidates, minlength=self.nk + 1).cumsum(0))[: self.nk].float() * bq * bk
        self.n_candidates, self.n_always = n_candidates, self.always.sum(-1)


def score(p, v, weight, b):
    """Of each head, query and key block what blocks are ranked by, and its mean mass. `[n_heads, nq, nk]`"""
    of_blocks = p.view(len(p), b.nq, b.bq, b.nk, b.bk).sum(-1)
    mean = of_blocks.mean(2)
    if RULE["rank"] == "max":
        return of_blocks.amax(2), mean
    if RULE["rank"] == "square":
        return of_blocks.square().mean(2).sqrt(), mean
    if RULE["rank"] == "value":
        out, of_keys = (p @ v).view(len(p), b.nq, b.bq, -1).mean(2), v.view(len(p), b.nk, b.bk, -1).mean(2)
        gram = weight.transpose(1, 2) @ weight
        written, read = of_keys @ gram, out @ gram
        squares = (written * of_keys).sum(-1)[:, None] - 2 * out @ written.transpose(1, 2) + (read * out).sum(-1)[:, :, None]
        return mean * squares.clamp(min=0).sqrt(), mean
    return mean, mean


def gains(candidates, base, v, weight, layer, b):
    """What a pair at each place of a head takes from the loss, never less than at a later place. `[n_heads, nk]`"""
    n = SAMPLED if RULE.get("sample") else b.nq
    rows = (2 * torch.arange(n, device=base.device) + 1) * b.nq // (2 * n)
    each = candidates[:, rows]
    if RULE["share"] == "mass":
        taken = each.sum(1)
    else:
        after = 1 - base[:, rows, None] - each.cumsum(-1)
        taken = ((after + each).clamp(min=0) ** 2 - after.clamp(min=0) ** 2).sum(1)
        if RULE["share"] == "written":
            apart = v - v.mean(1, keepdim=True)
            taken = taken * (((apart @ (weight.transpose(1, 2) @ weight)) * apart).sum(-1).mean(1) / LENGTHS[layer])[:, None]
        taken = taken.flip(-1).cummax(-1).values.flip(-1)
    return taken / (b.of_place + 1) * b.nq


def threshold(gains_and_places, pairs):
    """The gain above which places are taken, so that they have no more than `pairs` in all."""
    low, high = 0.0, max(gains.max().item() for gains, _ in gains_and_places)
    for _ in range(60):
        middle = (low + high) / 2
        used = sum((places * (gains > middle)).sum().item() for gains, places in gains_and_places)
        low, high = (middle, high) if used > pairs else (low, middle)
    return high


def kept(order_of, mean, candidates, v, weight, layer, b, n_tokens):
    """Which blocks stay. `[n_heads, nq, nk]`"""
    n_heads, budget = len(mean), (1 - RULE["pruned"]) * n_tokens * (n_tokens + 1) / 2 - (b.pairs * b.always).sum().item()
    if RULE["share"] == "uniform":
        taken = torch.full((n_heads, b.nq), (b.of_place.cumsum(0) <= budget).sum().item(), device=mean.device)
    elif RULE["share"] == "anywhere":
        least = candidates.flatten().topk(int(budget * n_heads / (b.bq * b.bk))).values[-1]
        taken = (candidates >= least).sum(-1)
    else:
        of_head = gains(candidates, (mean * b.always).sum(-1), v, weight, layer, b)
        CURVES[layer] = of_head, b.of_place, budget * n_heads
        least = RULE.get("threshold") or threshold([(of_head, b.of_place)], budget * n_heads)
        taken = (of_head > least).sum(-1)[:, None].expand(n_heads, b.nq)
    return (order_of < (b.n_always + taken)[:, :, None]) & b.visible


def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **rest):
    n_heads, n_tokens = query.shape[1:3]
    group, weight = n_heads // key.shape[1], module.o_proj.weight.view(-1, n_heads, query.shape[3]).permute(1, 0, 2)
    k, v = (x[0].repeat_interleave(group, 0) for x in (key, value))
    later = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=query.device).triu_(1)
    p = (query[0] @ k.transpose(1, 2)).mul_(scaling or query.shape[3] ** -0.5).masked_fill_(later, float("-inf")).softmax(-1)
    if not RULE:
        return (p @ v).transpose(0, 1)[None].contiguous(), None
    b = Blocks(n_tokens, *RULE["blocks"], query.device)
    ranked, mean = score(p, v, weight, b)
    order = torch.where(b.always, 1e4 + ranked, ranked).masked_fill(~b.visible, -1).argsort(-1, descending=True)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(b.nk, device=order.device).expand_as(order))
    columns = torch.arange(b.nk, device=order.device)
    of_candidates = mean.gather(-1, order).gather(-1, (columns + b.n_always[:, None]).clamp(max=b.nk - 1).expand_as(order))
    keep = kept(place, mean, of_candidates * (columns < b.n_candidates[:, None]), v, weight, module.layer_idx, b, n_tokens)
    recall = (mean * keep).sum(-1).mean(-1)
    FOUND.append((recall.mean(), recall.min(), 1 - (b.pairs * keep).sum() / (n_heads * n_tokens * (n_tokens + 1) / 2)))
    p.view(n_heads, b.nq, b.bq, b.nk, b.bk).mul_(keep[:, :, None, :, None])
    return ((p @ v) / p.sum(-1, keepdim=True)).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register("budgets", attention)

RULES = [((32, 8), "max", "uniform"), ((32, 8), "mean", "mass"), ((32, 8), "mean", "mass", "sample"), ((32, 8), "max", "mass"),
         ((32, 8), "square", "mass"), ((32, 8), "value", "mass"), ((32, 8), "mean", "squares"), ((32, 8), "mean", "squares", "sample"),
         ((32, 8), "mean", "written"), ((32, 8), "mean", "anywhere"), ((32, 8), "mean", "mass", "layers"), ((32, 8), "mean", "squares", "layers"),
         *(((q, k), "mean", "mass") for q, k in ((16, 8), (16, 4), (8, 8), (8, 4), (4, 4), (16, 16))), ((16, 8), "mean", "squares")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"), parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=8192), parser.add_argument("--pruned", type=float, nargs="*", default=[0.9, 0.95])
    options = parser.parse_args()
    folder, name = os.path.split(os.path.abspath(options.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="budgets").cuda().eval()
    ids = tokenizer(open(options.text).read(), return_tensors="pt").input_ids[:, : options.tokens].cuda()
    n_tokens = ids.shape[1]
    for i, layer in enumerate(model.model.layers):
        read = lambda _, args, kwargs, i=i: LENGTHS.setdefault(i, (args[0] if args else kwargs["hidden_states"]).square().sum(-1).mean().item())
        layer.register_forward_pre_hook(read, with_kwargs=True)

    @torch.no_grad()
    def run(**rule):
        RULE.clear(), RULE.update(rule), FOUND.clear(), CURVES.clear()
        return model.model(ids).last_hidden_state[0]

    @torch.no_grad()
    def against(hidden):
        kl, same = [], 0
        for i in range(n_tokens // 4, n_tokens, 1024):
            a, b = (model.lm_head(x[i : i + 1024]).log_softmax(-1) for x in (dense, hidden))
            kl.append((a.exp() * (a - b)).sum(-1))
            same += (a.argmax(-1) == b.argmax(-1)).sum().item()
        kl = torch.cat(kl)
        return same / len(kl), kl.mean().item(), kl.quantile(0.99).item()

    dense = run()
    print(f"{name}, {n_tokens} tokens\n\n| rule | pruned | same token | mean KL | 99th | recall | least head |\n|---|---|---|---|---|---|---|")
    for pruned in options.pruned:
        for blocks, rank, share, *more in RULES:
            rule = {"blocks": blocks, "rank": rank, "share": share, "pruned": pruned, **dict.fromkeys(more, True)}
            hidden = run(**rule)
            if "layers" in more:
                of_layers = list(CURVES.values())
                hidden = run(**rule, threshold=threshold([c[:2] for c in of_layers], sum(c[2] for c in of_layers)))
            recall, least, share_pruned = torch.tensor(FOUND).double().mean(0).tolist()
            same, kl, tail = against(hidden)
            print(f"| {blocks} {rank} {share} {' '.join(more)} | {share_pruned:.3f} | {same:.4f} | {kl:.5f} | {tail:.3f} | {recall:.3f} | {least:.3f} |",
                  flush=True)
            if "layers" in more:
                print("pruned by layer:", *(f"{found[2]:.2f}" for found in FOUND), flush=True)


if __name__ == "__main__":
    main()
