"""Claims in a notebook's text, held against its outputs."""

import unittest
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import prose


def problems(text, *outputs):
    """The problems of a text below cells that printed `outputs`."""
    cells = [new_code_cell("…", outputs=[new_output("stream", name="stdout", text=o)] if o else []) for o in outputs]
    return prose.problems(new_notebook(cells=[*cells, new_markdown_cell(text)]))


class Prose(unittest.TestCase):
    OUTPUT = "layer 3, head 0  0.894\nlayer 4, head 3  0.885\n16,287 tokens, 24.28 nats\nwrites \"6\"\n"

    def test_claims_that_the_output_bears_out(self):
        for text in [
            "it is 0.894<!--out-->",
            "about **0.9**<!--out-->",
            "24 nats is rounded: **24**<!--out--> nats",
            "of 16,287<!--out--> tokens",
            "it writes `6`<!--out-->.",
            "0.885<!--out: layer 4, head 3-->",
            "no mark, so 77 is no claim",
        ]:
            self.assertEqual(problems(text, self.OUTPUT), [], text)

    def test_claims_that_it_does_not(self):
        for text in [
            "0.91<!--out-->",
            "28<!--out--> nats",
            "16,300<!--out-->",
            "**seven**<!--out-->",
            "0.894<!--out: layer 4, head 3-->",
            "0.894<!--out: layer 9-->",
        ]:
            found = problems(text, self.OUTPUT)
            self.assertEqual(len(found), 1, text)
            self.assertIn("the text says", found[0])

    def test_percent_belongs_to_the_sentence(self):
        self.assertEqual(problems("**30 %**<!--out--> and 30 %<!--out-->", "30 % of it"), [])
        self.assertEqual(problems("`30%`<!--out-->", ' " 30%"'), [])

    def test_a_mark_looks_at_the_last_cell_that_shows_something(self):
        self.assertEqual(problems("2<!--out-->", "1", "2", ""), [])
        self.assertEqual(len(problems("1<!--out-->", "1", "2", "")), 1)
        self.assertEqual(problems("1<!--out: a-->", "a 1", "2"), [])

    def test_a_mark_without_a_claim_is_a_mistake(self):
        self.assertIn("follows no number", problems("words <!--out-->", "1")[0])
        self.assertIn("the last output says nothing", problems("1<!--out-->")[0])

    def test_the_notebooks_here_say_what_they_show(self):
        root = Path(__file__).resolve().parent.parent
        paths = [path for folder in ("tutorials", "notebooks") for path in sorted((root / folder).glob("*.ipynb"))]
        self.assertGreater(sum("<!--out" in path.read_text() for path in paths), 5)
        for path in paths:
            self.assertEqual(prose.problems(nbformat.read(path, as_version=4)), [], path.name)


if __name__ == "__main__":
    unittest.main()
