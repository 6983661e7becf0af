"""Measure losses on this machine: time, speed-up over dense PyTorch, peak memory, error, growth."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from contrastile import backends
from contrastile.backends import reason
from contrastile.benchmark import record as records
from contrastile.benchmark.growth import exponents
from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import Problem
from contrastile.benchmark.record import OK, Record
from contrastile.benchmark.suite import COMPILED, DENSE, card
from contrastile.cli import choice
from contrastile.cli.bench_options import add_arguments, fault, problems
from contrastile.cli.table import format_table

__all__ = ["add_arguments", "run"]

_HEADERS = ("N", "what", "ms", "speed-up", "TFLOP/s", "of peak", "of block peak", "peak MB", "error", "")
_KEY = f"""
ms              median time of one step; on a CPU with one thread, CPU time of the process
speed-up        over `{DENSE}`: the same loss in PyTorch with the whole matrix of scores in memory
TFLOP/s         10^12 operations per second, counting the operations of this package's method in every line
of peak         TFLOP/s over those of one large square matrix product, timed alternately with the losses
of block peak   the same, but over matrix products of the shapes that this package computes
peak MB         memory beyond the inputs, gradients included
error           the largest relative error of value and gradients against float64; a wrong result is rejected
"""


def run(options: argparse.Namespace) -> int:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    why = fault(options, device)
    if why:
        print(f"bench: {why}", file=sys.stderr)
        return 2
    if options.dry_run:
        for problem in problems(options, device):
            for n in sorted(options.n):
                print(_foreseen(problem.at(n), options.backend or backends.backend_names()))
        return 0
    measured: list[Record] = []
    meter = Meter(seconds=options.seconds)
    for problem in problems(options, device):
        measured += _sweep(meter, options, problem)
    print(_KEY)
    print(_growth(measured))
    if options.json:
        records.append(options.json, measured)
        print(f"wrote {options.json.resolve()}")
    if options.plot:
        _plot(measured, options.plot)
    return 0 if any(x.outcome == OK for x in measured) else 1


# ---- without measuring


def _foreseen(problem: Problem, names: Sequence[str]) -> str:
    """What each backend would do with the problem, as a table."""
    if not card(problem.loss).gemm:
        return f"{problem.name()}: it compares no pairs and has no backend\n"
    device, pairs = torch.device(problem.device), problem.rows**2
    chosen, why = choice.auto(device, problem.dtype, pairs)
    rows = []
    for backend in backends.BACKENDS:
        if backend.name not in names:
            continue
        why_not = reason(backend, device, problem.dtype)
        if why_not is None:
            hand, tiles = choice.blocks(problem, backend.name), choice.tiles(backend.name, device, problem.dtype)
            rows.append([backend.name, "yes", hand, tiles])
        else:
            rows.append([backend.name, "no", "", why_not])
    table = format_table(("backend", "runs", "pairs in hand", "tiles, or why not"), rows, "<<><")
    matrix = pairs * problem.dtype.itemsize / 1e6
    return f"{problem.name()}\nauto takes {chosen}: {why}\na matrix of scores: {matrix:,.1f} MB\n\n{table}\n"


# ---- measuring


def _sweep(meter: Meter, options: argparse.Namespace, problem: Problem) -> list[Record]:
    names = _names(options, problem)
    measured: list[Record] = []
    for n in sorted(options.n):
        measured += meter.measure(problem.at(n), names)
        print(f"{problem.at(n).name()}: measured", file=sys.stderr, flush=True)
    about = measured[0].machine
    print(f"\n{_title(measured[0])}; {about.device}, torch {about.torch}, contrastile {about.contrastile}\n")
    dense = {x.n: x.ms for x in measured if x.candidate == DENSE}
    print(format_table(_HEADERS, [_cells(x, dense.get(x.n)) for x in measured], "><>>>>>>><"), flush=True)
    return measured


def _names(options: argparse.Namespace, problem: Problem) -> list[str]:
    device = torch.device(problem.device)
    usable = [x.name for x in backends.BACKENDS if reason(x, device, problem.dtype) is None]
    names = [f"contrastile {x}" for x in options.backend or usable]
    if not card(problem.loss).gemm:
        names = names[:1]  # no pairs, no backend
    return names + [DENSE] * (not options.no_dense) + [COMPILED] * options.compile


def _title(r: Record) -> str:
    variant = "" if r.variant == "default" else f" ({r.variant})"
    return f"{r.loss}{variant}, D = {r.d}, {r.dtype}, {r.mode}"


def _cells(r: Record, dense_ms: float | None) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    verdict = r.outcome if r.why is None else f"{r.outcome}: {r.why}".replace("\n", " ")[:100]
    peak = None if r.peak_bytes is None else r.peak_bytes / 1e6
    faster = f"x {dense_ms / r.ms:.3g}" if dense_ms and r.ms else ""
    return [
        f"{r.n:,}", r.candidate, cell(r.ms, ".4g"), faster, cell(r.tflops, ".3g"), cell(r.of_gemm, ".0%"),
        cell(r.of_chunk_gemm, ".0%"), cell(peak, ",.1f"), cell(r.error, ".0e"), verdict,
    ]  # fmt: skip


def _growth(measured: Sequence[Record]) -> str:
    """Exponents of every candidate that was measured at two sizes."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for x in measured:
        groups.setdefault((_title(x), x.candidate), []).append(x)
    lines = []
    for (title, candidate), found in groups.items():
        grown = zip(("time", "memory"), exponents(found), strict=True)
        parts = [f"{name} ~ N^{value:.2f}" for name, value in grown if value is not None]
        if parts:
            lines.append(f"{title}, {candidate}: {', '.join(parts)}")
    return "\n".join(["growth over the largest sizes:", *lines]) if lines else "growth: needs two sizes"


def _plot(measured: Sequence[Record], path: Path) -> None:
    from contrastile.benchmark import plots

    groups: dict[str, list[Record]] = {}
    for x in measured:
        groups.setdefault(_title(x), []).append(x)
    plots.save(dict(groups), path)
    print(f"wrote {path.resolve()}")
