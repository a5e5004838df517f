"""Exact-match accuracy by task and length: is every token of the answer, which is the last piece, the most likely?"""

import numpy as np
import torch

from sequences import ANSWER
from tasks import NIAH_INTRO_ONE, VT_INTRO, key, niah_question, number, vt_chain, vt_question

LENGTHS = {"1024": 40, "4096": 40, "16384": 40, "32768": 20, "65536": 20, "131072": 20}


def niah_prompt(maker, length, n_keys, n_values, haystack):
    """Needles in a haystack, one key asked for; without `n_keys`, nearly nothing but needles."""
    rng = maker.rng
    keys = list(dict.fromkeys(key(rng, maker.words) for _ in range(n_keys or length // 26)))
    values = {k: [number(rng) for _ in range(n_values)] for k in keys}
    inserts = maker.needles(values)
    (asked,) = rng.sample(keys, 1)
    question = question_pieces(maker, niah_question([asked], [values[asked]]))
    room = length - sum(len(ids) for ids, _ in inserts + question) - 40
    chunks = maker.haystack(haystack, room) if room > 30 else []
    return [(maker.encode(NIAH_INTRO_ONE), 0), *maker.scatter(chunks, inserts), (maker.encode("\n"), 0), *question]


def vt_prompt(maker, length):
    """One chain of four hops in noise."""
    names, value, lines = vt_chain(maker.rng, 4)
    question = question_pieces(maker, vt_question(names, value))
    inserts = [(maker.encode(line), 0) for line in lines]
    pieces = maker.scatter(maker.haystack("noise", length - 200), inserts)
    return [(maker.encode(VT_INTRO), 0), *pieces, (maker.encode("\n"), 0), *question]


def question_pieces(maker, texts):
    question, prefix, answer = texts
    return [(maker.encode(question), 0), (maker.encode(prefix), 0), (maker.encode(answer), ANSWER)]


TASKS = {
    "niah_single_prose": lambda maker, length: niah_prompt(maker, length, 1, 1, "prose"),
    "niah_single_noise": lambda maker, length: niah_prompt(maker, length, 1, 1, "noise"),
    "niah_multikey4": lambda maker, length: niah_prompt(maker, length, 4, 1, "prose"),
    "niah_multikey_full": lambda maker, length: niah_prompt(maker, length, None, 1, "prose"),
    "niah_multivalue": lambda maker, length: niah_prompt(maker, length, 4, 4, "prose"),
    "vt": vt_prompt,
}


def is_exact(model, pieces):
    """Whether the model finds every token of the last piece most likely."""
    ids = np.concatenate([piece for piece, _ in pieces]).astype(np.int64)
    answer = len(ids) - len(pieces[-1][0])
    prompt = torch.from_numpy(ids)[None, :-1].to(model.emb.device)
    with torch.autocast(prompt.device.type, torch.bfloat16):
        hidden = model(prompt, compiled=False)[answer - 1 :]
    predicted = (hidden.float() @ model.emb.float().T).argmax(-1).cpu().numpy()
    return bool((predicted == ids[answer:]).all())


@torch.no_grad()
def evaluate(model, maker, lengths):
    """{"task@length": share}, from `lengths[length]` prompts each, and 100 of each kind of word problem."""
    model.eval()
    shares = {}

    def check(name, make, length, n_prompts):
        exact = [is_exact(model, make(maker, length)) for _ in range(n_prompts)]
        shares[f"{name}@{length}"] = round(sum(exact) / n_prompts, 3)

    for length, n_prompts in lengths.items():
        for name, make in TASKS.items():
            check(name, make, int(length), n_prompts)
    for length in (512, 1024):
        check("cot_answer", lambda maker, length: maker.cot(length), length, 100)
    model.train()
    return shares
