"""The engine's program in cargo's target folder."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ENGINE = os.environ.get("STREAMTRACE_ENGINE", str(TARGET / "release" / "streamtrace"))


def streamtrace(*arguments):
    """Run a verb to its end; raises if it fails."""
    return subprocess.run([ENGINE, *map(str, arguments)], check=True, capture_output=True, text=True)
