"""A batch that is killed again and again, and two shards at once: is every prompt there once, and every table whole?

usage: pip install duckdb && python3 benches/batch.py [--program target/release/streamtrace] [--model models/needle-6m] [--prompts 200]
       [--tokens 2000] [--kills 20] [--device auto]
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

import duckdb


def prompts(o, path):
    """Needles among others, with the answer and the sentence that holds it."""
    with open(path, "w") as file:
        for seed in range(o.prompts):
            made = subprocess.run([o.program, "prompt", "--model", o.model, "--n-tokens", str(o.tokens), "--seed", str(seed), "--json"],
                                  check=True, capture_output=True, text=True)
            made = json.loads(made.stdout)
            print(json.dumps({"id": f"needle-{seed}", "prompt": made["text"], "spans": {"needle": made["answers"][0]}}), file=file)


def start(o, lines, out, *more):
    arguments = [o.program, "batch", "--model", o.model, "--device", o.device, "--prompts", lines, "--out", out, "--pruned", "0.9", *more]
    return subprocess.Popen([str(a) for a in arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check(o, out, what):
    """Every prompt once, with all its heads."""
    table = lambda name: f"read_parquet('{out}/{name}/*.parquet')"
    one = lambda query: duckdb.sql(query).fetchall()[0]
    n, ids, errors, seconds = one(f"SELECT count(*), count(DISTINCT id), count(error), sum(seconds) FROM {table('prompts')}")
    heads, of_prompts = one(f"SELECT count(*), count(DISTINCT (id, layer, head)) FROM {table('heads')}")
    per_prompt = one(f"SELECT max(n), min(n) FROM (SELECT count(*) AS n FROM {table('heads')} GROUP BY id)")
    assert (n, ids, errors) == (o.prompts, o.prompts, 0), (what, n, ids, errors)
    assert heads == of_prompts and per_prompt[0] == per_prompt[1], (what, heads, of_prompts, per_prompt)
    best = one(f"SELECT layer, head, avg(mass) AS mass, stddev(mass) FROM {table('spans')} GROUP BY ALL ORDER BY mass DESC LIMIT 1")
    print(f"{what}: {n} prompts once each, {heads} rows of heads; head {best[0]}:{best[1]} reads the needle with {best[2]:.2f} ± {best[3]:.2f}", flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="target/release/streamtrace")
    parser.add_argument("--model", default="models/needle-6m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    o = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = folder / "prompts.jsonl"
        prompts(o, lines)
        begin = time.time()
        assert start(o, lines, folder / "whole").wait() == 0
        wall = time.time() - begin
        seconds = check(o, folder / "whole", "in one go")
        # Killed at any time within what a run takes.
        for _ in range(o.kills):
            run = start(o, lines, folder / "killed")
            time.sleep(random.uniform(0.2, max(1.0, 2 * wall / o.kills)))
            run.kill()
            run.wait()
        assert start(o, lines, folder / "killed").wait() == 0
        check(o, folder / "killed", f"killed {o.kills} times")
        shards = [start(o, lines, folder / "shards", "--shard", shard) for shard in ("1/2", "2/2")]
        assert all(shard.wait() == 0 for shard in shards)
        check(o, folder / "shards", "two shards at once")
        begin = time.time()
        assert start(o, lines, folder / "whole").wait() == 0
        idle = time.time() - begin
        print(f"wall {wall:.1f} s, of which {idle:.1f} s start and end; runs {seconds:.1f} s: {(wall - idle) / seconds:.3f} times the sum of the runs")


main()
