"""neighbour.py: what bench_busy.py measured, as a section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tables import rounded, table

INTRODUCTION = """## Beside a busy neighbour

`clip_loss`, forward and backward, with as many threads as cores: alone, and while another process keeps one of the
cores busy, as a worker that loads data does. `bench/bench_busy.py`, wall-clock time. "Over plain torch" compares the
times beside the neighbour; above 1 we lose, and the number is **bold**.
"""


def busy_section(lines: Sequence[dict[str, Any]]) -> str:
    """Of what was measured twice, the last counts."""
    last = {(x["device"], x["threads"], x["n"], x["d"], x["dtype"], x["candidate"]): x for x in lines}
    rows = [
        [
            f"{device}, {threads} threads", f"{n:,}", str(d), dtype, candidate, f"{rounded(x['quiet'])} ms",
            f"{rounded(x['busy'])} ms", f"x {x['slowdown']:.2f}", over_plain(candidate, x["over_plain"]),
        ]
        for (device, threads, n, d, dtype, candidate), x in last.items()
    ]  # fmt: skip
    heads = ["machine", "N", "D", "type", "", "alone", "beside a neighbour", "slowdown", "over plain torch"]
    return f"{INTRODUCTION}\n{table(heads, rows)}"


def over_plain(candidate: str, ratio: float) -> str:
    if candidate == "plain torch":
        return ""
    return f"**{ratio:.2f}**" if ratio > 1.0 else f"{ratio:.2f}"
