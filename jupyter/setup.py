"""Install what the tutorials and the tests need. Needs Rust (rustup), gcc and Python 3; a second run only checks.

Everything is installed in the repository (`.venv`, `target`), except for the notebook kernel in `~/.cargo/bin` and the
sources of the standard library, which belong to Rust's own folders, and a pretrained model in `~/.cache/streamtrace`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import real_model

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "jupyter" / "requirements.txt"
CARGO_BIN = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"
EVCXR = "0.22.0"


def main():
    started = time.monotonic()
    for tool, where in [("cargo", "https://rustup.rs"), ("cc", "your system's packages, as gcc")]:
        if not shutil.which(tool):
            sys.exit(f"[setup] `{tool}` is missing: install it from {where}, then run this again")
    python_packages()
    rust_sources()
    kernel()
    quiet_lab()
    pretrained()
    engine()
    say(f"all set after {time.monotonic() - started:.0f} s")


def python_packages():
    """Install JupyterLab and related packages in a virtual environment; again only if their list changes."""
    installed = VENV / "requirements.txt"
    if PYTHON.exists() and installed.exists() and installed.read_text() == REQUIREMENTS.read_text():
        return
    say("Python packages into .venv", "1 minute")
    if subprocess.run([sys.executable, "-m", "venv", VENV]).returncode:
        sys.exit("[setup] no virtual environment: on Debian and Ubuntu, `apt install python3-venv`, then run this again")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS)
    shutil.copy(REQUIREMENTS, installed)


def rust_sources():
    """Install the standard library's sources, which the kernel's completions and error texts need."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    if (Path(sysroot.strip()) / "lib/rustlib/src/rust/library").exists():
        return
    say("rust-src, the standard library's sources", "10 seconds")
    if not shutil.which("rustup"):
        sys.exit("[setup] this Rust has no rustup: install your distribution's rust-src package, then run this again")
    run("rustup", "component", "add", "rust-src")


def kernel():
    """Install Rust for Jupyter: the program, and the entry in .venv through which JupyterLab finds it."""
    installed = subprocess.run(["cargo", "install", "--list"], check=True, capture_output=True, text=True).stdout
    if not re.search(rf"^evcxr_jupyter v{re.escape(EVCXR)}\b", installed, re.M):
        say(f"evcxr_jupyter {EVCXR}, the Rust kernel, into {CARGO_BIN}", "7 minutes on 2 cores")
        run("cargo", "install", "--locked", "evcxr_jupyter", "--version", EVCXR)
    folder = VENV / "share" / "jupyter" / "kernels" / "rust"
    folder.mkdir(parents=True, exist_ok=True)
    entry = {
        "argv": [str(PYTHON), str(ROOT / "jupyter" / "kernel.py"), "{connection_file}"],
        "display_name": "Rust",
        "language": "rust",
        # On a message the kernel ends only the running cell's process; a signal would end the kernel itself.
        "interrupt_mode": "message",
    }
    (folder / "kernel.json").write_text(json.dumps(entry, indent=1) + "\n")


def quiet_lab():
    """Keep JupyterLab from fetching news and from asking whether it may."""
    settings = VENV / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    notifications = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(notifications) + "\n")


def pretrained():
    """Link the pretrained model of some tutorials into models; without a network, the runner leaves these out."""
    link = ROOT / "models" / real_model.NAME
    if link.exists():
        return
    say("SmolLM2-135M-Instruct, the pretrained model of some tutorials", "98 MB")
    try:
        path = real_model.fetch()
    except real_model.Unavailable as why:
        say(f"not here, tutorials that need it are left out: {why}")
        return
    link.unlink(missing_ok=True)
    link.symlink_to(path)


def engine():
    """Build the program that runs models. Cargo decides whether it is up to date."""
    say("the engine, target/release/streamtrace", "4 minutes on 2 cores, a second when nothing changed")
    run("cargo", "build", "--release", "--features", "engine", "--bin", "streamtrace")


def run(*command):
    result = subprocess.run([str(part) for part in command], cwd=ROOT)
    if result.returncode:
        sys.exit(f"[setup] failed: {' '.join(map(str, command))}")


def say(what, usually=None):
    print(f"[setup] {what}" + (f" (usually {usually})" if usually else ""), flush=True)


if __name__ == "__main__":
    main()
