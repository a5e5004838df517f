"""No file that the command line writes runs a script in Chromium, however hostile the prompt, the model's name and the titles."""

import json
import shutil
import struct
import tempfile
import unittest
from pathlib import Path

from nbconvert.filters import markdown2html

import browser
from engine import ROOT, streamtrace

NAME = """a"><img src=x onerror="window.hostile = 1"> & '<svg onload='window.hostile = 1'>"""
HOSTILE = (
    "</script></style></title></svg></desc></text><script>window.hostile = 1</script>"
    f"{NAME} ]]><!-- --> `<b onclick=window.hostile=1>` [a](javascript:window.hostile=1) ![a](x\" onerror=\"window.hostile=1)"
    " &lt;script&gt; \u2028\u2029\u202e\u2066\x00\x07\x1b[31m\x9b {{constructor}} ${window.hostile = 1}"
)
PROMPT = f"The harp is green. {HOSTILE} And so on, as ever. " * 12 + "What is green? The"
# Elements that a page must not hold, except for the one script of the interactive view.
RUNS = """[...document.querySelectorAll('*')].filter((element) =>
    ['IFRAME', 'OBJECT', 'EMBED', 'BASE', 'FORM'].includes(element.tagName)
    || element.tagName.toLowerCase() === 'script' && !element.textContent.includes('streamtrace-explore')
    || [...element.attributes].some((a) => a.name.startsWith('on') || /^\\s*javascript:/i.test(a.value))
).map((element) => element.outerHTML.slice(0, 200))"""


def renamed(trace, to):
    """Rename the trace's model, device and next token to this name."""
    whole = trace.read_bytes()
    (n,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + n])
    summary = json.loads(header["__metadata__"]["summary"])
    summary["model"].update(name=to, architecture=to)
    summary["next_token"]["text"] = to
    summary.update(device=to, version=to)
    header["__metadata__"]["summary"] = json.dumps(summary)
    header = json.dumps(header).encode()
    trace.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + n :])


@unittest.skipUnless(browser.find(), f"none of {', '.join(browser.NAMES)} is installed")
class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.here = here = Path(cls.folder.name)
        model, trace, prompt, text = (here / name for name in (NAME, "a.trace", "prompt.txt", "text.md"))
        shutil.copytree(ROOT / "models" / "needle-6m", model)
        prompt.write_text(PROMPT)
        text.write_text(HOSTILE)

        run, route = ["--model", model, "--device", "cpu"], ["--from", HOSTILE[:80], "--to", "What is green?"]
        streamtrace("compare", *run, "--prompt-file", prompt, "--top-k", 24, "--out", trace)
        streamtrace("compare", *run, "--prompt-file", prompt, "--top-k", 24, "--rows", 64, "--out", here / "recall.svg")
        streamtrace("test-routes", trace, *run, *route, "--n-random", 3, "--out", here / "knock-out.svg")
        task = ["--task", "niah_single_2", "--n-tokens", 600, "--n-prompts", 1]
        streamtrace("ruler", *run, *task, "--out", here / "ruler.svg")
        streamtrace("retrieval-heads", *run, *task, "--out", here / "heads.svg")
        renamed(trace, HOSTILE)
        streamtrace("attention-map", trace, "--layer", 3, "--head", 0, "--out", here / "map.svg")
        at = ["--queries", "60..92", "--keys", "0..60", "--mark", HOSTILE[:40]]  # few enough tokens that each one's text is drawn
        streamtrace("attention-map", trace, "--layer", 3, "--head", 0, *at, "--out", here / "zoom.svg")
        streamtrace("overview", trace, "--out", here / "overview.svg")
        streamtrace("routes", trace, *route, "--out", here / "routes.svg")
        for ending in ("svg", "html"):
            streamtrace("thought-anchors", trace, "--out", here / f"anchors.{ending}")
        streamtrace("explore", trace, "--out", here / "explore.html")
        for ending in ("html", "md"):
            streamtrace("report", trace, "--title", HOSTILE.replace("\0", ""), "--text", text, "--out", here / f"report.{ending}")
        (here / "paper.html").write_text(f"<!doctype html><meta charset=utf-8>{markdown2html((here / 'report.md').read_text())}")
        for svg in list(here.glob("*.svg")):
            (here / f"{svg.stem}-inline.html").write_text(f"<!doctype html><meta charset=utf-8><p>{svg.read_text()}</p>")

    def test_nothing_runs(self):
        pages = sorted([*self.here.glob("*.svg"), *self.here.glob("*.html")])
        self.assertEqual(len(pages), 2 * 12 + 4, [page.name for page in pages])
        with browser.Browser() as page:
            for path in pages:
                with self.subTest(path.name):
                    page.errors.clear()
                    page.open(path)
                    page.run("new Promise((done) => setTimeout(done, 100))")
                    # The browser logs an error for an SVG that is not XML and for anything that a policy blocks.
                    self.assertEqual(page.errors, [])
                    self.assertIsNone(page.run("window.hostile"))
                    self.assertEqual(page.run(RUNS), [])
                    self.assertTrue(page.run("/[<>]/.test(document.documentElement.textContent)"), "nothing hostile in it")

    def test_what_a_terminal_shows_has_no_control_characters(self):
        for command in (["show"], ["thought-anchors"], ["routes", "--from", "The harp"]):
            said = streamtrace(command[0], self.here / "a.trace", *command[1:]).stdout
            self.assertFalse([c for c in said if ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160], command)


if __name__ == "__main__":
    unittest.main()
