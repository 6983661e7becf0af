"""Runs tests of Triton kernels in Triton's interpreter, in a process of its own: the mode is chosen when the kernels
are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # the latter takes a second to import


def run(name: str, slow: bool) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", *WITHOUT, tests / name]
    command += ["--run-slow"] if slow else ["-m", "not slow"]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=tests.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
