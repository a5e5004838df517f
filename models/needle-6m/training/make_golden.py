"""Write the texts that the crate's tests compare their own with: src/tasks/golden/*.json."""

import argparse
import json
import random
from pathlib import Path

import tasks
from reasoning import Problem, chain_of_thought


def wording():
    """Texts of the retrieval tasks for fixed keys and values."""
    questions = [
        (["foamy-harp"], [["1234567"]]),
        (["foamy-harp"], [["1234567", "7654321", "1111111", "9000009"]]),
        (["a-b", "c-d"], [["1000000"], ["2000000"]]),
        (["a-b", "c-d", "e-f", "g-h"], [["1000000"], ["2000000"], ["3000000"], ["4000000"]]),
    ]
    needles = [("foamy-harp", "1234567"), ("zany-zoo", "1000000")]
    names, value = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY"], "12345"
    words = tasks.Words()
    return {
        "words": {"adjs": len(words.adjs), "nouns": len(words.nouns)},
        "noise": "".join(tasks.NOISE),
        "intros": [tasks.NIAH_INTRO_ONE, tasks.NIAH_INTRO_MANY, tasks.VT_INTRO],
        "needles": [{"key": k, "value": v, "text": tasks.needle(k, v)} for k, v in needles],
        "niah_questions": [
            {"keys": keys, "values": values, "pieces": tasks.niah_question(keys, values)} for keys, values in questions
        ],
        "vt": {
            "names": names,
            "value": value,
            "lines": tasks.vt_lines(names, value),
            "pieces": tasks.vt_question(names, value),
        },
    }


def word_problem(seed, n_people):
    """A word problem: its structure, then all of its text."""
    rng = random.Random(seed)
    problem = Problem(rng, n_people)
    chain = chain_of_thought(rng, problem, musing=0.3, recheck=0.3)
    facts, _, question = problem.text().rpartition(". ")
    return {
        "item": problem.item,
        "people": [{"name": p, "value": problem.value[p], "how": problem.how[p]} for p in problem.people],
        "order": [problem.people.index(p) for p in problem.order],
        "facts": [f" {fact.strip()}." for fact in facts.split(". ")],
        "question": question,
        "chain": [{"text": text, "kind": kind, "depends_on": used} for text, kind, used in chain],
        "answer": f" The answer is {problem.value[problem.target]}.",
    }


def save(path, golden):
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=tasks.WORDS_FOLDER.parent / "golden", help="folder of the JSON files"
    )
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    save(out / "wording.json", wording())
    save(out / "word_problems.json", [word_problem(seed, n) for seed, n in enumerate([2, 3, 5, 8, 12, 24, 40])])


if __name__ == "__main__":
    main()
