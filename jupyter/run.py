"""Run notebooks from top to bottom without a browser, and fail if a cell no longer does what its stored outputs show.

The kernel answers "ok" to a cell that panics or that a failing `?` leaves, so the runner reads each cell's outputs instead.
A cell fails on: a compile error, a panic, a failing `?`, anything else on stderr, a kind of output (MIME type) that the
stored notebook has and this run lacks, a timeout, and the kernel's death. A cell tagged `raises-exception` must fail.
What the text claims of outputs, where it is marked, must be so (`prose.py`). A notebook whose model file is not here is
left out, or fails with STREAMTRACE_REAL_MODEL=required.

    .venv/bin/python jupyter/run.py tutorials/*.ipynb           # exit code 1 if a cell fails
    .venv/bin/python jupyter/run.py --write tutorials/*.ipynb   # also store the outputs if none does
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat

import prose
from session import KernelDied, Result, Session

# The kernel's description of itself: JupyterLab changes anything else as soon as it opens the notebook.
METADATA = {
    "kernelspec": {"display_name": "Rust", "language": "rust", "name": "rust"},
    "language_info": {
        "codemirror_mode": "rust",
        "file_extension": ".rs",
        "mimetype": "text/rust",
        "name": "Rust",
        "pygment_lexer": "rust",
        "version": "",
    },
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
MODEL_FILE = re.compile(r'Tracer::load\("([^"]+\.gguf)"\)')
# What a run that takes long says of itself.
PROGRESS = re.compile(r"^.*\blayer \d+ of \d+, \d+ tokens/s, \d+ s left\n", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--write", action="store_true", help="keep the new outputs, cleaned, if no cell fails")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for each cell (default: 300)")
    arguments = parser.parse_args()
    failed, took = [], []
    for path in arguments.notebooks:
        print(path, flush=True)
        started = time.monotonic()
        if not run_file(path, arguments.write, arguments.timeout):
            failed.append(path)
        took.append(f"{time.monotonic() - started:7.1f} s  {path}")
    print("\n".join(["", *took]), flush=True)
    if failed:
        sys.exit(f"{len(failed)} of {len(arguments.notebooks)} notebooks failed: {', '.join(map(str, failed))}")


def run_file(path, write, timeout):
    notebook = nbformat.read(path, as_version=4)
    if missing := missing_model(notebook, path.resolve().parent):
        print(f"left out: {path} needs {missing}, which jupyter/setup.py fetches")
        return os.environ.get("STREAMTRACE_REAL_MODEL") != "required"
    problems = run(notebook, path.resolve().parent, timeout, kept_matters=not write)
    if write and not problems:
        nbformat.write(clean(notebook), path)
    return not problems


def missing_model(notebook, folder):
    """Return a model file that a notebook loads and that is not here, if there is one."""
    runs = [c for c in notebook.cells if c.cell_type == "code" and "raises-exception" not in c.metadata.get("tags", [])]
    code = "\n".join(cell.source for cell in runs)
    return next((file for file in MODEL_FILE.findall(code) if not (folder / file).exists()), None)


def run(notebook, folder, timeout=300, kept_matters=True, out=None):
    """Run all cells, replace their stored outputs, and return the problems, one line each."""
    problems = []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    started = time.monotonic()
    with Session(folder) as kernel:
        for number, cell in enumerate(cells, 1):
            kept = Result(cell.outputs, 0) if kept_matters else Result([], 0)
            try:
                result = kernel.run(cell.source, timeout)
            except (TimeoutError, KernelDied) as error:
                problems.append(f"cell {number}: {error}")
                print(f"  FAILED {problems[-1]}", file=out)
                break
            cell.outputs = result.outputs
            print(f"  {number:>2}/{len(cells)} {result.seconds:6.2f} s  {headline(cell)}", file=out, flush=True)
            for problem in problems_of(kept, result, "raises-exception" in cell.metadata.get("tags", [])):
                problems.append(f"cell {number}: {problem}")
                print(f"  FAILED {problems[-1]}", file=out)
    for problem in prose.problems(notebook):
        problems.append(problem)
        print(f"  FAILED {problem}", file=out)
    print(f"{'FAILED' if problems else 'ok'} after {time.monotonic() - started:.1f} s", file=out)
    return problems


def problems_of(kept, result, must_fail):
    """Return the problems of a cell: outputs that it must not have, and outputs that it lacks."""
    errors = ["\n".join(o.traceback) for o in result.outputs if o.output_type == "error"]
    stderr = result.stream("stderr").strip()
    if must_fail:
        return [] if errors or stderr else ["it is tagged raises-exception and did not fail"]
    problems = [ANSI.sub("", error) for error in errors]
    if "panicked at" in stderr:
        problems.append(f"it panicked: {stderr}")
    elif stderr:
        problems.append(f"stderr: {stderr}")
    missing = kept.mime_types() - result.mime_types()
    if kept.stream("stdout") and not result.stream("stdout"):
        missing.add("stdout")
    if missing:
        problems.append(f"no output of kind {', '.join(sorted(missing))}, which the kept notebook has")
    return problems


def clean(notebook):
    """Remove run-to-run noise from a notebook: counts, progress, and the metadata of frontends."""
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = PROGRESS.sub("", output.text)
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream" or output.text]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "metadata" in output:
                output.metadata = {}
    return nbformat.from_dict(notebook)


def headline(cell):
    """Return the cell's last line of code, whose value it shows."""
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("//")]
    return (lines or [""])[-1].strip()[:90]


if __name__ == "__main__":
    main()
