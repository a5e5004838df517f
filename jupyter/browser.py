"""Drive a headless Chromium over the DevTools protocol: open a page, run JavaScript, press keys, take pictures."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def find():
    """The browser's program, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """`with Browser() as browser: browser.open(path)`. Errors that a page logs are in `errors`."""

    def __init__(self, dark=False, size=(1100, 1300)):
        self.dark, self.size = dark, size

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [find(), *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.numbers, self.errors, self.loaded = itertools.count(1), [], False
        self.socket = websocket.create_connection(self.address(), timeout=30)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        width, height = self.size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(10)
        self.profile.cleanup()

    def address(self, seconds=30):
        """The address of the first page's DevTools, once the browser has written it to its file."""
        from urllib.request import urlopen

        port, deadline = Path(self.profile.name) / "DevToolsActivePort", time.monotonic() + seconds
        while not (port.exists() and port.read_text().count("\n")):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{find()} does not answer")
            time.sleep(0.05)
        pages = json.load(urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"))
        return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")

    def call(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self.receive()).get("id") != number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def receive(self):
        message = json.loads(self.socket.recv())
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Page.loadEventFired":
            self.loaded = True
        return message

    def open(self, page, fragment=""):
        """Open a file or an address, with what stands behind its number sign."""
        address = page if str(page).startswith("http:") else Path(page).resolve().as_uri()
        # Another fragment alone would load nothing.
        for url in ("about:blank", f"{address}#{fragment}" if fragment else address):
            self.loaded = False
            self.call("Page.navigate", url=url)
            while not self.loaded:
                self.receive()

    def run(self, expression):
        """Return the value of a JavaScript expression; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", expression))
        return result["result"].get("value")

    def wait(self, condition, seconds=20):
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} is not so after {seconds} s; the page says {self.errors}")
            time.sleep(0.02)

    def press(self, key, code=0, shift=False):
        """Press a key. Its code is `KeyboardEvent.keyCode`, needed if the browser itself acts on the key (Tab: 9, Enter: 13)."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        more = {"key": key, "windowsVirtualKeyCode": code, "text": text, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def click(self, x, y, count=1, shift=False):
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=count, modifiers=8 if shift else 0)

    def drag(self, start, end, shift=False):
        more = {"button": "left", "clickCount": 1, "modifiers": 8 if shift else 0}
        self.mouse("mousePressed", *start, **more)
        middle = [(a + b) / 2 for a, b in zip(start, end)]
        for at in (middle, end):
            self.mouse("mouseMoved", *at, buttons=1, **more)
        self.mouse("mouseReleased", *end, **more)

    def mouse(self, kind, x, y, **more):
        """Move the mouse (`mouseMoved`), or turn its wheel (`mouseWheel`, with `deltaX` and `deltaY`)."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def memory(self):
        """Return the most bytes that one of the browser's processes for pages has held (Linux)."""
        parents = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
                parents[int(fields["Pid"])] = int(fields["PPid"]), int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
        ours = {self.process.pid}
        while more := {process for process, (parent, _) in parents.items() if parent in ours} - ours:
            ours |= more
        pages = [process for process in ours if b"--type=renderer" in Path(f"/proc/{process}/cmdline").read_bytes()]
        return max(parents[process][1] for process in pages)

    def picture(self, path):
        """Return the visible part of the page as PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
