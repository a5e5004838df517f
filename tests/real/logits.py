"""Write logits.json: prompts and the 20 most likely next tokens, by a plain forward pass in 64-bit floats.

    pip install numpy gguf==0.19.0
    python tests/real/logits.py "$(python jupyter/real_model.py)"

Only the dequantized weights come from a library. The texts are those of prompts.json, their ids those of tokens.json.
T × T numbers for each head: prompts of a few hundred tokens.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

HERE = Path(__file__).parent
TOP = 20


class Llama:
    """A decoder of the llama family, from a GGUF file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

        def field(name):
            return reader.fields[f"llama.{name}"].contents()

        self.n_layers, self.n_heads = field("block_count"), field("attention.head_count")
        self.n_kv_heads, self.base = field("attention.head_count_kv"), field("rope.freq_base")
        self.eps = field("attention.layer_norm_rms_epsilon")
        self.head_dim = field("embedding_length") // self.n_heads

    def weight(self, name):
        tensor = self.tensors[name + ".weight"]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight(name)

    def rope(self, x):
        """Rotate neighbouring pairs of each head, [T, n_heads, head_dim]: the order that GGUF files of llamas have."""
        pairs = np.arange(0, self.head_dim, 2)
        angles = np.arange(len(x))[:, None, None] * self.base ** (-pairs / self.head_dim)
        even, odd = x[..., ::2], x[..., 1::2]
        turned = even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)
        return np.stack(turned, -1).reshape(x.shape)

    def attention(self, x, at):
        n = len(x)
        q, k, v = (
            (x @ self.weight(f"{at}attn_{name}").T).reshape(n, heads, self.head_dim)
            for name, heads in [("q", self.n_heads), ("k", self.n_kv_heads), ("v", self.n_kv_heads)]
        )
        q, k = self.rope(q), self.rope(k)
        future = np.triu(np.full((n, n), -np.inf), 1)
        heads = []
        for head in range(self.n_heads):
            group = head * self.n_kv_heads // self.n_heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(self.head_dim) + future
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ v[:, group])
        return np.concatenate(heads, -1) @ self.weight(f"{at}attn_output").T

    def mlp(self, x, at):
        gate, up = (x @ self.weight(f"{at}ffn_{name}").T for name in ("gate", "up"))
        return gate / (1 + np.exp(-gate)) * up @ self.weight(f"{at}ffn_down").T

    def logprobs(self, ids):
        """Return the log-probabilities of the token after the last one. [vocab_size]"""
        embedding = self.weight("token_embd")
        x = embedding[ids]
        for at in (f"blk.{layer}." for layer in range(self.n_layers)):
            x = x + self.attention(self.norm(x, f"{at}attn_norm"), at)
            x = x + self.mlp(self.norm(x, f"{at}ffn_norm"), at)
        logits = embedding @ self.norm(x[-1], "output_norm")
        largest = logits.max()
        return logits - largest - np.log(np.exp(logits - largest).sum())


def main(path):
    prompts, tokens = (json.loads((HERE / name).read_text(encoding="utf-8")) for name in ("prompts.json", "tokens.json"))
    ids = {row["text"]: row["ids"] for row in tokens}
    model, rows = Llama(path), []
    for text in prompts:
        logprobs = model.logprobs(ids[text])
        top = [[int(i), round(float(logprobs[i]), 6)] for i in np.argsort(-logprobs)[:TOP]]
        rows.append({"text": text, "top": top})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "logits.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
