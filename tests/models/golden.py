"""Writes golden.json: the logits that PyTorch's transformers computes for small models of some families.

    pip install torch transformers && python tests/models/golden.py

Weights and tokens come from a generator that tests/models/golden.rs has, too.
"""

import json
import math
import pathlib

import torch
from transformers import AutoConfig, AutoModelForCausalLM

N_TOKENS = 157
COMMON = {
    "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 97, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096, "hidden_act": "silu",
    "tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
MODELS = [
    {"model_type": "granite", "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.2,
     "logits_scaling": 3.0, "tie_word_embeddings": True},
    {"model_type": "granite", "residual_multiplier": 0.5, "attention_bias": True, "mlp_bias": True},
    {"model_type": "olmo2"},
    {"model_type": "olmo2", "num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True},
    {"model_type": "olmo3", "num_hidden_layers": 5, "sliding_window": 40, "rope_scaling": YARN, "rope_theta": 500000.0},
    {"model_type": "olmo3", "sliding_window": 33, "layer_types": ["full_attention", "sliding_attention"],
     "rope_theta": None, "rope_parameters": {"full_attention": {**YARN, "rope_theta": 10000.0},
                                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    {"model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": True},
    {"model_type": "smollm3", "num_hidden_layers": 3, "no_rope_layers": [0, 1, 0], "use_sliding_window": True,
     "sliding_window": 40, "attention_bias": True, "mlp_bias": True},
    {"model_type": "glm", "head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True},
    {"model_type": "glm4", "head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True},
    {"model_type": "glm4", "head_dim": 24, "partial_rotary_factor": 0.75, "attention_bias": False, "num_key_value_heads": 1},
]


def numbers():
    """Yields numbers from 0 to 1."""
    state = 7
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 40) / 2**24


def golden(changes):
    config = {**COMMON, **changes}
    if config["rope_theta"] is None:
        del config["rope_theta"]
    written = {name: value for name, value in json.loads(json.dumps(config)).items() if value is not None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32, attn_implementation="eager")
    model.eval()
    random = numbers()
    tokens = [int(next(random) * 96) for _ in range(N_TOKENS)]
    state = model.state_dict()
    for name in sorted(state):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        shape = state[name].shape
        spread = math.sqrt(3 / shape[1]) if len(shape) == 2 and "embed" not in name else 0.7
        centre = 1.0 if "norm" in name else 0.0
        values = [centre + spread * (2 * next(random) - 1) for _ in range(shape.numel())]
        state[name].copy_(torch.tensor(values, dtype=torch.float64).reshape(shape))
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1]
    return {"config": written, "logits": [float(f"{x:.8g}") for x in logits.tolist()]}


lines = [json.dumps(golden(changes)) for changes in MODELS]
pathlib.Path(__file__).with_suffix(".json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
