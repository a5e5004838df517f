"""Word problems over a few people, worked out sentence by sentence, with what each sentence needs."""

from tasks import ITEMS, MUSING, NAMES

LARGEST = 99


class Problem:
    """Who has how many of an item, and how the text says so.

    `how[p]` is None where the number is given, else ("sum", a, b), ("same", a), ("more", a, d) or ("fewer", a, d).
    """

    def __init__(self, rng, n_people):
        self.item = rng.choice(ITEMS)
        self.people = rng.sample(NAMES, n_people)
        self.value, self.how = {}, {}
        n_given = max(1, min(n_people - 1, rng.randint(1, max(1, n_people // 4))))
        for i, person in enumerate(self.people):
            if i < n_given:
                self.value[person], self.how[person] = rng.randint(1, 60), None
            else:
                self._relate(rng, person, self.people[:i])
        self.order = self.people[:]
        rng.shuffle(self.order)
        self.target = self.people[-1]

    def _relate(self, rng, person, earlier):
        """Gives a person a number by those of one or two earlier people."""
        value = self.value
        a = rng.choice(earlier) if rng.random() < 0.5 else rng.choice(earlier[-4:])
        others = [b for b in earlier if b != a and value[a] + value[b] <= LARGEST]
        d = rng.randint(1, 12)
        choice = rng.random()
        if choice < 0.35 and others:
            b = rng.choice(others)
            value[person], self.how[person] = value[a] + value[b], ("sum", a, b)
        elif (choice < 0.7 and value[a] + d <= LARGEST) or value[a] - d < 1:
            d = min(d, LARGEST - value[a])
            value[person] = value[a] + d
            self.how[person] = ("more", a, d) if d > 0 else ("same", a)
        else:
            value[person], self.how[person] = value[a] - d, ("fewer", a, d)

    def parents(self, person):
        """The people whose numbers a person's number is made from."""
        how = self.how[person]
        if how is None:
            return []
        return list(how[1:]) if how[0] == "sum" else [how[1]]

    def statement(self, person):
        """What the problem says about a person."""
        how = self.how[person]
        if how is None:
            return f" {person} has {self.value[person]} {self.item}."
        if how[0] == "sum":
            return f" {person} has as many {self.item} as {how[1]} and {how[2]} together."
        if how[0] == "same":
            return f" {person} has as many {self.item} as {how[1]}."
        return f" {person} has {how[2]} {how[0]} {self.item} than {how[1]}."

    def needed(self):
        """The people whose numbers the answer needs, in order."""
        need, stack = set(), [self.target]
        while stack:
            person = stack.pop()
            if person not in need:
                need.add(person)
                stack += self.parents(person)
        return [p for p in self.people if p in need]

    def text(self):
        """The problem: statements in random order, then the question."""
        question = f" How many {self.item} does {self.target} have?"
        return "".join(self.statement(p) for p in self.order) + question

    def result(self, person):
        """The sentence of the chain of thought that finds a person's number."""
        value, item, how = self.value, self.item, self.how[person]
        if how is None:
            return f" The problem says that {person} has {value[person]} {item}."
        a = how[1]
        if how[0] == "sum":
            b = how[2]
            total = f"{value[a]} + {value[b]} = {value[person]}"
            return f" {person} has as many as {a} and {b}, so {person} has {total} {item}."
        if how[0] == "same":
            return f" {person} has as many as {a}, so {person} has {value[person]} {item}."
        sign = "+" if how[0] == "more" else "-"
        total = f"{value[a]} {sign} {how[2]} = {value[person]}"
        return f" {person} has {how[2]} {how[0]} than {a}, so {person} has {total} {item}."


def chain_of_thought(rng, problem, musing, recheck):
    """[(sentence, kind, used)]: `used` holds the indices of the earlier sentences that it needs."""
    chain, where = [], {}

    def say(text, kind, used=()):
        chain.append((text, kind, sorted(set(used))))
        return len(chain) - 1

    item, target, value = problem.item, problem.target, problem.value
    todo = problem.needed()
    say(f" I need to find how many {item} {target} has.", "problem_setup")
    plan = say(" Plan: find " + ", then ".join(todo) + ".", "plan_generation", [0])
    for person in todo:
        if rng.random() < musing:
            say(rng.choice(MUSING), "filler")
        kind = "fact_retrieval" if problem.how[person] is None else "active_computation"
        used = [plan] + [where[p] for p in problem.parents(person)]
        where[person] = say(problem.result(person), kind, used)
        if rng.random() < recheck:
            other = rng.choice(list(where))
            wait = say(f" Wait, let me check {other} again.", "uncertainty_management")
            say(f" Yes, {other} has {value[other]} {item}.", "self_checking", [wait, where[other]])
    say(f" Therefore {target} has {value[target]} {item}.", "final_answer_emission", [where[target]])
    return chain


def reasoning(rng, n_people, musing=0.25, recheck=0.12):
    """A word problem with its worked chain of thought.

    Returns (problem text, [(sentence, kind, used)], answer text): `used` lists the indices of the earlier
    sentences whose results the sentence needs, its true anchors.
    """
    problem = Problem(rng, n_people)
    chain = chain_of_thought(rng, problem, musing, recheck)
    return problem.text(), chain, f" The answer is {problem.value[problem.target]}."
