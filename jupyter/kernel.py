"""Start the Rust kernel quickly: in a build folder that outlives it, with less to read.

The kernel compiles each cell in `EVCXR_TMPDIR`. A folder that stays makes a second start take seconds instead of
a minute; a folder that two running kernels share mixes up their cells. So each kernel takes the first folder
that no other kernel holds.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CARGO_BIN = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"


def free_folder():
    """Return the first folder that no running kernel holds. Its lock belongs to this process and survives `exec`."""
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


def show_rust():
    """Tell the kernel where Rust is installed.

    Each cell becomes a library that looks for the standard library by a relative path, which is one folder off. This
    goes unnoticed under /tmp, where the path leads past the root, but fails if the build folder and Rust are both in
    the home folder. Also, the kernel asks rust-analyzer for the types of variables, which calls rustc a dozen times,
    each time through rustup unless `RUSTC` is set.
    """
    asked = ["rustc", "--print", "sysroot", "--print", "target-libdir"]
    printed = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    sysroot, libraries = printed.splitlines()
    variable = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    known = os.environ.get(variable)
    os.environ[variable] = libraries + (os.pathsep + known if known else "")
    if (rustc := Path(sysroot) / "bin" / "rustc").exists():
        os.environ.setdefault("RUSTC", str(rustc))
    return Path(sysroot)


def link_source(source, place, left_out, folder=Path()):
    """Make `place` a folder of links to everything in `source` except the paths `left_out`."""
    (place / folder).mkdir()
    for entry in (source / folder).iterdir():
        path = folder / entry.name
        if any(path in out.parents for out in left_out):
            link_source(source, place, left_out, path)
        elif path not in left_out:
            (place / path).symlink_to(entry)


def show_source(sysroot, place):
    """Show rust-analyzer the standard library without its tests and without each processor's instructions.

    It reads and indexes the library at each start; the parts left out are half of the text and define no cell's types.
    """
    source = sysroot / "lib/rustlib/src/rust/library"
    if "RUST_SRC_PATH" in os.environ or not source.is_dir():
        return
    instructions = [path for path in (source / "stdarch/crates/core_arch/src").glob("*") if path.is_dir()]
    tests = [*source.glob("*tests/tests"), *source.glob("*tests/benches")]
    shutil.rmtree(place, ignore_errors=True)
    link_source(source, place, {path.relative_to(source) for path in instructions + tests})
    os.environ["RUST_SRC_PATH"] = str(place)


if __name__ == "__main__":
    folder = free_folder()
    show_source(show_rust(), folder / "library")
    os.environ.setdefault("EVCXR_TMPDIR", str(folder / "cells"))
    program = str(CARGO_BIN / "evcxr_jupyter")
    os.execv(program, [program, "--control_file", sys.argv[1]])
