"""Writes a model of random weights, to time whole runs with: an 8B Llama shape with the bundled model's tokenizer, 16 GB.

usage: python3 random_model.py FOLDER [--layers 32]
"""

import argparse
import json
import os
import shutil

import torch

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 4096, 14336, 32, 8, 128, 128_256
BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "needle-6m")
LAYER = {
    "input_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "post_attention_layernorm": (HIDDEN,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def write(path, shapes):
    """A safetensors file: norms are 1, matrices normal with a spread that keeps lengths as they are."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            one = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, device="cuda") / shape[1] ** 0.5
            one.bfloat16().view(torch.int16).cpu().numpy().tofile(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int, default=32)
    o = parser.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    shutil.copy(os.path.join(BUNDLED, "tokenizer.json"), o.folder)
    config = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": o.layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 1 << 20, "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    json.dump(config, open(os.path.join(o.folder, "config.json"), "w"))
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    layers = [{f"model.layers.{i}.{name}.weight": shape for name, shape in LAYER.items()} for i in range(o.layers)]
    files = {f"model-{i:02}.safetensors": shapes for i, shapes in enumerate([ends, *layers])}
    for name, shapes in files.items():
        write(os.path.join(o.folder, name), shapes)
    weight_map = {tensor: name for name, shapes in files.items() for tensor in shapes}
    json.dump({"weight_map": weight_map}, open(os.path.join(o.folder, "model.safetensors.index.json"), "w"))


if __name__ == "__main__":
    main()
