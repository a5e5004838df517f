"""Write docs/gallery.md: each kind of figure with the call that draws it. The pictures are those that notebooks keep.

    .venv/bin/python jupyter/gallery.py     # after notebooks were run with --write
"""

from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Gallery

Each kind of figure, the call that shows it in a notebook, and the command that draws it from a saved trace. Figures are `.svg` or `.png`
by the name of their file; a mark tells more under the mouse where scripts or plain SVG are allowed. `jupyter/gallery.py` writes this page
out of the notebooks' own pictures.

## What does the whole prompt look like?

`trace.explore()?` · `streamtrace explore my.trace --open`: the prompt as text, all heads and their maps, to click, search and zoom

<img src="gallery/explore.png" width="900" alt="A page with all heads, the map of one, and the prompt as text, shaded by what the last token looks at">
"""


@dataclass
class Kind:
    question: str
    # The notebook, and the end of the cell that shows the figure.
    notebook: str
    call: str
    command: str
    name: str
    # The call as a reader needs it, where the cell ends with a variable.
    written: str = ""


KINDS = [
    Kind("What did a token read?", "tutorials/01_first_trace", "trace.reading()?", "read my.trace --out read.svg", "reading"),
    Kind(
        "What does one head look at, over the whole prompt?",
        "tutorials/01_first_trace",
        'trace.attention_map(3, 0)?.mark("needle", needle)?',
        "attention-map my.trace --layer 3 --head 0 --out map.svg",
        "map",
    ),
    Kind(
        "And token by token?",
        "tutorials/01_first_trace",
        'trace.attention_map(3, 0)?.queries(rows)?.keys(needle.widened(4))?.mark("needle", needle)?',
        "attention-map my.trace --layer 3 --head 0 --queries 16255..16287 --keys 8140..8171 --out zoom.svg",
        "zoom",
    ),
    Kind("What do all heads look at?", "tutorials/01_first_trace", "trace.overview()?", "overview my.trace --out heads.svg", "overview"),
    Kind(
        "Which sentences do later ones return to?",
        "tutorials/09_own_reasoning",
        "anchors",
        "thought-anchors my.trace --out anchors.svg",
        "anchors",
        "trace.thought_anchors()?",
    ),
    Kind(
        "Which heads return to few sentences?",
        "tutorials/02_thought_anchors",
        "by_kurtosis.kurtosis_figure()",
        "",
        "kurtosis",
        "trace.thought_anchors()?.kurtosis_figure()",
    ),
    Kind(
        "Which sentence looks at which?",
        "tutorials/02_thought_anchors",
        "links",
        "",
        "links",
        "trace.sentence_links(&sentences, &heads, 1)?.against(&known, &left_out)",
    ),
    Kind(
        "Which sentence needs which?",
        "tutorials/02_thought_anchors",
        "suppression",
        "",
        "suppression",
        "tracer.suppress_sentences(&trace, &sentences, SuppressionMeasure::Peak)?",
    ),
    Kind(
        "Are the anchors needed?",
        "tutorials/02_thought_anchors",
        'suppression.test("the anchors by the calibrated head", &by_calibration.anchors, 4)',
        "",
        "needed",
    ),
    Kind(
        "By which layers and heads did it reach the answer?",
        "tutorials/03_needle_routes",
        "routes",
        "routes my.trace --from TEXT --out routes.svg",
        "routes",
        "trace.routes(needle, answer.predictors())?",
    ),
    Kind("How much does each head carry?", "tutorials/03_needle_routes", "routes.head_map()", "", "carries"),
    Kind(
        "Does the answer fall without that path?",
        "tutorials/03_needle_routes",
        "tracer.test_routes_with(&trace, &routes, &config)?",
        "test-routes my.trace --model M --from TEXT --out test.svg",
        "falls",
    ),
    Kind(
        "Which heads copied the answer?",
        "tutorials/04_your_model",
        "trace.retrieval_heads(needle, answer)?.map()",
        "retrieval-heads --model M --out heads.svg",
        "copies",
    ),
    Kind(
        "How much attention was kept?",
        "tutorials/05_fidelity",
        "trace.recall_map()?",
        "compare --model M --prompt-file my.txt --out recall.svg",
        "recall",
    ),
]


def picture(kind):
    """Return the figure that a notebook keeps of a cell."""
    for cell in nbformat.read(ROOT / f"{kind.notebook}.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and cell.source.strip().splitlines()[-1:] == [kind.call]:
            for output in cell.outputs:
                if svg := output.get("data", {}).get("image/svg+xml"):
                    return svg
    raise LookupError(f"{kind.notebook} shows no figure by {kind.call}")


def page():
    """Return the page's text."""
    parts = [HEAD]
    for kind in KINDS:
        command = f" · `streamtrace {kind.command}`" if kind.command else ""
        parts.append(
            f"## {kind.question}\n\n`{kind.written or kind.call}`{command} · [in use](../{kind.notebook}.ipynb)\n\n"
            f'<img src="gallery/{kind.name}.svg" width="640" alt="{kind.question}">\n'
        )
    return "\n".join(parts)


def main():
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        (folder / f"{kind.name}.svg").write_text(picture(kind))
    (ROOT / "docs" / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()
