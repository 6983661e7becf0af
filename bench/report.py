"""report.py: docs/benchmarks.md and its plots from all bench/results/*.jsonl. Equal results give an equal page."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastile.benchmark import plots
from contrastile.benchmark.growth import exponents
from contrastile.benchmark.problem import BOTH
from contrastile.benchmark.record import NO_MEMORY, NO_TIME, OK, Record, read

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "bench/results", ROOT / "docs"
DROPIN = "drop-in for "
NOISE_BYTES = 1 << 20  # differences of peak memory below are pages that a process happens to hold
DRAWN = ("float32", "bfloat16", "float16", "tf32")

HEAD, METHOD = (Path(__file__).parent / "report_head.md").read_text().split("\n---\n")


@dataclass(frozen=True)
class Comparison:
    """Another candidate beside ours on one problem."""

    ours: Record
    other: Record

    @property
    def time(self) -> float:
        """Theirs over ours: below 1 we lose."""
        return (self.other.ms or 0.0) / (self.ours.ms or 1.0)

    @property
    def memory(self) -> float | None:
        """Theirs over ours; None where either was not measured or nothing but noise is between them."""
        mine, theirs = self.ours.peak_bytes, self.other.peak_bytes
        if mine is None or theirs is None or abs(mine - theirs) < NOISE_BYTES:
            return None
        return max(theirs, 0) / max(mine, 1)

    @property
    def lost(self) -> bool:
        return self.time < 1.0 or (self.memory is not None and self.memory < 1.0)


def page(records: Sequence[Record]) -> tuple[str, dict[str, dict[str, list[Record]]]]:
    """The text, and for each plot its file's name and the records under each title."""
    if not records:
        return HEAD + "\nThere are no results yet.\n" + METHOD, {}
    figures: dict[str, dict[str, list[Record]]] = {}
    parts = [HEAD, summary_section(records)]
    for machine, found in grouped(records, machine_of).items():
        parts.append(machine_section(machine, found))
        for loss, of_loss in grouped(found, loss_of).items():
            name = f"{slug(machine)}-{slug(loss)}.svg"
            panels = drawn(loss, of_loss)
            if panels:
                figures[name] = panels
            image = f"![Time and memory of {loss} against N](benchmarks/{name})\n\n" if panels else ""
            parts.append(f"### {loss}\n\n{image}{loss_tables(of_loss)}")
    return "\n".join([*parts, lost_section(records), METHOD]), figures


# ---- summary


def summary_section(records: Sequence[Record]) -> str:
    """Our fastest backend at the largest size at which plain torch was timed, too."""
    rows = []
    for series in grouped(records, lambda x: (machine_of(x), loss_of(x), x.dtype, x.mode)).values():
        timed = [found for found in grouped(series, problem_of).values() if against_dense(found) is not None]
        if series[0].mode == BOTH and timed:
            largest = max(timed, key=lambda found: found[0].n)
            dense = against_dense(largest)
            other = max(comparisons(largest), key=lambda x: 1.0 / (x.other.ms or 1.0))
            name = "plain torch" if other.other is dense.other else other.other.candidate
            rows.append(
                [loss_of(dense.ours), f"{dense.ours.n:,}", dense.ours.dtype, cell(dense.ours), faster(dense),
                 smaller(dense), f"{name}: {faster(other)}"]
            )  # fmt: skip
    text = (
        "## Summary\n\nForward and backward at the largest size that plain torch was timed at, too. Above 1, this "
        "package is faster or smaller.\n\n"
    )
    heads = ["loss", "N", "type", "time, peak memory", "times faster than plain torch", "times smaller"]
    return text + table([*heads, "the fastest other, and times faster than it"], rows)


def against_dense(problem: Sequence[Record]) -> Comparison | None:
    return next((x for x in comparisons(problem) if x.other.candidate == "dense"), None)


def faster(x: Comparison) -> str:
    return f"{x.time:.2g}×"


def smaller(x: Comparison) -> str:
    return "" if x.memory is None else f"{x.memory:.2g}×"


# ---- where we lose


def lost_section(records: Sequence[Record]) -> str:
    every = [x for problem in grouped(records, problem_of).values() for x in comparisons(problem)]
    lost = [x for x in every if x.lost]
    text = (
        "## Where we lose\n\n"
        f"Of {len(every)} comparisons, these {len(lost)} have another candidate that is faster than the fastest "
        "backend of this package, or smaller\nby over a megabyte. For a package with a drop-in, the drop-in is "
        "compared, too. Numbers are theirs divided by ours; below 1 we lose.\n\n"
    )
    rows = [
        [
            loss_of(x.ours), f"{x.ours.n:,}", x.ours.dtype, x.ours.mode, x.other.candidate, x.ours.candidate,
            marked(x.time), "" if x.memory is None else marked(x.memory),
        ]
        for x in lost
    ]  # fmt: skip
    return text + table(["loss", "N", "type", "mode", "theirs", "ours", "time", "memory"], rows)


def comparisons(problem: Sequence[Record]) -> list[Comparison]:
    """Every other candidate against our fastest backend, and every package against its drop-in."""
    timed = {x.candidate: x for x in problem if x.outcome == OK and x.ms}
    mine = [x for name, x in timed.items() if name.startswith("contrastile ")]
    others = [x for x in timed.values() if x.package != "contrastile"]
    found = [Comparison(min(mine, key=lambda x: x.ms or 0.0), x) for x in others] if mine else []
    dropins = [(timed.get(DROPIN + x.candidate), x) for x in others]
    return found + [Comparison(ours, x) for ours, x in dropins if ours is not None]


def marked(ratio: float) -> str:
    return f"**{ratio:.2f}**" if ratio < 1.0 else f"{ratio:.2f}"


# ---- tables


def machine_section(machine: str, records: Sequence[Record]) -> str:
    versions = sorted({(x.package, x.version) for x in records if x.version})
    first, dates = records[0].machine, sorted({x.machine.date for x in records})
    about = {
        "torch": first.torch, "Triton": first.triton, "instruction set": first.isa, "capability": first.capability,
        "driver": first.driver, "CUDA": first.cuda, "measured (UTC)": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }  # fmt: skip
    lines = [f"- {name}: {value}" for name, value in about.items() if value]
    packages = ", ".join(f"{name} {version}" for name, version in versions)
    return f"## {machine}\n\n" + "\n".join(lines) + f"\n- packages: {packages}\n\n{limit_table(records)}"


def limit_table(records: Sequence[Record]) -> str:
    """The largest size of each loss whose operations are counted."""
    rows = []
    for series in grouped(records, lambda x: x.series).values():
        last = max(series, key=lambda x: x.n)
        if last.candidate.startswith("contrastile ") and last.of_gemm and last.mode == BOTH:
            rate = f"{last.tflops:.3g}"
            rows.append(
                [loss_of(last), f"{last.n:,}", last.dtype, last.candidate, rate, times(last.of_gemm),
                 times(last.of_chunk_gemm)]
            )  # fmt: skip
    heads = ["loss", "N", "type", "candidate", "TFLOP/s", "of GEMM", "of chunk GEMM"]
    text = "The rate of a loss's operations, forward and backward at the largest N, against that of matrix products:"
    return f"{text}\n\n{table(heads, rows)}"


def loss_tables(records: Sequence[Record]) -> str:
    """One table for each type and mode: a row for each candidate, a column for each size."""
    parts = []
    for title, found in grouped(records, lambda x: f"{x.dtype}, {x.mode}, D = {x.d}").items():
        sizes = sorted({x.n for x in found})
        rows = []
        for candidate, series in grouped(found, lambda x: x.candidate).items():
            at = {x.n: x for x in series}
            rows.append([candidate, *(cell(at.get(n)) for n in sizes), growth(series)])
        heads = ["", *(f"N = {n:,}" for n in sizes), "growth"]
        notes = "".join(f"- {x}\n" for x in dict.fromkeys(map(note, found)) if x)
        parts.append(f"{title}: milliseconds, peak megabytes\n\n{table(heads, rows)}" + (f"\n{notes}" if notes else ""))
    return "\n".join(parts)


def cell(r: Record | None) -> str:
    if r is None:
        return ""
    if r.ms is None:
        return r.outcome
    peak = "" if r.peak_bytes is None else f", {rounded(max(r.peak_bytes, 0) / 1e6)} MB"
    return f"{rounded(r.ms)} ms{peak}"


def rounded(value: float) -> str:
    """To three digits, no more than the measurement has."""
    return f"{float(f'{value:.3g}'):,g}"


def note(r: Record) -> str:
    if r.outcome in (OK, NO_TIME, NO_MEMORY):
        return ""
    return f"{r.candidate}, N = {r.n:,}: {r.outcome}, {r.why}".replace("\n", " ")[:240]


def growth(series: Sequence[Record]) -> str:
    named = zip("time memory".split(), exponents(x for x in series if x.outcome == OK), strict=True)
    return ", ".join(f"{name} N^{value:.1f}" for name, value in named if value is not None)


def times(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}×"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(x.replace('|', '/') for x in line)} |\n" for line in lines)


# ---- plots


def drawn(loss: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Forward and backward of each type with more than one size. A drop-in's line would lie on its backend's."""
    shown = [x for x in records if x.mode == BOTH and x.outcome == OK and not x.candidate.startswith(DROPIN)]
    found = grouped(sorted(shown, key=lambda x: DRAWN.index(x.dtype)), lambda x: f"{loss}, {x.dtype}, D = {x.d}")
    return {title: x for title, x in found.items() if len({r.n for r in x}) > 1}


# ---- grouping


def grouped(records: Iterable[Record], key: Callable[[Record], object]) -> dict:
    found: dict[object, list[Record]] = {}
    for x in records:
        found.setdefault(key(x), []).append(x)
    return found


def problem_of(r: Record) -> object:
    return r.problem


def machine_of(r: Record) -> str:
    n = r.machine.threads
    return r.machine.device + (f", {n} thread{'s' * (n != 1)}" if n else "")


def loss_of(r: Record) -> str:
    variant = "" if r.variant == "default" else f" ({r.variant})"
    return f"{r.loss}{variant}"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def collected(folder: Path) -> list[Record]:
    """Of all files; one whose lines are no records is left out, and said to be."""
    found: list[Record] = []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            found += read(path)
        except ValueError as error:
            print(f"{path.name} is left out: {error}", file=sys.stderr)
    return sorted(found, key=lambda x: (machine_of(x), x.loss, x.variant != "default", x.variant))


def write(results: Path, docs: Path) -> None:
    text, figures = page(collected(results))
    folder = docs / "benchmarks"
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for name, groups in figures.items():
        plots.save(groups, folder / name)
    (docs / "benchmarks.md").write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    given = parser.parse_args()
    write(given.results, given.docs)
