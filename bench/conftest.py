"""Prints the ratios after the run: they are the result, absolute times depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # tests/official_views.py restates official code


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [(b.name, key, value) for b in getattr(session, "benchmarks", []) for key, value in b.extra_info.items()]
    if rows:
        terminalreporter.section("figures")
    for name, key, value in rows:
        terminalreporter.write_line(f"{name:<60} {key:<18} {value}")
