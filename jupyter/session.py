"""Run cells in a Rust kernel without a browser, and return everything that they show."""

import queue
import subprocess
import time
from dataclasses import dataclass

from jupyter_client.manager import KernelManager
from nbformat.v4 import output_from_msg

OUTPUTS = ("stream", "execute_result", "display_data", "error")
# The kernel forwards stderr in a thread of its own, and may report the end of a cell before its last line is out.
LATE_SECONDS = 0.15


class KernelDied(Exception):
    pass


@dataclass
class Result:
    """The outputs of a cell, as a notebook file stores them, and the time that the user waited."""

    outputs: list
    seconds: float

    def stream(self, name):
        return "".join(o.text for o in self.outputs if o.output_type == "stream" and o.name == name)

    def mime_types(self):
        return {mime for o in self.outputs for mime in o.get("data", {})}


class Session:
    """`with Session(folder) as kernel: kernel.run("1 + 1")`. Relative paths in cells start at the folder."""

    def __init__(self, folder, kernel_name="rust", **options):
        """`options` go to the kernel's process, such as `env`."""
        self.manager = KernelManager(kernel_name=kernel_name)
        # On standard output evcxr itself only says that it has no configuration file.
        self.options = {"cwd": str(folder), "stdout": subprocess.DEVNULL, **options}

    def __enter__(self):
        self.manager.start_kernel(**self.options)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code, timeout=300):
        """Run a cell to its end. Raises `TimeoutError` and `KernelDied`; a failing cell only shows its error."""
        return self.finish(self.begin(code), timeout)

    def begin(self, code):
        self.started = time.monotonic()
        return self.client.execute(code)

    def finish(self, cell, timeout=300):
        outputs, idle_at = [], None
        while idle_at is None or time.monotonic() < idle_at + LATE_SECONDS:
            if idle_at is None and time.monotonic() > self.started + timeout:
                raise TimeoutError(f"no end after {timeout} s")
            try:
                message = self.client.get_iopub_msg(timeout=LATE_SECONDS)
            except queue.Empty:
                if idle_at is None and not self.manager.is_alive():
                    raise KernelDied("the kernel died") from None
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] in OUTPUTS:
                append(outputs, output_from_msg(message))
            elif message["content"].get("execution_state") == "idle":
                idle_at = time.monotonic()
        return Result(outputs, idle_at - self.started)


def append(outputs, new):
    """Join the lines of a stream, which arrive one by one, into one output per stream."""
    for old in outputs:
        if old.output_type == new.output_type == "stream" and old.name == new.name:
            old.text += new.text
            return
    outputs.append(new)
