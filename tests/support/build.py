"""Runs the tools of a build, and reads what they made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run(*command: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=600)


def symbols(path: Path | str, *options: str) -> list[tuple[str, str]]:
    """(type letter, name) of the symbols that nm lists."""
    listed = run("nm", "-P", *options, path)
    assert listed.returncode == 0, listed.stderr
    return [(line.split()[1], line.split()[0]) for line in listed.stdout.splitlines()]
