"""Start the Rust kernel in a build folder that outlives it.

The kernel compiles each cell in `EVCXR_TMPDIR`. A folder that stays makes a second start take seconds instead of
a minute; a folder that two running kernels share mixes up their cells. So each kernel takes the first folder
that no other kernel holds.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CARGO_BIN = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"


def free_folder():
    """The first folder without a living kernel. Its lock belongs to this process and survives `exec`."""
    for number in range(100):
        folder = TARGET / "kernels" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        os.set_inheritable(lock, True)
        return folder
    sys.exit(f"a hundred kernels run in {TARGET / 'kernels'}")


def show_standard_library():
    """Tell the loader where Rust's standard library is.

    Each cell becomes a library that finds it by a path relative to itself, one folder off: that goes unnoticed
    under /tmp, where the path leads past the root, but not where the build and Rust itself are both in the home.
    """
    variable = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    libraries = subprocess.run(["rustc", "--print", "target-libdir"], check=True, capture_output=True, text=True)
    known = os.environ.get(variable)
    os.environ[variable] = libraries.stdout.strip() + (os.pathsep + known if known else "")


if __name__ == "__main__":
    show_standard_library()
    if "EVCXR_TMPDIR" not in os.environ:
        os.environ["EVCXR_TMPDIR"] = str(free_folder())
    program = str(CARGO_BIN / "evcxr_jupyter")
    os.execv(program, [program, "--control_file", sys.argv[1]])
