"""Measure losses on this machine: time, share of the limit of matrix products, peak memory, error, growth."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from contrastile.backends import BACKENDS, backend_names, reason
from contrastile.benchmark import record as records
from contrastile.benchmark.growth import exponents
from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import BOTH, MODES, Problem
from contrastile.benchmark.record import OK, Record
from contrastile.benchmark.suite import COMPILED, DENSE, card, variant_of
from contrastile.cli.table import format_table

_DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16, "fp64": torch.float64, "float64": torch.float64,
}  # fmt: skip
_HEADERS = ("N", "candidate", "ms", "TFLOP/s", "of GEMM", "of chunk GEMM", "peak MB", "error", "")
_KEY = """
ms              median; on a CPU with one thread, CPU time of the process
TFLOP/s         of the operations that the package's method needs, for every candidate
of GEMM         that rate over the rate of one large square matrix product, measured in the same turns
of chunk GEMM   the same over products with the shapes of the package's blocks
peak MB         of memory beyond the inputs, gradients included
error           the largest relative error of value and feature gradients against float64; wrong results are refused
"""

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    several = "one or more, with commas between"
    parser.add_argument("--loss", type=_several(_loss), default=["clip_loss"], help=f"{several} (default: clip)")
    parser.add_argument("--variant", default="default", help="of the loss, as in contrastile.catalog")
    parser.add_argument("--n", type=_several(_positive), default=[256, 1024, 4096], help=f"batches, {several}")
    parser.add_argument("--d", type=_positive, default=512, help="features (default: 512)")
    parser.add_argument("--dtype", type=_several(_dtype), default=[torch.float32], help=f"fp32, bf16, fp16, {several}")
    parser.add_argument("--backend", type=_several(_backend), help=f"{several} (default: all that can run)")
    parser.add_argument("--mode", type=_several(_mode), default=[BOTH], help=f"{' or '.join(MODES)}, {several}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where torch finds a GPU")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the dense form (slow to start)")
    parser.add_argument("--no-dense", action="store_true", help="without the dense form")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing for each problem (default: 2)")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line each")
    parser.add_argument("--plot", type=Path, help="draw time and memory against N: a .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> int:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    problem = _problem_with(options, device)
    if problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    measured: list[Record] = []
    meter = Meter(seconds=options.seconds)
    for loss in options.loss:
        for dtype in options.dtype:
            for mode in options.mode:
                measured += _sweep(meter, options, Problem(loss, 0, options.d, dtype, mode, options.variant, device))
    print(_KEY)
    print(_growth(measured))
    if options.json:
        records.append(options.json, measured)
        print(f"wrote {options.json.resolve()}")
    if options.plot:
        _plot(measured, options.plot)
    return 0 if any(x.outcome == OK for x in measured) else 1


def _sweep(meter: Meter, options: argparse.Namespace, problem: Problem) -> list[Record]:
    names = _names(options, problem)
    measured: list[Record] = []
    for n in sorted(options.n):
        measured += meter.measure(problem.at(n), names)
        print(f"{problem.at(n).name()}: measured", file=sys.stderr, flush=True)
    about = measured[0].machine
    print(f"\n{_title(measured[0])}; {about.device}, torch {about.torch}, contrastile {about.contrastile}\n")
    print(format_table(_HEADERS, [_cells(x) for x in measured], "><>>>>>><"), flush=True)
    return measured


def _names(options: argparse.Namespace, problem: Problem) -> list[str]:
    device = torch.device(problem.device)
    usable = [x.name for x in BACKENDS if reason(x, device, problem.dtype) is None]
    names = [f"contrastile {x}" for x in options.backend or usable]
    if not card(problem.loss).gemm:
        names = names[:1]  # no pairs, no backend
    return names + [DENSE] * (not options.no_dense) + [COMPILED] * options.compile


def _title(r: Record) -> str:
    variant = "" if r.variant == "default" else f" ({r.variant})"
    return f"{r.loss}{variant}, D = {r.d}, {r.dtype}, {r.mode}"


def _cells(r: Record) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    verdict = r.outcome if r.why is None else f"{r.outcome}: {r.why}".replace("\n", " ")[:100]
    peak = None if r.peak_bytes is None else r.peak_bytes / 1e6
    return [
        f"{r.n:,}", r.candidate, cell(r.ms, ".4g"), cell(r.tflops, ".3g"), cell(r.of_gemm, ".0%"),
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


# ---- options


def _problem_with(options: argparse.Namespace, device: str) -> str | None:
    """What cannot be done, before anything is measured."""
    if device == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install matplotlib"
    for dtype in options.dtype:
        for backend in BACKENDS:
            why = reason(backend, torch.device(device), dtype) if backend.name in (options.backend or ()) else None
            if why is not None:
                return f"backend {backend.name}: {why}"
    try:
        for loss in options.loss:
            variant_of(card(loss), options.variant)
            for n in options.n:
                Problem(loss, n, options.d, options.dtype[0], variant=options.variant, device=device).case(0)
    except ValueError as error:
        return str(error)
    return None


def _several(parse: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    def every(text: str) -> list[_T]:
        return [parse(part.strip()) for part in text.split(",")]

    return every


def _loss(text: str) -> str:
    try:
        return card(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _choice(text: str, choices: Sequence[str], what: str) -> str:
    if text not in choices:
        raise argparse.ArgumentTypeError(f"unknown {what} {text!r}: one of {', '.join(choices)}")
    return text


def _backend(text: str) -> str:
    return _choice(text, backend_names(), "backend")


def _mode(text: str) -> str:
    return _choice(text, MODES, "mode")


def _dtype(text: str) -> torch.dtype:
    return _DTYPES[_choice(text, list(_DTYPES), "dtype")]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)
