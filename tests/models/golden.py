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


MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN2_MOE = {"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
             "shared_expert_intermediate_size": 48}
QWEN3_MOE = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "head_dim": 24}
OLMOE = {"model_type": "olmoe", "num_experts": 6, "num_experts_per_tok": 2}
GLM4_MOE = {"model_type": "glm4_moe", "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 2,
            "routed_scaling_factor": 1.7, "head_dim": 16, "partial_rotary_factor": 0.5}
GPT_OSS = {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 96, "head_dim": 16,
           "sliding_window": 40, "num_hidden_layers": 3, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0,
           "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 64}}
MODELS += [
    MIXTRAL,
    {**MIXTRAL, "head_dim": 24, "sliding_window": 40, "num_experts_per_tok": 3},
    {**QWEN2_MOE, "num_hidden_layers": 3, "mlp_only_layers": [1]},
    {**QWEN2_MOE, "num_hidden_layers": 4, "decoder_sparse_step": 2, "norm_topk_prob": True, "use_sliding_window": True,
     "sliding_window": 40, "max_window_layers": 3},
    {**QWEN3_MOE, "norm_topk_prob": True},
    {**QWEN3_MOE, "attention_bias": True, "mlp_only_layers": [0], "tie_word_embeddings": True},
    OLMOE,
    {**OLMOE, "norm_topk_prob": True, "num_key_value_heads": 4},
    {**GLM4_MOE, "attention_bias": True, "use_qk_norm": True, "n_group": 4, "topk_group": 2, "num_hidden_layers": 3},
    {**GLM4_MOE, "norm_topk_prob": False, "first_k_dense_replace": 0},
    {**GPT_OSS, "quantization_config": {"quant_method": "mxfp4"}},
    {**GPT_OSS, "swiglu_limit": 0.4, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
]
# What the 4 bits of MXFP4 stand for.
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def numbers():
    """Yields numbers from 0 to 1."""
    state = 7
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 40) / 2**24


def in_files(family, name, tensor, in_blocks):
    """The names and shapes that a tensor of transformers has in a model's files, and how values come to their places there."""
    inner = tensor.shape[1] // 2 if tensor.dim() > 1 else 0
    if family == "mixtral":
        name = name.replace(".mlp.", ".block_sparse_moe.")
    if in_blocks and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        n_experts, n_in, n_out = tensor.shape
        shape = (n_experts, n_out, n_in // 32)
        found = {}

        def put(kind, values):
            found[kind] = values.reshape(*shape, -1).long()
            if len(found) == 2:
                both = torch.stack([found["blocks"] & 15, found["blocks"] >> 4], -1).flatten(3)
                numbers = FP4[both] * 2.0 ** (found["scales"] - 127)
                tensor.copy_(numbers.reshape(n_experts, n_out, n_in).transpose(1, 2))

        return [(f"{name}_blocks", (*shape, 16), lambda v: put("blocks", v)), (f"{name}_scales", shape, lambda v: put("scales", v))]
    if family == "gpt_oss" or ".experts." not in name:
        return [(name, tensor.shape, tensor.copy_)]
    parts = {"w1": "gate", "w3": "up", "w2": "down"} if family == "mixtral" else {f"{p}_proj": p for p in ("gate", "up", "down")}
    place = {"gate": lambda x: x[:inner], "up": lambda x: x[inner:], "down": lambda x: x}
    stem, kind = name.rsplit(".", 1)
    mine = [(part, place[p]) for part, p in parts.items() if (p == "down") == (kind == "down_proj")]
    return [(f"{stem}.{i}.{part}.weight", of(tensor[i]).shape, of(tensor[i]).copy_) for i in range(len(tensor)) for part, of in mine]


def values_of(name, shape, random):
    n = math.prod(shape)
    if name.endswith("_blocks"):
        return torch.tensor([int(next(random) * 256) for _ in range(n)]).reshape(shape)
    if name.endswith("_scales"):
        return torch.tensor([122 + int(next(random) * 3) for _ in range(n)]).reshape(shape)
    spread = math.sqrt(3 / shape[-1]) if len(shape) > 1 and "embed" not in name else 0.7
    centre = 1.0 if "norm" in name else 0.0
    return torch.tensor([centre + spread * (2 * next(random) - 1) for _ in range(n)], dtype=torch.float64).reshape(shape)


def golden(changes):
    config = {**COMMON, **changes}
    if config["rope_theta"] is None:
        del config["rope_theta"]
    in_blocks = "quantization_config" in config
    written = {name: value for name, value in json.loads(json.dumps(config)).items() if value is not None}
    config.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32, attn_implementation="eager",
                                             experts_implementation="eager")
    model.eval()
    random = numbers()
    tokens = [int(next(random) * 96) for _ in range(N_TOKENS)]
    state = model.state_dict()
    tied = ["lm_head.weight"] if config["tie_word_embeddings"] else []
    tensors = [part for name in state if name not in tied for part in in_files(config["model_type"], name, state[name], in_blocks)]
    for name, shape, put in sorted(tensors, key=lambda tensor: tensor[0]):
        put(values_of(name, shape, random))
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1]
    return {"config": written, "logits": [float(f"{x:.8g}") for x in logits.tolist()]}


lines = [json.dumps(golden(changes)) for changes in MODELS]
pathlib.Path(__file__).with_suffix(".json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
