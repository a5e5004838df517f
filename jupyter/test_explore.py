"""The view of `Trace::explore` responds to mouse, keyboard and screen readers in Chromium: as a page, in a report, in a notebook
exported as a page, and in JupyterLab."""

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

import browser
from engine import ROOT, streamtrace
from run import METADATA

HOSTILE = '</script><img src=x onerror="window.hostile = 1"> & "quotes"'
PROMPT = f"The harp is green. {HOSTILE} " * 40 + "What is green? The"
VIEW = "document.querySelector('.streamtrace-explore')"
MAP = f"{VIEW}.querySelector('[role=application]')"


def text(selector):
    return f"{VIEW}.querySelector('{selector}').textContent"


def notebook(block):
    """Return a notebook that shows the view."""
    output = nbformat.v4.new_output("execute_result", data={"text/html": block, "text/plain": "a trace"})
    cell = nbformat.v4.new_code_cell("trace.explore()?", outputs=[output])
    return nbformat.v4.new_notebook(cells=[cell], metadata=METADATA)


@contextlib.contextmanager
def lab(folder):
    """Yield the address of a JupyterLab that trusts the notebooks of a folder."""
    own = {name: str(folder / "jupyter") for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    options = {"cwd": folder, "env": {**os.environ, **own}, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    jupyter = [sys.executable, "-m", "jupyter"]
    subprocess.run([*jupyter, "trust", *folder.glob("*.ipynb")], check=True, **options)
    local = ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token="]
    with subprocess.Popen([*jupyter, "lab", "--no-browser", "--allow-root", *local], text=True, **options) as server:
        try:
            address = next(found.group() for line in server.stderr if (found := re.search(r"http://127[^ ]+/lab", line)))
            # Drain its further output, which would otherwise fill the pipe.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield address
        finally:
            server.terminate()


@unittest.skipUnless(browser.find(), f"none of {', '.join(browser.NAMES)} is installed")
class Explore(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        here = Path(cls.folder.name)

        model = ["--model", ROOT / "models" / "needle-6m", "--device", "cpu"]
        streamtrace("trace", *model, "--prompt", PROMPT, "--top-k", 24, "--out", here / "a.trace")
        streamtrace("explore", here / "a.trace", "--out", here / "page.html")
        streamtrace("report", here / "a.trace", "--out", here / "report.html", "--title", HOSTILE)
        page = (here / "page.html").read_text()
        block = page[page.index("<section>") : page.index("</section>")]
        # The nonce that lets the script run belongs to the page's own policy.
        nbformat.write(notebook(block), here / "explore.ipynb")
        (here / "notebook.html").write_text(HTMLExporter(template_name="lab").from_notebook_node(notebook(block))[0])
        cls.pages = {name: here / f"{name}.html" for name in ("page", "report", "notebook")}
        cls.pages["lab"] = f"{cls.enterClassContext(lab(here))}/tree/explore.ipynb?reset"

    def each_page(self, dark=False):
        """Open each of the pages in a browser; none may log an error."""
        for name, path in self.pages.items():
            with self.subTest(name), browser.Browser(dark) as page:
                page.open(path)
                page.wait(f"{VIEW} && {VIEW}.dataset.state === 'ready'")
                yield page
                # nbconvert's template asks the network for MathJax, which this test ignores.
                errors = [error for error in page.errors if name != "notebook" or "ERR_" not in error]
                self.assertEqual(errors, [])
                self.assertIsNone(page.run("window.hostile"))
                self.assertEqual(page.run(f"{VIEW}.querySelectorAll('img, script').length"), 0)

    def click(self, page, element):
        page.run(f"{element}.scrollIntoView({{block: 'center'}})")
        box = page.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({element}.getBoundingClientRect())")
        page.click(*box)

    def button(self, page, name):
        self.click(page, f"[...{VIEW}.querySelectorAll('.tools button')].find((b) => b.textContent === '{name}')")

    def test_a_click_opens_a_head_and_a_zoom_shows_its_text(self):
        for page in self.each_page():
            self.assertEqual(page.run(text("h4")), "layer 0 · head 0")
            self.click(page, f"{VIEW}.querySelector('[aria-label=\"layer 3, head 2\"]')")
            self.assertEqual(page.run(text("h4")), "layer 3 · head 2")
            self.assertEqual(page.run(f"{VIEW}.querySelectorAll('[aria-pressed=true]').length"), 1)
            self.button(page, "What the output read")
            self.assertIn("Attention of a query token on a key token", page.run(text(".both .caption")))
            self.button(page, "Whole prompt")
            self.assertIn("Attention mass on a key block", page.run(text(".both .caption")))
            self.click(page, MAP)
            whole = page.run(text(".status"))
            for _ in range(5):
                self.button(page, "Zoom in")
            self.assertRegex(page.run(text(".status")), r"^Query [\d,]+, key [\d,]+: ")
            self.assertNotEqual(page.run(text(".status")), whole)
            self.assertIn(page.run(text(".passage")).replace("⏎", "\n").replace("⇥", "\t").strip(), PROMPT)

    def test_where_the_query_looks_most_leads_there(self):
        for page in self.each_page():
            self.button(page, "What the output read")
            best = f"{VIEW}.querySelector('ol button')"
            named = page.run(f"{best}.textContent")
            self.assertRegex(named, r"^[\d.]+ % on [\d,]+: ")
            self.click(page, best)
            position = named.split(" on ")[1].split(":")[0]
            self.assertIn(position, page.run(text(".status")))

    def test_the_keyboard_reaches_everything(self):
        for page in self.each_page(dark=True):
            page.run(f"{VIEW}.querySelector('.heads button').focus()")
            page.press("ArrowRight")
            page.press("ArrowDown")
            self.assertEqual(page.run("document.activeElement.ariaLabel"), "layer 1, head 1")
            page.press("Enter", 13)
            self.assertEqual(page.run(text("h4")), "layer 1 · head 1")
            for _ in range(5):  # four tools, then the map
                page.press("Tab", 9)
            self.assertTrue(page.run(f"document.activeElement === {MAP}"))
            said = [page.run(text(".status"))]
            for key in ("ArrowUp", "ArrowLeft", "+", "+", "ArrowLeft", "Home"):
                page.press(key)
                said.append(page.run(text(".status")))
            self.assertEqual(len(set(said[:4])), 4, said)

    def test_screen_readers_hear_names_and_changes(self):
        for page in self.each_page():
            nodes = page.call("Accessibility.getFullAXTree")["nodes"]
            heard = {(n.get("role", {}).get("value"), n.get("name", {}).get("value")) for n in nodes}
            self.assertIn(("button", "layer 5, head 7"), heard)
            self.assertIn(("button", "Zoom in"), heard)
            self.assertTrue(any(role == "application" and "Arrow keys" in name for role, name in heard), heard)
            self.assertEqual(page.run(f"{VIEW}.querySelector('.status').getAttribute('aria-live')"), "polite")

    def test_a_click_is_answered_within_100_ms(self):
        timed = f"""[...{VIEW}.querySelectorAll('.heads button')].map((head) => {{
            const start = performance.now();
            head.click();
            return performance.now() - start;
        }})"""
        for page in self.each_page():
            self.assertLess(statistics.median(page.run(timed)), 100)


if __name__ == "__main__":
    unittest.main()
