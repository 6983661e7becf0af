"""tables.py: records as Markdown tables: every figure of a machine, with round numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from contrastile.benchmark.growth import exponents
from contrastile.benchmark.problem import BOTH
from contrastile.benchmark.record import NO_MEMORY, OK, Record

T = TypeVar("T", bound=Hashable)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(x.replace('|', '/') for x in line)} |\n" for line in lines)


def grouped(records: Iterable[Record], key: Callable[[Record], T]) -> dict[T, list[Record]]:
    found: dict[T, list[Record]] = {}
    for x in records:
        found.setdefault(key(x), []).append(x)
    return found


def machine_of(r: Record) -> str:
    threads = r.machine.threads
    return r.machine.device + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")


def loss_of(r: Record) -> str:
    variant = "" if r.variant == "default" else f" ({r.variant})"
    return f"{r.loss}{variant}"


def rounded(x: float) -> str:
    """Three significant digits."""
    return f"{float(f'{x:.3g}'):,.0f}" if x >= 100 else f"{x:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def cell(r: Record | None) -> str:
    if r is None:
        return ""
    if r.ms is None:
        return r.outcome
    peak = "" if r.peak_bytes is None else f", {rounded(max(r.peak_bytes, 0) / 1e6)} MB"
    return f"{rounded(r.ms)} ms{peak}"


def machine_section(machine: str, records: Sequence[Record]) -> str:
    versions = sorted({(x.package, x.version) for x in records if x.version})
    first, dates = records[0].machine, sorted({x.machine.date for x in records})
    about = {
        "torch": first.torch, "Triton": first.triton, "instruction set": first.isa, "capability": first.capability,
        "driver": first.driver, "CUDA": first.cuda, "measured (UTC)": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }  # fmt: skip
    lines = [f"- {name}: {value}" for name, value in about.items() if value]
    packages = ", ".join(f"{name} {version}" for name, version in versions)
    return f"## All figures: {machine}\n\n" + "\n".join(lines) + f"\n- packages: {packages}\n\n{limit_table(records)}"


def limit_table(records: Sequence[Record]) -> str:
    """The largest size of each loss whose operations are counted."""
    rows = []
    for series in grouped(records, lambda x: x.series).values():
        last = max(series, key=lambda x: x.n)
        if last.candidate.startswith("contrastile ") and last.of_gemm and last.mode == BOTH:
            rate = f"{(last.tflops or 0.0) * 1e3:.3g}"
            shares = percent(last.of_chunk_gemm), percent(last.of_gemm)
            rows.append([loss_of(last), f"{last.n:,}", str(last.d), last.dtype, last.candidate, rate, *shares])
    heads = ["loss", "N", "D", "type", "candidate", "GFLOP/s", "of the limit", "of one large product"]
    return f"Forward and backward at the largest N, against the limit of matrix products:\n\n{table(heads, rows)}"


def loss_tables(records: Sequence[Record]) -> str:
    """One table for each type, mode and D: a row for each candidate, a column for each size."""
    parts = []
    for title, found in grouped(records, lambda x: f"{x.dtype}, {x.mode}, D = {x.d}").items():
        sizes = sorted({x.n for x in found})
        grows = len(sizes) > 1
        rows = []
        for candidate, series in grouped(found, lambda x: x.candidate).items():
            at = {x.n: x for x in series}
            rows.append([candidate, *(cell(at.get(n)) for n in sizes), *[growth(series)] * grows])
        heads = ["", *(f"N = {n:,}" for n in sizes), *["growth"] * grows]
        notes = "".join(f"- {x}\n" for x in dict.fromkeys(map(note, found)) if x)
        parts.append(f"{title}: time, peak memory\n\n{table(heads, rows)}" + (f"\n{notes}" if notes else ""))
    return "\n".join(parts)


def note(r: Record) -> str:
    if r.outcome in (OK, NO_MEMORY):
        return ""
    return f"{r.candidate}, N = {r.n:,}: {r.outcome}, {r.why}".replace("\n", " ")[:240]


def growth(series: Sequence[Record]) -> str:
    named = zip("time memory".split(), exponents(x for x in series if x.outcome == OK), strict=True)
    return ", ".join(f"{name} N^{value:.1f}" for name, value in named if value is not None)
