"""Hold what a notebook's text says against what its cells show.

A claim is marked by an HTML comment right after it, which no reader sees. A number, `**89.4**<!--out--> %`, must stand in
the outputs of the last cell above that has some, rounded or in full; anything else in `code` or **bold**,
`` `6`<!--out--> ``, must stand there letter for letter. `<!--out: layer 3, head 0-->` looks at the lines with these words,
in the last cell above that has such a line.
"""

import re

MARK = re.compile(r"(?P<claim>`[^`]+`|\*\*[^*]+\*\*|[-−]?\d[\d,.]*)(?: %)?<!--out(?:: *(?P<words>.*?))?-->")
ANY_MARK = re.compile(r"<!-- *out\b")
NUMBER = re.compile(r"(?<![\d.])[-−]?\d[\d,]*(?:\.\d+)?(?:e[-−]?\d+)?")


def problems(notebook):
    """Return the marked claims that the outputs above them do not bear out, one line each."""
    found, shown = [], []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown.append(text_of(cell.get("outputs", [])))
            continue
        marks = list(MARK.finditer(cell.source))
        if len(marks) < len(ANY_MARK.findall(cell.source)):
            found.append(f"a mark follows no number, code or bold text: {cell.source.splitlines()[0][:60]}")
        for mark in marks:
            claim, words = mark["claim"].strip("`*").rstrip(",."), mark["words"]
            lines = lines_for(words, shown)
            if not any(bears_out(line, claim) for line in lines):
                where = f"a line with {words!r}" if words else "the last output"
                found.append(f"the text says {claim}, {where} says {' | '.join(lines)[:200] or 'nothing'}")
    return found


def lines_for(words, shown):
    """Return the lines of the last output, or those with some words of the last one that has them."""
    for text in reversed(shown):
        lines = [line for line in text.splitlines() if line.strip() and (not words or words in line)]
        if lines:
            return lines
    return []


def bears_out(line, claim):
    digits = claim.removesuffix("%").strip()
    if not NUMBER.fullmatch(digits):
        return claim in line
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
    return any(abs(value(n) - value(digits)) <= half * 1.000001 for n in NUMBER.findall(line))


def value(number):
    return float(number.replace(",", "").replace("−", "-").rstrip("."))


def text_of(outputs):
    """Return what outputs show as text: streams, and each result's plain form."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(part) for part in parts)
