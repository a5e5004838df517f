"""The runner catches each way in which a cell can fail, and keeps notebooks clean."""

import contextlib
import copy
import io
import tempfile
import unittest
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

import run

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for folder in ("tutorials", "notebooks") for path in sorted((ROOT / folder).glob("*.ipynb"))]


def problems(*cells, timeout=60):
    """Return the problems of a notebook made of cells, each given as source or as a cell."""
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    return run.run(new_notebook(cells=cells), tempfile.gettempdir(), timeout, out=io.StringIO())


class LeftOut(unittest.TestCase):
    def test_a_notebook_whose_model_is_not_here(self):
        loads = new_notebook(cells=[new_code_cell('let tracer = Tracer::load("models/real.gguf")?.exact();')])
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(run.missing_model(loads, Path(folder)), "models/real.gguf")
            (Path(folder) / "models").mkdir()
            (Path(folder) / "models" / "real.gguf").touch()
            self.assertIsNone(run.missing_model(loads, Path(folder)))
        fails = new_code_cell('Tracer::load("typo.gguf")', metadata={"tags": ["raises-exception"]})
        folder = new_code_cell('Tracer::load("../models/needle-6m")')
        self.assertIsNone(run.missing_model(new_notebook(cells=[fails, folder]), Path()))


class Failures(unittest.TestCase):
    """Each test uses one kernel: a start costs seconds, so the cells of a notebook share it unless a failure ends it."""

    def test_what_a_cell_must_not_show(self):
        found = problems(
            "let a = 1; a",
            'panic!("boom")',
            'let b: i32 = "x".parse()?; b',
            'let c: i32 = "not a number";',
            'eprintln!("a warning");',
            "a",
            "std::process::exit(3)",
        )
        self.assertEqual(
            [problem.splitlines()[0] for problem in found],
            [
                "cell 2: it panicked: thread '<unnamed>'" + found[0].splitlines()[0].split("'<unnamed>'")[1],
                "cell 3: stderr: invalid digit found in string",
                "cell 4: [E0308] Error: mismatched types",
                "cell 5: stderr: a warning",
                "cell 7: Subprocess terminated with status: exit status: 3",
            ],
        )
        self.assertIn("boom", found[0])

    def test_what_a_cell_must_show(self):
        def kept(source, *outputs):
            return new_code_cell(source, outputs=list(outputs))

        figure = new_output("execute_result", data={"image/svg+xml": "<svg/>", "text/plain": "a figure"})
        text = new_output("execute_result", data={"text/plain": "1"})
        printed = new_output("stream", name="stdout", text="1\n")
        expected_failure = new_code_cell('panic!("on purpose")', metadata={"tags": ["raises-exception"]})
        unexpected_success = new_code_cell("1", metadata={"tags": ["raises-exception"]})
        found = problems(
            kept("2", text),
            kept("2", figure),
            kept("let a = 2;", text),
            kept('println!("2");', printed),
            kept("let b = 2;", printed),
            expected_failure,
            unexpected_success,
        )
        self.assertEqual(
            found,
            [
                "cell 2: no output of kind image/svg+xml, which the kept notebook has",
                "cell 3: no output of kind text/plain, which the kept notebook has",
                "cell 5: no output of kind stdout, which the kept notebook has",
                "cell 7: it is tagged raises-exception and did not fail",
            ],
        )

    def test_a_cell_without_end(self):
        self.assertEqual(problems("loop {}", timeout=3), ["cell 1: no end after 3 s"])

    def test_types_of_the_standard_library(self):
        """The kernel finds a variable's type in the library's source, of which it is shown only a part."""
        found = problems(
            "use std::{collections::*, sync::*}; let mut ages = HashMap::new(); ages.insert(\"a\".to_string(), 1usize);",
            "let names = ages.keys().cloned().collect::<Vec<_>>(); let ends: BTreeSet<_> = names.iter().map(|n| n.len()).collect();",
            "let oldest = ages.iter().max_by_key(|(_, age)| **age).map(|(name, age)| (name.clone(), *age));",
            "let joined = std::thread::spawn(|| 5u8).join().unwrap(); let shared = Arc::new(Mutex::new(vec![1.5f64]));",
            "let n = shared.lock().unwrap().len() + ends.len(); let took = std::time::Instant::now().elapsed();",
        )
        self.assertEqual(found, [])

    def test_a_kernel_that_dies(self):
        parent = 'std::process::Command::new("kill").arg("-9").arg(std::os::unix::process::parent_id().to_string()).status()'
        self.assertEqual(problems(f"{parent}.unwrap(); loop {{}}"), ["cell 1: the kernel died"])


class Kept(unittest.TestCase):
    def run_file(self, path):
        with contextlib.redirect_stdout(io.StringIO()):
            return run.run_file(path, write=True, timeout=60)

    def test_notebooks_are_clean(self):
        for path in NOTEBOOKS:
            with self.subTest(path.name):
                notebook = nbformat.read(path, as_version=4)
                self.assertEqual(run.clean(copy.deepcopy(notebook)), notebook, "clean it with jupyter/run.py --write")

    def test_write_cleans(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.ipynb"
            cell = new_code_cell("1 + 1", execution_count=7, metadata={"execution": {"iopub.status.idle": "now"}})
            nbformat.write(new_notebook(cells=[cell], metadata={"widgets": {}}), path)
            self.assertTrue(self.run_file(path))
            notebook = nbformat.read(path, as_version=4)
            self.assertEqual(notebook.cells[0].outputs[0].data, {"text/plain": "2"})
            self.assertEqual(notebook.cells[0].execution_count, 1)
            self.assertEqual(notebook.cells[0].metadata, {})
            self.assertEqual(set(notebook.metadata), {"kernelspec", "language_info"})

    def test_write_keeps_the_old_when_a_cell_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.ipynb"
            nbformat.write(new_notebook(cells=[new_code_cell("nonsense")]), path)
            before = path.read_text()
            self.assertFalse(self.run_file(path))
            self.assertEqual(path.read_text(), before)


if __name__ == "__main__":
    unittest.main()
