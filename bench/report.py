"""report.py: docs/benchmarks.md and its plots from all bench/results/*.jsonl and the lines in busy and small_gpu. Equal
results give an equal page."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from comparisons import lost_section, package, summary  # noqa: E402
from contrastile.benchmark import plots  # noqa: E402
from contrastile.benchmark.problem import BOTH  # noqa: E402
from contrastile.benchmark.record import NO_TIME, OK, Record, read  # noqa: E402
from contrastile.benchmark.suite import DENSE  # noqa: E402
from host import host_section  # noqa: E402
from lines import read as lines_of  # noqa: E402
from neighbour import busy_section  # noqa: E402
from suite import DROPIN  # noqa: E402
from tables import grouped, loss_of, loss_tables, machine_of, machine_section  # noqa: E402

RESULTS, DOCS = ROOT / "bench/results", ROOT / "docs"
PLOTTED_PACKAGES = 2  # the fastest
INTRODUCTION, METHOD = ((Path(__file__).parent / f"report_{x}.md").read_text() for x in ("head", "method"))


def page(
    records: Sequence[Record], busy: Sequence[dict[str, Any]] = (), hosts: Sequence[dict[str, Any]] = ()
) -> tuple[str, dict[str, list[Record]]]:
    """The text, and for each plot its file's name and its records. busy: lines of bench_busy.py; hosts: of
    bench_small_gpu.py."""
    done = [x for x in records if x.outcome != NO_TIME]
    if not done:
        return INTRODUCTION + "\nThere are no results yet.\n", {}
    figures: dict[str, list[Record]] = {}
    parts = [INTRODUCTION, summary(done), "## Plots\n"]
    for (machine, loss), found in grouped(done, lambda x: (machine_of(x), loss_of(x))).items():
        for title, panels in drawn(loss, found).items():
            name = f"{slug(machine)}-{slug(title)}.svg"
            figures[name] = panels
            parts.append(f"![Time and memory of {title} against the batch N](benchmarks/{name})\n")
    parts += [lost_section(done), *([busy_section(busy)] if busy else []), *([host_section(hosts)] if hosts else [])]
    parts += [METHOD, left_out([x for x in records if x.outcome == NO_TIME])]
    for machine, found in grouped(done, machine_of).items():
        parts.append(machine_section(machine, found))
        parts += [f"### {loss}\n\n{loss_tables(x)}" for loss, x in grouped(found, loss_of).items()]
    return "\n".join(parts), figures


def left_out(records: Sequence[Record]) -> str:
    """What the plan has and nobody had the time for."""
    if not records:
        return ""
    lines = []
    for problem, found in grouped(records, lambda x: (x.n, x.d, x.dtype, x.mode)).items():
        n, d, dtype, mode = problem
        by_loss = grouped(found, loss_of)
        ours_too = [loss for loss, x in by_loss.items() if any(r.package == "contrastile" for r in x)]
        single = sorted({f"{r.candidate} of {loss}" for loss, x in by_loss.items() if loss not in ours_too for r in x})
        lines.append(f"- N = {n:,}, D = {d}, {dtype}, {mode}: {', '.join([*ours_too, *single])}")
    return (
        "### What was not measured\n\nThe plan has these too; the time was over before.\n\n" + "\n".join(lines) + "\n"
    )


# ---- plots


def drawn(loss: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Forward and backward of each type and D with more than one size: our fastest backend, the dense form, and the
    packages that are fastest at the largest size."""
    shown = [x for x in records if x.mode == BOTH and x.outcome == OK and not x.candidate.startswith(DROPIN)]
    found = grouped(shown, lambda x: f"{loss}, {x.dtype}, D = {x.d}")
    return {title: few(x) for title, x in found.items() if len({r.n for r in x}) > 1}


def few(records: Sequence[Record]) -> list[Record]:
    by_size = sorted(records, key=lambda x: (-x.n, x.ms or 0.0))
    mine = next((x.candidate for x in by_size if x.package == "contrastile"), "")
    names = dict.fromkeys(x.candidate for x in by_size if package(x))
    kept = {mine, DENSE, *list(names)[:PLOTTED_PACKAGES]}
    return [x for x in records if x.candidate in kept]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# ---- files


def collected(folder: Path) -> list[Record]:
    """Of all files; one whose lines are no records is left out, and said to be."""
    found: list[Record] = []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            found += read(path)
        except ValueError as error:
            print(f"{path.name} is left out: {error}", file=sys.stderr)
    return sorted(found, key=lambda x: (machine_of(x), x.loss, x.variant != "default", x.variant, x.d, x.n))


def write(results: Path, docs: Path) -> None:
    text, figures = page(collected(results), lines_of(results, "busy"), lines_of(results, "small_gpu"))
    folder = docs / "benchmarks"
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for name, records in figures.items():
        plots.save({name_of(records[0]): records}, folder / name)
    (docs / "benchmarks.md").write_text(text)


def name_of(r: Record) -> str:
    return f"{loss_of(r)}, {r.dtype}, D = {r.d}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    given = parser.parse_args()
    write(given.results, given.docs)
