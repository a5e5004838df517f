"""The engine outlives a cell that panics, ends with the kernel, and is replaced if it dies."""

import os
import signal
import tempfile
import time
import unittest
from pathlib import Path

from session import Session

ROOT = Path(__file__).resolve().parent.parent
LOAD = f"""
:dep streamtrace = {{ path = "{ROOT}" }}
use streamtrace::prelude::*;
let tracer = Tracer::load("{ROOT}/models/needle-6m")?;
let settings = StreamConfig {{ top_k: 32, ..Default::default() }};
let tracer = tracer.with(settings);
"""
TRACE = 'let trace = tracer.trace(&"A short prompt, said again and again. ".repeat(20))?; trace.n_tokens()'
LONG = 'let long = tracer.trace(&"A prompt that takes its time. ".repeat(20_000))?;'


def descendants(pid):
    """Return every descendant of a process, from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended in the meantime
        parents[int(stat.parent.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {pid}


def engines(pid):
    """Return the engines below a process, by their command line; a zombie has no command line."""
    lines = {child: Path(f"/proc/{child}/cmdline") for child in descendants(pid)}
    return {child for child, line in lines.items() if line.exists() and line.read_bytes().endswith(b"streamtrace\0serve\0")}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@unittest.skipUnless(Path("/proc/self/stat").exists(), "processes are looked up in /proc")
class EnginesLife(unittest.TestCase):
    def start(self):
        """Return a kernel with a loaded tracer, its process and its engine's process."""
        session = Session(tempfile.gettempdir())
        self.addCleanup(session.__exit__)
        kernel = session.__enter__()
        self.assertEqual(self.run_cell(kernel, LOAD), "")
        pid = kernel.manager.provisioner.pid
        (engine,) = engines(pid)
        return kernel, pid, engine

    def begin_long_run(self, kernel, engine):
        """Start a cell that keeps the engine busy for a long time; return once it is busy."""
        before = cpu_seconds(engine)
        cell = kernel.begin(LONG)
        self.assertTrue(wait_until(lambda: cpu_seconds(engine) > before + 0.5, seconds=60), "the engine does nothing")
        return cell

    def run_cell(self, kernel, code):
        """Return the errors and stderr of a cell."""
        result = kernel.run(code)
        self.shown = result
        return result.stream("stderr") + "".join(o.evalue for o in result.outputs if o.output_type == "error")

    def test_it_outlives_a_panic_and_is_replaced_when_it_dies(self):
        kernel, pid, engine = self.start()
        self.assertEqual(self.run_cell(kernel, TRACE), "")

        self.assertIn("on purpose", self.run_cell(kernel, 'panic!("on purpose");'))
        self.assertEqual(engines(pid), {engine})
        self.assertEqual(self.run_cell(kernel, "tracer.count_tokens(&trace.text())?"), "")
        self.assertEqual(engines(pid), {engine})

        os.kill(engine, signal.SIGKILL)
        said = self.run_cell(kernel, 'let lost = tracer.trace("Another prompt, long enough to be traced.")?;')
        for part in ["engine", "signal: 9", "next call starts a new engine"]:
            self.assertIn(part, said)
        self.assertEqual(self.run_cell(kernel, "trace.attention_map(3, 0)?"), "")
        self.assertIn("image/svg+xml", self.shown.mime_types())
        self.assertEqual(self.run_cell(kernel, TRACE), "")
        (successor,) = engines(pid)
        self.assertNotEqual(successor, engine)

    def test_it_ends_when_the_kernel_is_interrupted(self):
        kernel, _, engine = self.start()
        cell = self.begin_long_run(kernel, engine)
        kernel.manager.interrupt_kernel()
        kernel.finish(cell, timeout=30)
        self.assertTrue(wait_until(lambda: not alive(engine)), "the engine still runs")

    def test_it_ends_when_the_kernel_dies(self):
        kernel, pid, engine = self.start()
        self.begin_long_run(kernel, engine)
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(wait_until(lambda: not alive(engine)), "the engine still runs")

    def test_it_ends_when_the_kernel_is_shut_down(self):
        kernel, _, engine = self.start()
        kernel.manager.shutdown_kernel()
        self.assertTrue(wait_until(lambda: not alive(engine)), "the engine still runs")


if __name__ == "__main__":
    unittest.main()
