"""The model: a decoder of the Qwen3 architecture, small, with its weights' Hugging Face names."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, VOCABULARY = 256, 6, 8, 2, 64, 704, 4096
ROPE_THETA = 5e6
MAX_LENGTH = 131072


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rotated(x, cos, sin):
    """`x` [tokens, heads, head_dim] with rotary positions."""
    a, b = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def random_matrix(n_in, n_out, scale=1.0):
    return nn.Parameter(torch.randn(n_out, n_in) * scale / math.sqrt(n_in))


def ones(size):
    return nn.Parameter(torch.ones(size))


class Block(nn.Module):
    """A decoder layer, in two parts around attention."""

    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = ones(HIDDEN), ones(HIDDEN)
        self.q = random_matrix(HIDDEN, HEADS * HEAD_DIM)
        self.k = random_matrix(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v = random_matrix(HIDDEN, KV_HEADS * HEAD_DIM)
        self.qn, self.kn = ones(HEAD_DIM), ones(HEAD_DIM)
        self.o = random_matrix(HEADS * HEAD_DIM, HIDDEN, 0.3)
        self.gate = random_matrix(HIDDEN, FEED_FORWARD)
        self.up = random_matrix(HIDDEN, FEED_FORWARD)
        self.down = random_matrix(FEED_FORWARD, HIDDEN, 0.3)

    def before_attention(self, x, cos, sin):
        """Queries, keys and values [tokens, heads, head_dim]."""
        h = rms_norm(x, self.ln1)
        q = rms_norm(F.linear(h, self.q).view(-1, HEADS, HEAD_DIM), self.qn)
        k = rms_norm(F.linear(h, self.k).view(-1, KV_HEADS, HEAD_DIM), self.kn)
        v = F.linear(h, self.v).view(-1, KV_HEADS, HEAD_DIM)
        return rotated(q, cos, sin).to(x.dtype), rotated(k, cos, sin).to(x.dtype), v

    def after_attention(self, x, attended):
        """Hidden states [tokens, hidden] after attention's output and the feed-forward part."""
        x = x + F.linear(attended, self.o)
        h = rms_norm(x, self.ln2)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


class Model(nn.Module):
    """The decoder without its output layer, which is the embedding's transpose."""

    def __init__(self, compiled=True):
        super().__init__()
        self.emb = nn.Parameter(torch.randn(VOCABULARY, HIDDEN) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln = ones(HIDDEN)
        self.parts = (Block.before_attention, Block.after_attention)
        self.compiled_parts = self.parts
        if compiled:
            self.compiled_parts = tuple(torch.compile(part, dynamic=False) for part in self.parts)

    def forward(self, ids, compiled=True):
        """Hidden states [batch · tokens, hidden] of ids [batch, tokens]."""
        n_batch, n_tokens = ids.shape
        position = torch.arange(n_tokens, device=ids.device, dtype=torch.float32)
        frequency = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2, device=ids.device) / HEAD_DIM)
        angle = position[:, None] * frequency
        cos, sin = (f(angle).repeat(n_batch, 1)[:, None] for f in (torch.cos, torch.sin))
        before, after = self.compiled_parts if compiled else self.parts

        def by_head(x):
            return x.view(n_batch, n_tokens, -1, HEAD_DIM).transpose(1, 2)

        x = F.embedding(ids.reshape(-1), self.emb)
        for block in self.blocks:
            q, k, v = (by_head(part) for part in before(block, x, cos, sin))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = after(block, x, attended.transpose(1, 2).reshape(n_batch * n_tokens, HEADS * HEAD_DIM))
        return rms_norm(x, self.ln)


def named(model):
    """The model's parameters under their Hugging Face names."""
    parameters = {"model.embed_tokens.weight": model.emb, "model.norm.weight": model.ln}
    for i, block in enumerate(model.blocks):
        of_block = {
            "input_layernorm": block.ln1,
            "post_attention_layernorm": block.ln2,
            "self_attn.q_proj": block.q,
            "self_attn.k_proj": block.k,
            "self_attn.v_proj": block.v,
            "self_attn.o_proj": block.o,
            "self_attn.q_norm": block.qn,
            "self_attn.k_norm": block.kn,
            "mlp.gate_proj": block.gate,
            "mlp.up_proj": block.up,
            "mlp.down_proj": block.down,
        }
        parameters.update({f"model.layers.{i}.{name}.weight": tensor for name, tensor in of_block.items()})
    return parameters


def load(model, path):
    """Takes the weights of a `model.safetensors`."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in named(model).items():
            parameter.copy_(saved[name])


def config():
    """The model's `config.json`."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
        "max_position_embeddings": MAX_LENGTH,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": LAYERS,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def save(model, folder):
    """Writes `model.safetensors` in bfloat16, and `config.json`."""
    weights = {name: p.detach().to(torch.bfloat16).contiguous().cpu() for name, p in named(model).items()}
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    Path(folder, "config.json").write_text(json.dumps(config(), indent=2))


def difference_to_transformers(model, folder):
    """(largest difference, largest logit) between this model, its weights rounded, and Hugging Face's of a folder."""
    from transformers import Qwen3ForCausalLM

    device = model.emb.device
    theirs = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    ids = torch.randint(0, VOCABULARY, (1, 777), device=device)
    with torch.no_grad():
        expected = theirs(ids).logits[0]
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16).float()
        logits = model(ids, compiled=False) @ model.emb.T
    return (expected - logits).abs().max().item(), expected.abs().max().item()
