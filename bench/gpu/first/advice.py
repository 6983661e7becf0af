"""What to do next, from what was found: first what is wrong, then what is slow, by what it would gain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .results import ABOUT_STAGES, Record

GAIN = 0.03  # a share of the time below which a lever is noise
CHUNK = 5632  # rows that backends/waves.py takes at once at the size of stage `ceilings`
LONG = 'then the long form, a part a command: make gpu PARTS="build test", PARTS="build tune", PARTS="build bench"'


def advice(records: Sequence[Record], outcomes: Sequence[tuple[str, str, float]]) -> list[str]:
    found = [*jobs(records), *cut(outcomes), *wrong(records)]
    if not any(x.get("outcome") == "ok" for x in stage(records, "losses")):
        found.append("no loss ran at full size: read log.txt from its end before anything is measured")
    found += [*where(records), *lever(records), *chunk(records), *bound(records), *small(records), *peer(records)]
    return [*found, LONG]


def stage(records: Iterable[Record], name: str) -> list[Record]:
    return [x for x in records if x["stage"] == name and x.get("item") not in ABOUT_STAGES]


def good(records: Iterable[Record], name: str, *needed: str) -> list[Record]:
    return [x for x in stage(records, name) if x.get("outcome") == "ok" and all(key in x for key in needed)]


def cut(outcomes: Sequence[tuple[str, str, float]]) -> list[str]:
    names = " ".join(name for name, status, _ in outcomes if status != "ok" and name != "tests")
    return (
        [f'run again alone what was cut or failed, log.txt says why: make gpu-first STAGES="{names}"'] if names else []
    )


def jobs(records: Sequence[Record]) -> list[str]:
    """Background jobs of the last run that did not end well: what the stages met then is old or slow."""
    last = {x["item"]: x for x in stage(records, "jobs") if "item" in x}
    return [
        f"the background job {name} did not end well ({x.get('outcome')}): {str(x.get('why') or '')[-200:]}"
        for name, x in last.items() if x.get("outcome") != "ok"
    ]  # fmt: skip


def wrong(records: Sequence[Record]) -> list[str]:
    lines = []
    cells = [x for x in stage(records, "right") if x.get("outcome") in ("wrong", "failed", "out of memory")]
    if cells:
        by = sorted({f"{x['backend']} {x['loss']} {x['dtype']}" for x in cells})
        lines.append(
            f"WRONG or failing before anything else, {len(cells)} cases: {'; '.join(by)[:400]}; make gpu-sanitize"
        )
    failed = [x["test"] for x in stage(records, "tests") if x.get("outcome") == "failed" and "test" in x]
    if failed:
        lines.append(f"{len(failed)} tests fail, first {failed[0][:100]}: run these alone with --tb=long")
    levers = [x for x in stage(records, "levers") if x.get("outcome") == "wrong"]
    return lines + [
        f"{x['kernel']} with {x['lever']} gives other numbers: a compiler's or a kernel's fault" for x in levers
    ]


def where(records: Sequence[Record]) -> list[str]:
    """The kernel that the longest loss spends most in."""
    lines = []
    for x in [x for x in good(records, "losses", "kernels") if not x.get("kept")]:
        total = sum(k["ms"] for k in x["kernels"])
        own = sum(k["ms"] for k in x["kernels"] if k["name"] in ("stats", "score_grad"))
        if total:
            first = x["kernels"][0]
            lines.append(
                f"{x['loss']}: {own / total:.0%} of the kernels' time in stats and score_grad, "
                f"most in {first['name'][:40]} ({first['ms'] / total:.0%}); "
                f"between kernels {max(x['ms'] - total, 0.0):.1f} of {x['ms']:.1f} ms"
            )
    return lines


def lever(records: Sequence[Record]) -> list[str]:
    lines = []
    found = good(records, "levers", "ms")
    for kernel in dict.fromkeys(x["kernel"] for x in found):
        mine = {x["lever"]: x for x in found if x["kernel"] == kernel}
        best = min(mine.values(), key=lambda x: x["ms"])
        if "table" in mine and best["ms"] < (1 - GAIN) * mine["table"]["ms"]:
            gain = 1 - best["ms"] / mine["table"]["ms"]
            lines.append(f"{kernel}: take {best['lever']} {best['tile'] or ''}, {gain:.0%} less than the table's tile")
        elif "table" in mine:
            lines.append(f"{kernel}: the table's tile stands; what is left is in the kernel itself")
    return lines


def chunk(records: Sequence[Record]) -> list[str]:
    rates = {x["rows"]: x["tflops"] for x in good(records, "ceilings", "rows", "tflops") if x["item"] == "dA"}
    if CHUNK not in rates:
        return []
    rows = max(rates, key=lambda n: rates[n])
    lines = []
    if rates[rows] > (1 + GAIN) * rates[CHUNK]:
        lines.append(
            f"chunks of {rows} rows: dA at {rates[rows]:.0f} instead of {rates[CHUNK]:.0f} TFLOP/s (backends/waves.py)"
        )
    if any(not x["in_place"] for x in good(records, "ceilings", "in_place")):
        lines.append("addmm does not add in place here: dB pays for a second matrix (products.add_float_product)")
    return lines


def bound(records: Sequence[Record]) -> list[str]:
    lines = []
    for x in good(records, "counters", "metrics"):
        issue, memory = percent(x["metrics"].get("No Eligible")), percent(x["metrics"].get("L2 Cache Throughput"))
        if issue is not None and memory is not None:
            what = (
                "instructions: shorten the epilogue" if 100 - issue > memory else "the second-level cache: larger tiles"
            )
            lines.append(
                f"{x['kernel'][:20]}: issue slots {100 - issue:.0f} % busy, L2 {memory:.0f} %: bound by {what}"
            )
    return lines


def percent(value: Any) -> float | None:
    try:
        return float(str(value).split()[0].replace(",", ""))
    except (ValueError, IndexError):
        return None


def small(records: Sequence[Record]) -> list[str]:
    """Where eager is faster, and whether the host is why."""
    us = {(x["loss"], x["n"], x["candidate"], x["way"]): x["us"] for x in good(records, "small", "us")}
    lost = {way: [key for key in us if key[2:] == ("triton", way) and us[key] > us.get((*key[:2], "eager", way), 1e9)]
            for way in ("plain", "graph")}  # fmt: skip
    if not lost["plain"]:
        return []
    why = "also in a graph: the kernels" if lost["graph"] else "not in a graph: the host's time per call"
    return [f"{len(lost['plain'])} small batches lose to eager, {why}"]


def peer(records: Sequence[Record]) -> list[str]:
    ours = {x["loss"]: x["ms"] for x in good(records, "losses", "ms") if x["backend"] == "triton" and not x.get("kept")}
    faster = [x for x in good(records, "peers", "ms") if x["ms"] < ours.get(x["loss"], 0.0)]
    return [f"{x['candidate']} is faster: {x['ms']:.1f} against {ours[x['loss']]:.1f} ms" for x in faster]
