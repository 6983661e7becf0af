"""ncu on one `stats` and one `score_grad`: what bounds them. Run as a script it is the program that ncu looks at."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from processes import die_with_parent, environment, tool

from .look import Look
from .results import Results

SECTIONS = (
    "SpeedOfLight", "SchedulerStats", "WarpStateStats", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis",
    "Occupancy", "LaunchStats", "InstructionStats",
)  # fmt: skip
SECONDS = 30
OVER = 124  # the status of what took longer


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "first.counters", *options]


def run(look: Look) -> None:
    ncu = tool("ncu")
    if ncu is None or look.dry:
        look.attempt(lambda: program(look), item="program")
        look.results.add(item="ncu", outcome="skipped", why="there is no ncu" if ncu is None else "nothing is launched")
        return
    sections = [word for name in SECTIONS for word in ("--section", name)]
    chosen = ["--kernel-name", "regex:^(stats|score_grad)$", "--launch-count", "3", *sections]
    # the card's clocks stay as they are
    options = ["--target-processes", "all", "--clock-control", "none", "--csv", "--page", "details", *chosen]
    printed, errors, status = output([ncu, *options, *command()], SECONDS)
    found = list(metrics(printed.splitlines()))
    for kernel, values in found:
        look.results.add(item="ncu", outcome="ok", kernel=kernel, metrics=values)
    if not found:
        why = " ".join((printed + errors).split())[-300:]
        look.results.add(item="ncu", outcome="cut" if status == OVER else "failed", why=why, status=status)
    elif status == OVER:
        look.results.add(item="ncu", outcome="cut", why=f"ncu took more than {SECONDS} s")


def output(command: list[str], seconds: float) -> tuple[str, str, int]:
    """Output, errors and status; of a program that took too long what it had printed."""
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=seconds, preexec_fn=die_with_parent
        )
    except subprocess.TimeoutExpired as error:  # its output is bytes, whatever was asked for
        printed, errors = ((x or b"").decode(errors="replace") for x in (error.stdout, error.stderr))
        return printed, errors, OVER
    return done.stdout, done.stderr, done.returncode


def metrics(lines: Iterable[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """(kernel, metric: value with unit) of each launch, from ncu's lines."""
    lines = list(lines)
    begin = next((at for at, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(lines[begin:]):
        name, value, unit = (row.get(f"Metric {x}") for x in ("Name", "Value", "Unit"))
        if name and value:
            found.setdefault((row["ID"], row["Kernel Name"]), {})[name] = f"{value} {unit or ''}".strip()
    return [(kernel, values) for (_, kernel), values in found.items()]


def program(look: Look) -> dict[str, Any]:
    """One launch of each; making the block takes a `stats` of its own."""
    import torch

    from . import block

    chunk = block.clip(look)
    for name in ("stats", "score_grad"):
        block.kernel(name, chunk)()
    torch.cuda.synchronize()
    return {"kernels": 3}


if __name__ == "__main__":
    from pathlib import Path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    program(Look(Results(Path("/dev/null"), "counters", "")))
