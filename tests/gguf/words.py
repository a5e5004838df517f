"""Ask llama.cpp for the ids of the hard texts in words.rs, and compare them with streamtrace's: for small vocabularies under every
name of rules that streamtrace knows, and for the GGUF files that are given. Writes words.json, which a test reads.

    pip install xllamacpp==2026.10.11549
    python tests/gguf/words.py [FILE.gguf ...]
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import xllamacpp

HERE = Path(__file__).parent


def main(real):
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, real):
            Path(folder, path.name).symlink_to(path.resolve())
        command = ["cargo", "test", "--features", "engine", "--test", "gguf", "files_for_llama_cpp", "--", "--ignored"]
        subprocess.run(command, check=True, cwd=HERE.parent.parent, env={**os.environ, "STREAMTRACE_WORDS": folder})
        rows = []
        for path in sorted(Path(folder).glob("*.gguf")):
            ours = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            row = compare(path, ours)
            n_same = len(ours) - len(row["differs"])
            print(f"{path.stem}: {n_same} of {len(ours)} texts have the same ids")
            for one in row["differs"]:
                print(f"    {one['text']!r}\n        llama.cpp   {one['llama_cpp']}\n        streamtrace {one['streamtrace']}")
            if not path.is_symlink():
                rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "words.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def compare(path, ours):
    """Return a hash of the ids that are the same, and the texts whose ids are not."""
    server, same, differs = serve(path), [], []
    for text, ids in ours:
        theirs = tokenize(server, text)
        if theirs == ids:
            same += ids
        else:
            differs.append({"text": text, "llama_cpp": theirs, "streamtrace": ids})
    digest = hashlib.sha256(" ".join(map(str, same)).encode()).hexdigest()
    return {"rules": path.stem, "same": digest, "differs": differs}


def serve(path):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.warmup, parameters.verbosity = 512, False, 0
    return xllamacpp.Server(parameters)


def tokenize(server, text):
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


if __name__ == "__main__":
    main(sys.argv[1:])
