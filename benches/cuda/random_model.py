"""Writes a model of random weights, to time whole runs with, with the bundled model's tokenizer.

usage: python3 random_model.py FOLDER [--shape llama-8b|smollm2-135m|qwen2.5-0.5b|gpt-oss-20b|qwen3-30b-a3b] [--layers N]
16 GB of an 8B Llama, 0.3 GB of SmolLM2-135M, 1.3 GB of Qwen2.5-0.5B, 14 GB of gpt-oss-20b (its experts in MXFP4), 61 GB of Qwen3-30B-A3B.
"""

import argparse
import json
import os
import shutil

import torch

BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "needle-6m")
CONFIGS = {
    "llama-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256, "rope_theta": 500000.0,
    },
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_152, "rope_theta": 100000.0,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151_936, "rope_theta": 1000000.0,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201_088, "rope_theta": 150000.0, "num_local_experts": 32,
        "num_experts_per_tok": 4, "sliding_window": 128, "attention_bias": True, "swiglu_limit": 7.0,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "quantization_config": {"quant_method": "mxfp4"},
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                         "original_max_position_embeddings": 4096},
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151_936, "rope_theta": 1000000.0, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
}


def layer(c):
    """Names and shapes of a layer's tensors; those of bytes are MXFP4's."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    width, kv_width = (c[n] * c["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    attention = {"q": (width, hidden), "k": (kv_width, hidden), "v": (kv_width, hidden), "o": (hidden, width)}
    shapes = {f"self_attn.{name}_proj.weight": shape for name, shape in attention.items()}
    shapes |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if c["model_type"] == "qwen2":
        shapes |= {f"self_attn.{name}_proj.bias": attention[name][:1] for name in "qkv"}
    if c["model_type"] == "gpt_oss":
        n = c["num_local_experts"]
        shapes |= {f"self_attn.{name}_proj.bias": shape[:1] for name, shape in attention.items()}
        shapes |= {"self_attn.sinks": (c["num_attention_heads"],), "mlp.router.weight": (n, hidden), "mlp.router.bias": (n,)}
        for part, n_out, n_in in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            name = f"mlp.experts.{part}"
            shapes |= {f"{name}_bias": (n, n_out), f"{name}_blocks": (n, n_out, n_in // 32, 16), f"{name}_scales": (n, n_out, n_in // 32)}
    elif c["model_type"] == "qwen3_moe":
        n, inner = c["num_experts"], c["moe_intermediate_size"]
        shapes |= {f"self_attn.{name}_norm.weight": (c["head_dim"],) for name in "qk"} | {"mlp.gate.weight": (n, hidden)}
        for i in range(n):
            shapes |= {f"mlp.experts.{i}.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
            shapes |= {f"mlp.experts.{i}.down_proj.weight": (hidden, inner)}
    else:
        shapes |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")} | {"mlp.down_proj.weight": (hidden, inner)}
    return shapes


def numbers(name, shape):
    """Norms are 1, matrices normal with a spread that keeps lengths as they are."""
    if name.endswith("_blocks"):
        return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    if name.endswith("_scales"):
        # 4-bit numbers are about 3 in length, and 2^-8 of it with about a thousand to a row.
        return torch.full(shape, 127 - 8, dtype=torch.uint8)
    if name.endswith(("bias", "sinks")):
        return torch.zeros(shape).bfloat16().view(torch.int16)
    one = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, device="cuda") / shape[1] ** 0.5
    return one.bfloat16().view(torch.int16)


def write(path, shapes):
    header, end = {}, 0
    for name, shape in shapes.items():
        of_bytes = name.endswith(("_blocks", "_scales"))
        start, end = end, end + (1 if of_bytes else 2) * torch.Size(shape).numel()
        header[name] = {"dtype": "U8" if of_bytes else "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            numbers(name, shape).cpu().numpy().tofile(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=CONFIGS, default="llama-8b")
    parser.add_argument("--layers", type=int)
    o = parser.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    shutil.copy(os.path.join(BUNDLED, "tokenizer.json"), o.folder)
    config = CONFIGS[o.shape] | {"rms_norm_eps": 1e-5, "max_position_embeddings": 1 << 20, "hidden_act": "silu", "tie_word_embeddings": False}
    config["num_hidden_layers"] = o.layers or config["num_hidden_layers"]
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    json.dump(config, open(os.path.join(o.folder, "config.json"), "w"))
    table = (config["vocab_size"], config["hidden_size"])
    ends = {"model.embed_tokens.weight": table, "model.norm.weight": table[1:], "lm_head.weight": table}
    layers = [{f"model.layers.{i}.{name}": shape for name, shape in layer(config).items()} for i in range(config["num_hidden_layers"])]
    files = {f"model-{i:02}.safetensors": shapes for i, shapes in enumerate([ends, *layers])}
    for name, shapes in files.items():
        write(os.path.join(o.folder, name), shapes)
    weight_map = {tensor: name for name, shapes in files.items() for tensor in shapes}
    json.dump({"weight_map": weight_map}, open(os.path.join(o.folder, "model.safetensors.index.json"), "w"))


if __name__ == "__main__":
    main()
