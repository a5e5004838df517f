"""Times PyTorch's dense forward pass of a model and llama.cpp's prompt and writing: MODEL cpu|cuda N_TOKENS. Prints a JSON object a line."""

import json
import os
import random
import statistics
import sys
import time
import urllib.request

MODEL, PLACE, N_TOKENS = sys.argv[1], sys.argv[2], int(sys.argv[3])
WRITTEN = 64


def tell(name, n_tokens, seconds):
    print(json.dumps({"name": name, "n_tokens": n_tokens, "seconds": seconds}), flush=True)


def pytorch():
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from transformers import AutoModelForCausalLM

    where = (os.path.dirname(os.path.abspath(MODEL)), {"gguf_file": os.path.basename(MODEL)}) if os.path.isfile(MODEL) else (MODEL, {})
    dtype = torch.bfloat16 if PLACE == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(where[0], **where[1], dtype=dtype, attn_implementation="sdpa").to(PLACE).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, N_TOKENS), device=PLACE)
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION] if PLACE == "cuda" else [SDPBackend.FLASH_ATTENTION]
    best = []
    for backend in backends:
        try:
            best.append(statistics.median(forward(torch, model, ids, sdpa_kernel(backend)) for _ in range(3)))
        except RuntimeError:
            continue
    if best:
        tell("PyTorch, dense forward pass", N_TOKENS, min(best))


def forward(torch, model, ids, backend):
    with backend, torch.inference_mode():
        model(input_ids=ids[:, :64], logits_to_keep=1, use_cache=False)
        model(input_ids=ids, logits_to_keep=1, use_cache=False)
        if PLACE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        model(input_ids=ids, logits_to_keep=1, use_cache=False)
        if PLACE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def llama_cpp():
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.cache_prompt, p.verbosity = MODEL, N_TOKENS + WRITTEN + 8, 1, True, False, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    server, dice = xllamacpp.Server(p), random.Random(1)
    ids = [dice.randrange(1000, 20000) for _ in range(N_TOKENS)]

    def post(prompt, n_predict):
        body = {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.loads(urllib.request.urlopen(request).read())["timings"]

    writing = [post(ids[i : i + 512], WRITTEN)["predicted_per_token_ms"] for i in range(3)]
    tell("llama.cpp, a token written", 1, statistics.median(writing) / 1000)
    timings = post(ids, 1)
    tell("llama.cpp, prompt", timings["prompt_n"], timings["prompt_ms"] / 1000)


for peer in (pytorch, llama_cpp) if PLACE == "cuda" else (llama_cpp, pytorch):
    try:
        peer()
    except Exception as e:  # another program's failure must not lose our numbers
        print(f"{peer.__name__}: {e}", file=sys.stderr)
