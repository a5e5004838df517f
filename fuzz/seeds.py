"""Write `fuzz/seeds`: small valid files of each kind, from which fuzzing starts. Run it after a format has changed:

    .venv/bin/python fuzz/seeds.py
"""

import json
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save, save_file

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ENGINE = os.environ.get("STREAMTRACE_ENGINE", str(TARGET / "release" / "streamtrace"))
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 24}
CONFIG = {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True, **SIZES}
WORDS = ["[UNK]", *"abcdefghij", ".", "The", "harp", "is", "green", "What", "?", "é", "</script>", "&", "\u2028"]
PROMPT = "The harp is green . " * 6 + "a b c d e. What is green ? </script> & é The"


def seed(target, name, content):
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (SEEDS / target / name).write_bytes(content)
    return content


def configs():
    scaled = {"factor": 8.0, "original_max_position_embeddings": 64}
    llama3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **scaled}
    long = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **scaled}
    for name, changes in {
        "qwen3": {},
        "llama3": {"model_type": "llama", "rope_scaling": llama3, "rope_theta": 5e5, "attention_bias": True},
        "yarn": {"model_type": "qwen2", "rope_scaling": {"rope_type": "yarn", "mscale": 0.7, "mscale_all_dim": 1.0, **scaled}},
        "longrope": {"model_type": "phi3", "rope_scaling": long, "partial_rotary_factor": 1.0, "sliding_window": 9},
        "dynamic": {"model_type": "mistral", "rope_scaling": {"type": "dynamic", **scaled}, "max_position_embeddings": 64},
        "gemma2": {"model_type": "gemma2", "sliding_window": 4, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 8},
        "gemma3": {"model_type": "gemma3", "text_config": {**SIZES, "num_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention"]}},
    }.items():
        seed("config", f"{name}.json", {**CONFIG, "hidden_act": "silu", **changes})


def tokenizers():
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None}  # fmt: skip
    words = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    pairs = {"type": "BPE", "vocab": {t: i for i, t in enumerate([*"Helo\u0120wrd1", "ll", "He"])}, "merges": ["l l", "H e"],
             "byte_fallback": True, "unk_token": "1", "fuse_unk": True}  # fmt: skip
    token = {"id": 7, "content": "[S]", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}
    start = {"SpecialToken": {"id": "[S]", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [start],
                "special_tokens": {"[S]": {"id": "[S]", "ids": [7], "tokens": ["[S]"]}}}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}]+"}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    padding = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
               "pad_token": "[PAD]"}  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    seed("tokenizer", "words.json", {**whole, "model": words, "padding": padding})
    seed("tokenizer", "pairs.json", {
        **whole, "model": pairs, "added_tokens": [token], "post_processor": template, "decoder": bytes_,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]}, "normalizer": {"type": "NFC"},
    })  # fmt: skip
    seed("tokenizer", "pieces.json", {
        **whole, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["\u2581", -1.5], ["a", -2.0]]},
        "pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]},
    })  # fmt: skip
    return {**whole, "model": words}


def weights():
    random = np.random.default_rng(1)
    size, table = CONFIG["hidden_size"], [CONFIG["vocab_size"], CONFIG["hidden_size"]]
    shapes = {"embed_tokens": table, "norm": [size]}
    for layer in range(CONFIG["num_hidden_layers"]):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in {
            "input_layernorm": [size], "post_attention_layernorm": [size],
            "self_attn.q_proj": [16, size], "self_attn.k_proj": [8, size], "self_attn.v_proj": [8, size],
            "self_attn.o_proj": [size, 16], "self_attn.q_norm": [8], "self_attn.k_norm": [8],
            "mlp.gate_proj": [16, size], "mlp.up_proj": [16, size], "mlp.down_proj": [size, 16],
        }.items()}  # fmt: skip
    return {f"model.{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def shards():
    shard = save({"model.norm.weight": np.ones((2, 3), np.float16), "other": np.ones((1, 0), np.float32)})
    seed("weights", "one", b"\0" + shard)
    index = json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": "a.safetensors", "b": "../a.safetensors"}})
    seed("weights", "index", index.encode() + b"\0" + shard)


def gguf(metadata, tensors):
    """Return a GGUF file with tensors of 32-bit numbers or of blocks of 32 numbers in 8 bits."""
    text = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()

    def value(x):
        kind, body = {
            bool: lambda: (7, struct.pack("<?", x)), int: lambda: (4, struct.pack("<I", x)),
            float: lambda: (6, struct.pack("<f", x)), str: lambda: (8, text(x)),
            list: lambda: (9, struct.pack("<IQ", value(x[0])[0], len(x)) + b"".join(value(y)[1] for y in x)),
        }[type(x)]()  # fmt: skip
        return (kind, body)

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, x in metadata.items():
        kind, body = value(x)
        head += text(key) + struct.pack("<I", kind) + body
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    return head + b"\0" * (-len(head) % 32) + data


def ggufs():
    of = lambda shape: (0, shape, np.ones(shape, np.float32).tobytes())
    common = {"block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2, "context_length": 64}
    tensors = {"token_embd.weight": (8, [4, 32], b"\1" * 34 * 4), "output_norm.weight": of([32]), "blk.0.attn_q.weight": of([32, 32])}
    tokens = {"tokens": ["<s>", "a", "b", "ab"], "token_type": [3, 1, 1, 1], "bos_token_id": 0, "eos_token_id": 0}
    for name, architecture, more, vocabulary in [
        ("pairs", "llama", {"rope.freq_base": 1e4}, {"model": "gpt2", "pre": "llama-bpe", "merges": ["a b"]}),
        ("pieces", "gemma2", {"attention.sliding_window": 4}, {"model": "llama", "scores": [0.0, -1.0, -1.0, -2.0], "add_bos_token": True}),
        ("yarn", "qwen2", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, {"model": "gpt2", "pre": "qwen2"}),
    ]:  # fmt: skip
        metadata = {"general.architecture": architecture, "tokenizer.chat_template": "{{ messages }}"}
        metadata |= {f"{architecture}.{key}": x for key, x in {**common, **more}.items()}
        metadata |= {f"tokenizer.ggml.{key}": x for key, x in {**tokens, **vocabulary}.items()}
        factors = {"rope_freqs.weight": of([8])} if name == "pairs" else {}
        seed("gguf", name, gguf(metadata, tensors | factors))


def traces(tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "model"), Path(folder, "a.trace")
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        save_file(weights(), model / "model.safetensors")
        for name, verb, more in [("trace", "trace", ["--top-k", "4"]), ("compared", "compare", ["--pruned", "0.3"])]:
            blocks = ["--block-size-q", "8", "--block-size-k", "4", "--sink-blocks", "1", "--local-blocks", "2"]
            run = [ENGINE, verb, "--device", "cpu", "--model", model, "--prompt", PROMPT, *blocks, *more, "--out", out]
            subprocess.run(run, check=True, capture_output=True)
            whole = seed("trace", name, out.read_bytes())
    return whole


def frame(header, kind=0, body=b""):
    header = json.dumps(header).encode()
    return b"STRM" + struct.pack("<HBBIQ", 3, kind, 0, len(header), len(body)) + header + body


def frames(trace):
    config = {"top_k": 4}
    seed("protocol", "requests", frame({"trace": {"prompt": "a", "config": config}}) + frame("model") + frame({"compare": {}}, 2, b"x"))
    progress = {"layer": {"stage": "trace", "layer": 1, "n_layers": 2, "tokens_per_second": 1.5, "seconds_left": 0.0}}
    error = {"Model": {"path": "a", "expected": "b", "found": "c", "fix": "d"}}
    seed("protocol", "messages", frame({"progress": progress}) + frame({"error": error}) + frame({"reply": {"count": 3}}))
    seed("protocol", "traced", frame("piece", 2, b"x") + frame({"reply": "traced"}, 1, trace))


if __name__ == "__main__":
    configs()
    shards()
    ggufs()
    frames(traces(tokenizers()))
