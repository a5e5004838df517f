"""Start the Rust kernel in a build folder that outlives it.

The kernel compiles each cell in `EVCXR_TMPDIR`. A folder that stays makes a second start take seconds instead of
a minute; a folder that two running kernels share mixes up their cells. So each kernel takes the first folder
that no other kernel holds.
"""

import fcntl
import os
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


if __name__ == "__main__":
    if "EVCXR_TMPDIR" not in os.environ:
        os.environ["EVCXR_TMPDIR"] = str(free_folder())
    program = str(CARGO_BIN / "evcxr_jupyter")
    os.execv(program, [program, "--control_file", sys.argv[1]])
