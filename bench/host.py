"""host.py: the lines of bench_small_gpu.py as a section of the page: what the host does in small batches on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tables import table

TITLE = "## Small batches on a GPU: the time of the host"
WORDS = """
`bench/bench_small_gpu.py`: CPU time of a step, forward and backward, of one thread, without a GPU: kernels are left out
on both sides, and what a driver takes for a launch. Ours over plain torch, with microseconds of both. What misses its
goal is **bold**.
"""
Line = dict[str, Any]


def host_section(lines: Sequence[Line]) -> str:
    """Of lines of one problem and backend the last counts."""
    problems: dict[tuple[Any, ...], dict[str, Line]] = {}
    for x in lines:
        problems.setdefault((x["device"], x["loss"], x["n"], x["d"], x["dtype"]), {})[x["backend"]] = x
    backends = sorted({x["backend"] for x in lines}, reverse=True)
    rows = []
    for (device, loss, n, d, dtype), found in problems.items():
        cells = [cell(found.get(backend)) for backend in backends]
        goals = " / ".join(f"{goal:.1f}" for goal in sorted({x["goal"] for x in found.values()}))
        rows.append([loss, str(n), str(d), dtype, *cells, goals, device])
    heads = ["loss", "N", "D", "type", *backends, "goal", "device"]
    return "\n".join([TITLE, WORDS, table(heads, rows)])


def cell(x: Line | None) -> str:
    if x is None:
        return ""
    ratio = f"{x['ratio']:.2f}"
    return f"{f'**{ratio}**' if x['ratio'] > x['goal'] else ratio} ({x['ours']} over {x['eager']})"
