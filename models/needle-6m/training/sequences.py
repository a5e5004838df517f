"""Training sequences: task text packed into token ids with a loss weight for each.

A piece is (ids, weight): weight is the training-loss weight of the piece's tokens.
"""

import random

import numpy as np
from tokenizers import Tokenizer

from reasoning import reasoning
from tasks import (
    NIAH_INTRO_MANY,
    NIAH_INTRO_ONE,
    NOISE,
    VT_INTRO,
    Words,
    key,
    needle,
    niah_question,
    number,
    prose_sentence,
    vt_chain,
    vt_question,
)

# Loss weights.
HAY, INSERT, ASK, ANSWER = 0.02, 0.05, 0.1, 1.0
THOUGHT, RESULT = 0.3, 1.0
RESULT_KINDS = ("active_computation", "fact_retrieval", "self_checking", "final_answer_emission")

PROSE_POOL = 12000  # sentences
END_OF_TEXT = 0  # token


def n_tokens(pieces):
    """Tokens of all pieces."""
    return sum(len(ids) for ids, _ in pieces)


class Maker:
    """Packs task text into (ids, weights) sequences of an exact length."""

    def __init__(self, tokenizer, words, seed):
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.words = Words(words)
        self.rng = random.Random(seed)
        pool = [self.encode(prose_sentence(self.rng, self.words)) for _ in range(PROSE_POOL)]
        self.pool = np.concatenate(pool)
        self.starts = np.cumsum([0] + [len(sentence) for sentence in pool])
        self.noise = self.encode("".join(NOISE))

    def encode(self, text):
        """Token ids of a text."""
        return np.array(self.tokenizer.encode(text).ids, dtype=np.uint16)

    def haystack(self, kind, room):
        """About `room` tokens of haystack, "noise" or "prose", as chunks of whole sentences."""
        if kind == "noise":
            return [self.noise] * max(1, room // len(self.noise))
        chunks, have = [], 0
        while have < room:
            first = self.rng.randrange(len(self.starts) - 9)
            last = first + self.rng.randint(1, 8)
            chunk = self.pool[self.starts[first] : self.starts[last]]
            chunks.append(chunk)
            have += len(chunk)
        return chunks

    def scatter(self, chunks, inserts):
        """Pieces of haystack with the inserts, in order, at random places between them."""
        spots = sorted(self.rng.randrange(len(chunks) + 1) for _ in inserts)
        pieces, at = [], 0
        for spot, insert in zip(spots, inserts):
            pieces += [(chunk, HAY) for chunk in chunks[at:spot]] + [insert]
            at = spot
        return pieces + [(chunk, HAY) for chunk in chunks[at:]]

    def question(self, texts, prefix_weight=ASK):
        """Pieces of (question, answer prefix, answer)."""
        question, prefix, answer = texts
        return [
            (self.encode(question), ASK),
            (self.encode(prefix), prefix_weight),
            (self.encode(answer), ANSWER),
        ]

    def needles(self, values):
        """Needles of all keys and values, shuffled."""
        inserts = [(self.encode(needle(k, v)), INSERT) for k in values for v in values[k]]
        self.rng.shuffle(inserts)
        return inserts

    def niah(self, length):
        """Needles in a haystack of prose, noise or nothing but needles, and many questions about them."""
        rng = self.rng
        kind = rng.choices(["prose", "noise", "needles"], [6, 1.5, 2.5])[0]
        few = rng.random() < 0.3
        n_keys = rng.randint(1, 4) if few else rng.randint(1, max(2, min(64, length // 100)))
        if kind == "needles":
            n_keys = min(600, length // 45)
        keys = list(dict.fromkeys(key(rng, self.words) for _ in range(n_keys)))
        values = {}
        for k in keys:
            n_values = rng.randint(2, 4) if rng.random() < 0.15 else 1
            values[k] = [number(rng) for _ in range(n_values)]
        questions = self.niah_questions(values, max(120, length // 6) if length <= 4096 else 2500)
        inserts = self.needles(values)
        intro = self.encode(NIAH_INTRO_ONE if len(inserts) == 1 else NIAH_INTRO_MANY)
        room = length - n_tokens(questions) - len(intro) - n_tokens(inserts) - 140
        chunks = self.haystack("prose" if kind == "needles" else kind, room) if room > 30 else []
        return [(intro, HAY)] + self.scatter(chunks, inserts) + [(self.encode("\n"), ASK)] + questions

    def niah_questions(self, values, budget):
        """Questions about random keys, until the next one would take more than `budget` tokens."""
        rng, keys = self.rng, list(values)
        questions, asked = [], 0
        while asked < budget:
            chosen = rng.sample(keys, min(len(keys), rng.choice([1, 1, 1, 1, 2, 4])))
            pieces = self.question(niah_question(chosen, [values[k] for k in chosen]))
            if asked and asked + n_tokens(pieces) > budget:
                break
            questions += pieces
            asked += n_tokens(pieces)
        return questions

    def vt(self, length):
        """Chains of variables, each in order but mixed with the others, and questions about up to 8 of them."""
        rng = self.rng
        n_chains = rng.randint(1, max(1, min(12, length // 300)))
        chains = [vt_chain(rng, rng.randint(2, 5)) for _ in range(n_chains)]
        lines = [(i, self.encode(line)) for i, chain in enumerate(chains) for line in chain[2]]
        order = sorted(range(len(lines)), key=lambda _: rng.random())
        of_chain = {i: iter([ids for j, ids in lines if j == i]) for i in range(len(chains))}
        inserts = [(next(of_chain[lines[j][0]]), INSERT) for j in order]
        questions = []
        for names, value, _ in rng.sample(chains, min(len(chains), 8)):
            questions += self.question(vt_question(names, value), prefix_weight=0.3)
        intro = self.encode(VT_INTRO)
        room = length - len(intro) - n_tokens(inserts + questions) - 60
        chunks = self.haystack(rng.choice(["noise", "prose"]), room) if room > 30 else []
        return [(intro, HAY)] + self.scatter(chunks, inserts) + [(self.encode("\n"), ASK)] + questions

    def cot(self, length):
        """A word problem and its chain of thought; sometimes with its facts scattered over prose."""
        rng = self.rng
        n_people = rng.randint(3, 8) if length <= 512 else rng.randint(3, 24)
        problem, chain, answer = reasoning(rng, n_people)
        facts, _, question = problem.rpartition(". ")
        thoughts = [(self.encode(text), RESULT if kind in RESULT_KINDS else THOUGHT) for text, kind, _ in chain]
        tail = [(self.encode(f"\nQuestion: {question}\nThink:"), ASK), *thoughts]
        tail += [(self.encode("\nAnswer:"), ANSWER), (self.encode(answer), ANSWER)]
        inserts = [(self.encode(f" {fact.strip()}."), INSERT) for fact in facts.split(". ")]
        if length >= 2048 and rng.random() < 0.3:
            room = min(length, rng.choice([1024, 2048, 4096, 8192])) - n_tokens(inserts + tail)
            if room > 30:
                return self.scatter(self.haystack("prose", room), inserts) + tail
        return inserts + tail

    def sequence(self, length):
        """Documents of all tasks, one after the other: `length` + 1 ids and their weights."""
        ids, weights, have = [], [], 0
        end = (np.full(1, END_OF_TEXT, np.uint16), 0.1)
        while have < length + 1:
            task = self.rng.choices([self.niah, self.vt, self.cot], [0.5, 0.12, 0.38])[0]
            left = length + 1 - have
            if left < 300:
                task = self.cot
            for piece, weight in task(left) + [end]:
                ids.append(piece)
                weights.append(np.full(len(piece), weight, np.float16))
                have += len(piece)
        return np.concatenate(ids)[: length + 1], np.concatenate(weights)[: length + 1]
