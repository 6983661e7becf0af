"""Calls of the CPU kernels that tests make, recorded (tests/native/recorded_module.py), and the program that repeats
them on kernels compiled in another way (tests/native/replay.cpp)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .scripts import ROOT

NATIVE = ROOT / "tests/native"


def run(*command: object, **environment: str) -> str:
    """What the command prints, which is printed too; ends this process where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}")
    return done.stdout


def record(folder: Path, module: Path, *tests: object, **environment: str) -> Path:
    """The calls that these tests, arguments of pytest, make of the kernels in this module."""
    calls = folder / "calls.bin"
    environment |= {"CONTRASTILE_RECORDED": str(module), "CONTRASTILE_CALLS": str(calls), "PYTHONPATH": str(NATIVE)}
    pytest = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "recorded_module")
    run(*pytest, *tests, **environment)
    return calls


def build(folder: Path, units: Mapping[Path, Sequence[str]], command: Sequence[str], link: Sequence[str]) -> Path:
    """The program, of kernel files and others with the commands that compile them; `command` compiles the rest."""
    names = [path.stem.removeprefix("kernel_") for path in units if path.stem.startswith("kernel_")]
    replayed = "-DREPLAYED(X)=" + " ".join(f"X({name})" for name in names)
    objects, program = [], folder / "replay"
    for source, own in {**units, NATIVE / "replay.cpp": [*command, replayed]}.items():
        objects.append(folder / f"{source.stem}.o")
        run(*own, "-c", source, "-o", objects[-1])
    run(*link, *objects, "-o", program)
    return program
