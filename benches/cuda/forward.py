"""Times PyTorch's dense forward pass of a decoder's shape, what a trace of as many tokens is measured against.

usage: python3 forward.py SHAPE [--tokens 131072] [--repeats 3]
Random weights in bf16, one prompt, logits of the last token alone; the shapes are 8b (Llama), smollm2 and qwen (0.5B). Needs transformers.
Prints the median of each backend that scaled_dot_product_attention has for it, in seconds.
"""

import argparse
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

SHAPES = {
    "8b": (LlamaConfig, dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256)),
    "smollm2": (LlamaConfig, dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64, vocab_size=49152)),
    "qwen": (Qwen2Config, dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, vocab_size=151936)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--repeats", type=int, default=3)
    o = parser.parse_args()
    kind, sizes = SHAPES[o.shape]
    config = kind(**sizes, max_position_embeddings=1 << 20, use_cache=False, attn_implementation="sdpa")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        ids = torch.randint(0, sizes["vocab_size"], (1, o.tokens))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            times = [seconds(model, ids, backend) for _ in range(o.repeats + 1)][1:]
        except RuntimeError as e:
            print(f"{o.shape}, {o.tokens:,} tokens, {backend.name}: {str(e).splitlines()[0]}")
            continue
        print(f"{o.shape}, {o.tokens:,} tokens, {backend.name}: {statistics.median(times):.4f} s, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, {torch.cuda.get_device_name()}")


@torch.inference_mode()
def seconds(model, ids, backend):
    torch.cuda.synchronize()
    start = time.perf_counter()
    with sdpa_kernel(backend):
        model(input_ids=ids, logits_to_keep=1)
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
