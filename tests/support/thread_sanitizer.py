"""The CPU kernels compiled with ThreadSanitizer: calls that tests/native/threaded_calls.py makes of the installed
module, repeated by several threads. ThreadSanitizer does not see what libgomp synchronises: tests/native/openmp.cpp is
linked instead."""

from __future__ import annotations

import subprocess
from pathlib import Path

from contrastile.backends import native

from . import replay
from .scripts import load_script

THREADS = 4
FLAGS = "-O2 -g1 -fsanitize=thread -w -Wno-psabi".split()  # warnings are those of the usual build
RUNTIME = replay.NATIVE / "openmp.cpp"


def strongest() -> str:
    """The instruction set of this machine that has all there is to run."""
    return str(native.cpu.supported_isas()[-1])


def record(folder: Path) -> Path:
    tests = replay.NATIVE / "threaded_calls.py"
    return replay.record(folder, Path(native.cpu.__file__), tests, CONTRASTILE_CPU_ISA=strongest())


def build(folder: Path, csrc: Path | None = None) -> Path:
    """The program that repeats calls, of the repository's kernels or of others."""
    setup = load_script("setup.py")
    setup.CSRC = csrc or setup.CSRC
    command = [*setup.host_command(), *FLAGS]
    kernels = {path: [*own, *FLAGS] for path, own in setup.cpu_units() if path.stem == f"kernel_{strongest()}"}
    return replay.build(folder, {**kernels, RUNTIME: command}, command, [*setup.CXX, "-fsanitize=thread"])


def sanitized(*command: object) -> subprocess.CompletedProcess[str]:
    """Runs a program compiled with ThreadSanitizer, which its first report ends."""
    words = [*fixed_addresses(), *map(str, command)]
    return subprocess.run(words, env={"TSAN_OPTIONS": "halt_on_error=1"}, capture_output=True, text=True)


def fixed_addresses() -> list[str]:
    """Older sanitizers find no room for their memory where the system scatters addresses widely."""
    prefix = ["setarch", "-R"]
    try:
        return prefix if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else []
    except OSError:
        return []
