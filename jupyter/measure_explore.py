"""Measure pages of `streamtrace explore` in Chromium: size, time until ready, clicks, memory. Fails where one misses its bar.

    .venv/bin/python jupyter/measure_explore.py                  # traces a prompt of 32k tokens first, 15 s on two cores
    .venv/bin/python jupyter/measure_explore.py a.trace b.trace  # pages of these traces

ready       from the address to the first frame of the view, median of three
click       from a click on a head to the next frame: median, and the slowest but one of all heads
memory      the most that the browser's process of the page held, its own 80 MB included
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import browser
from engine import ROOT, streamtrace

VIEW = "document.querySelector('.streamtrace-explore')"
CLICKS = f"""(async () => {{
    const times = [];
    for (const head of {VIEW}.querySelectorAll('.grid button')) {{
        const start = performance.now();
        head.click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - start);
    }}
    return times;
}})()"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    arguments = parser.parse_args()
    missed = []
    print("| tokens | page | ready | click | slowest | memory | kept blocks |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for trace in arguments.traces or [traced(Path(folder), 32_768)]:
            missed += measured(trace, Path(folder) / "page.html")
    if missed:
        raise SystemExit("; ".join(missed))


def traced(folder, n_tokens):
    model = ["--model", ROOT / "models" / "needle-6m"]
    (folder / "prompt.txt").write_text(streamtrace("prompt", *model, "--n-tokens", n_tokens).stdout.rstrip("\n"))
    streamtrace("trace", *model, "--device", "cpu", "--prompt-file", folder / "prompt.txt", "--out", folder / "a.trace")
    return folder / "a.trace"


def measured(trace, page):
    """Print a row of the table; return which bars were missed."""
    shown = json.loads(streamtrace("explore", trace, "--out", page, "--json").stdout)
    n_tokens = json.loads(streamtrace("show", trace, "--json").stdout)["n_tokens"]
    ready, (times, memory) = [], ([], 0)
    for _ in range(3):
        with browser.Browser(size=(1440, 900)) as chromium:
            start = time.monotonic()
            chromium.open(page)
            chromium.wait(f"{VIEW} && {VIEW}.dataset.state === 'ready'", 60)
            chromium.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            ready.append(time.monotonic() - start)
            times, memory = chromium.run(CLICKS), chromium.memory()
    click, slow = statistics.median(times), sorted(times)[-2:][0]
    size = page.stat().st_size / 1e6
    print(f"| {n_tokens:,} | {size:.1f} MB | {statistics.median(ready):.2f} s | {click:.0f} ms | {slow:.0f} ms "
          f"| {memory / 1e6:.0f} MB | {100 * shown['blocks_shown']:g} % |")
    bars = [
        ("ready", statistics.median(ready), 1.5 if n_tokens <= 40_000 else 4, "s"),
        ("click", click, 100, "ms"),
        ("memory", memory / 1e6, 400, "MB"),
    ]
    return [f"{n_tokens:,} tokens: {name} {value:.2f} {unit}, the bar is {bar}" for name, value, bar, unit in bars if value > bar]


if __name__ == "__main__":
    main()
