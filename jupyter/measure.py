"""Measure how long a notebook makes its user wait: medians, in seconds.

    .venv/bin/python jupyter/measure.py              # warm starts and plotting cells
    .venv/bin/python jupyter/measure.py --cold       # also cold starts, a minute each

cold first cell     `:dep` and `use` in an empty build folder
warm first plot     from the start of the kernel to the attention map of a saved trace, the library already compiled
warm first trace    the same with the tutorial's own 16,384 tokens: load, make the prompt, trace, draw
plotting cell       each of ten attention maps of different heads
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from session import Session

ROOT = Path(__file__).resolve().parent.parent
USE = f':dep streamtrace = {{ path = "{ROOT}" }}\nuse streamtrace::prelude::*;'
TRACE = f"""
let tracer = Tracer::load("{ROOT}/models/needle-6m")?.pruned(0.95);
let prompt = tracer.prompt(&RulerConfig {{ n_tokens: 16_384, ..Default::default() }})?;
let trace = tracer.trace(&prompt.text)?;
"""
TARGETS = {"cold first cell": 60, "warm first plot": 10, "plotting cell": 0.4}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="measure cold starts too")
    arguments = parser.parse_args()
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "needle.trace"
        if arguments.cold:
            times["cold first cell"] = [cold(Path(folder) / f"cold{i}") for i in range(arguments.repeats)]
        start(TRACE + f'trace.save("{saved}")?;')  # also makes the starts below warm
        open_trace = f'let trace = Trace::open("{saved}")?;'
        times["warm first plot"] = [start(open_trace) for _ in range(arguments.repeats)]
        times["warm first trace"] = [start(TRACE) for _ in range(arguments.repeats)]
        times["plotting cell"] = plots(open_trace)
    print(f"{'':18} {'median':>7} {'least':>7} {'most':>7} {'target':>7}")
    for name, seconds in times.items():
        numbers = [statistics.median(seconds), min(seconds), max(seconds)]
        print(f"{name:18} " + " ".join(f"{n:7.2f}" for n in numbers) + f" {TARGETS.get(name, ''):>7}")


def cold(folder):
    with Session(ROOT / "tutorials", env={**os.environ, "EVCXR_TMPDIR": str(folder)}, stderr=subprocess.DEVNULL) as kernel:
        return checked(kernel.run(USE)).seconds


def start(cell):
    """Time the way from nothing to a picture: the kernel, the library, a trace, a map."""
    started = time.monotonic()
    with Session(ROOT / "tutorials") as kernel:
        checked(kernel.run(USE))
        checked(kernel.run(cell))
        shown = checked(kernel.run("trace.attention_map(3, 0)?"))
        assert "image/svg+xml" in shown.mime_types()
        return time.monotonic() - started


def plots(open_trace):
    with Session(ROOT / "tutorials") as kernel:
        checked(kernel.run(USE))
        checked(kernel.run(open_trace))
        checked(kernel.run("trace.attention_map(0, 0)?"))
        return [checked(kernel.run(f"trace.attention_map({i % 6}, {i % 8})?")).seconds for i in range(1, 11)]


def checked(result):
    """Stop if the cell failed: its time means nothing."""
    wrong = result.stream("stderr") + "".join(o.evalue for o in result.outputs if o.output_type == "error")
    assert not wrong, wrong
    return result


if __name__ == "__main__":
    main()
