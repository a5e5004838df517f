"""Are vertical scores, sinks, receiver heads and anchors what Bogdan et al. 2025 define? Checked on whole T x T attention
matrices, which a plain f64 forward pass over a GGUF file (llama, qwen2) makes apart from streamtrace.

    streamtrace trace --model MODEL.gguf --prompt-file PROMPT --device cpu --pruned 0 --exhaustive --out chain.trace
    streamtrace thought-anchors chain.trace --json > anchors.json
    python3 benches/anchors_reference.py MODEL.gguf chain.trace anchors.json

The trace must keep every block, and be of one chain to the end of the prompt. Prints the largest differences, and ends with exit
code 1 if a score is off by more than 1e-4 of the largest. Needs numpy, scipy, safetensors and gguf.
"""

import json
import sys

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors import safe_open
from scipy.stats import kurtosis

# Of scores; a fourth moment is off by four times as much.
TOLERANCE = {"vertical scores": 1e-4, "receiver scores": 1e-4, "kurtosis": 4e-4}
# A head looks at a key from everywhere with at least this mean attention, and this many times what even attention would give
# (streamtrace's own definition: the paper has no sinks).
LEAST, TIMES_EVEN = 0.05, 3


class Model:
    """A llama or qwen2 model in a GGUF file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        arch = reader.fields["general.architecture"].contents()
        assert arch in ("llama", "qwen2"), arch
        of = lambda key, default=None: reader.fields[f"{arch}.{key}"].contents() if f"{arch}.{key}" in reader.fields else default
        self.neox = arch == "qwen2"
        self.n_layers, self.n_heads, self.n_kv = of("block_count"), of("attention.head_count"), of("attention.head_count_kv")
        self.head_dim = of("attention.key_length", of("embedding_length") // self.n_heads)
        self.eps, self.base = of("attention.layer_norm_rms_epsilon"), of("rope.freq_base", 10000.0)

    def weight(self, name):
        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight(name)

    def linear(self, x, name):
        y = x @ self.weight(f"{name}.weight").T
        return y + self.weight(f"{name}.bias") if f"{name}.bias" in self.tensors else y

    def rotated(self, x):
        """x [T, heads, head_dim] turned by its positions."""
        n, _, d = x.shape
        angle = np.arange(n)[:, None] * self.base ** (-np.arange(0, d, 2) / d)
        cos, sin = np.cos(angle)[:, None].astype(np.float64), np.sin(angle)[:, None].astype(np.float64)
        first, second = (slice(0, d // 2), slice(d // 2, d)) if self.neox else (slice(0, d, 2), slice(1, d, 2))
        out = np.empty_like(x)
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out

    def attention(self, tokens):
        """Yields the attention of each layer, [n_heads, T, T]; rows are queries."""
        x, n = self.weight("token_embd.weight")[tokens], len(tokens)
        unseen = np.triu(np.ones((n, n), bool), 1)
        for layer in range(self.n_layers):
            name = f"blk.{layer}."
            h = self.norm(x, name + "attn_norm.weight")
            split = lambda part, heads: self.linear(h, name + part).reshape(n, heads, self.head_dim)
            q, k, v = self.rotated(split("attn_q", self.n_heads)), self.rotated(split("attn_k", self.n_kv)), split("attn_v", self.n_kv)
            k, v = (np.repeat(a, self.n_heads // self.n_kv, 1) for a in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(np.float64(self.head_dim))
            scores = np.exp(np.where(unseen, -np.inf, scores - scores.max(-1, keepdims=True)))
            attention = scores / scores.sum(-1, keepdims=True)
            yield attention
            x = x + self.linear(np.einsum("hqk,khd->qhd", attention, v).reshape(n, -1), name + "attn_output")
            h = self.norm(x, name + "ffn_norm.weight")
            gate = self.linear(h, name + "ffn_gate")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * self.linear(h, name + "ffn_up"), name + "ffn_down")


def vertical(attention, spans, distance):
    """Mean of A[i, j] over i >= j + distance, A[i, j] the mean over all pairs of tokens; NaN where there is no such i. [n_sentences]"""
    mean = np.array([[attention[a:b, c:d].mean() for c, d in spans] for a, b in spans], np.float64)
    return np.array([mean[j + distance :, j].mean() if j + distance < len(spans) else np.nan for j in range(len(spans))])


def sinks(attention, size_q, size_k, over):
    """Keys that more than half of the heads look at from everywhere."""
    _, n, _ = attention.shape
    found = []
    for key in range(*over):
        first_far, block = -(-((key + n) // 2) // size_q) * size_q, key // size_k * size_k
        least = max(LEAST, TIMES_EVEN * (1 / np.arange(key + 1, n + 1)).mean())
        near = attention[:, key:, key].mean(-1) >= least
        far = attention[:, first_far:, block : block + size_k].sum(-1).mean(-1) >= least if first_far < n else np.zeros_like(near)
        if n - key >= 2 * size_q and 2 * (near & far).sum() > len(near):
            found.append(key)
    return found


def main(model_path, trace_path, anchors_path):
    said = json.load(open(anchors_path))
    with safe_open(trace_path, framework="np") as trace:
        summary = json.loads(trace.metadata()["summary"])
        assert summary["pruned"] == 0, "the trace must keep every block"
        tokens, stretches = trace.get_tensor("tokens"), [tuple(s) for s in trace.get_tensor("sentences").tolist()]
        recorded = [trace.get_tensor(f"layers.{layer}.vertical") for layer in range(summary["model"]["n_layers"])]
    spans = [(s["span"]["start"], s["span"]["end"]) for s in said["sentences"]]
    columns, over, config = [stretches.index(span) for span in spans], (spans[0][0], spans[-1][1]), summary["config"]
    scores, of_heads, sunk = {}, {}, []
    worst = 0.0
    for layer, attention in enumerate(Model(model_path).attention(tokens)):
        tokens_sunk = sinks(attention, config["block_size_q"], config["block_size_k"], over)
        sunk += [(layer, token) for token in tokens_sunk]
        without = [any(a <= token < b for token in tokens_sunk) for a, b in spans]
        for head in range(len(attention)):
            v = vertical(attention[head], spans, said["min_distance"])
            with_score = ~np.isnan(v)
            of_run = recorded[layer][head][columns]
            worst = max(worst, np.abs(v - of_run)[with_score].max() / v[with_score].max())
            scores[layer, head] = np.where(without, np.nan, v)
            kept = scores[layer, head][~np.isnan(scores[layer, head])]
            of_heads[layer, head] = kurtosis(kept)
    differences = {"vertical scores": worst}
    said_of_heads = {(h["layer"], h["head"]): h["score"] for h in said["kurtosis"]["heads"]}
    differences["kurtosis"] = max(abs(of_heads[h] - said_of_heads[h]) / max(1, abs(of_heads[h])) for h in of_heads)
    best = sorted(of_heads, key=lambda h: -of_heads[h])[: len(said["receivers"]["heads"])]
    means = np.mean([scores[h] for h in best], 0)
    said_scores = np.array([np.nan if s is None else s for s in said["scores"]])
    differences["receiver scores"] = np.nanmax(np.abs(means - said_scores)) / np.nanmax(means)
    known = [j for j in range(len(means)) if not np.isnan(means[j])]
    above = lambda at, other: not 0 <= other < len(known) or means[known[at]] > means[known[other]]
    peaks = [known[at] for at in range(len(known)) if above(at, at - 1) and above(at, at + 1)]
    anchors = sorted(peaks, key=lambda j: -means[j])[: len(said["anchors"])]
    same = {
        "receiver heads": set(best) == {(h["layer"], h["head"]) for h in said["receivers"]["heads"]},
        "sinks": sunk == [(s["layer"], s["token"]) for s in said["sinks"]],
        "sentences without a score": np.array_equal(np.isnan(means), np.isnan(said_scores)),
        "anchors": anchors == said["anchors"],
    }
    print(f"{summary['model']['name']}: {len(tokens)} tokens, {len(spans)} sentences, {len(of_heads)} heads, {len(sunk)} sinks in a layer")
    for what, value in differences.items():
        print(f"{what}: off by {value:.1e} of the largest at most")
    for what, value in same.items():
        print(f"{what}: {'the same' if value else 'DIFFERENT'}")
    return int(not all(same.values()) or any(differences[what] > most for what, most in TOLERANCE.items()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
