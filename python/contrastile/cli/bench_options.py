"""The options of `bench`, and what is wrong with them before anything is measured."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from contrastile.backends import BACKENDS, backend_names, reason
from contrastile.benchmark import record as records
from contrastile.benchmark.problem import BOTH, MODES, Problem
from contrastile.benchmark.suite import card, variant_of

DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16, "fp64": torch.float64, "float64": torch.float64,
}  # fmt: skip
PICTURES = (".png", ".svg", ".pdf")

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    several = "separate several with commas"
    parser.add_argument("--loss", type=_several(_loss), default=["clip_loss"], help=f"{several} (default: clip)")
    parser.add_argument("--variant", default="default", help="a variant of the loss from contrastile.catalog")
    parser.add_argument("--n", type=_several(positive), default=[256, 1024, 4096], help=f"batch sizes; {several}")
    parser.add_argument("--d", type=positive, default=512, help="features per item (default: 512)")
    parser.add_argument("--dtype", type=_several(dtype), default=[torch.float32], help=f"fp32, bf16, fp16; {several}")
    parser.add_argument("--backend", type=_several(_backend), help=f"backends; {several} (default: all that can run)")
    parser.add_argument("--mode", type=_several(_mode), default=[BOTH], help=f"{', '.join(MODES)}; {several}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if torch finds a GPU")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the dense loss (slow to start)")
    parser.add_argument("--no-dense", action="store_true", help="don't measure the dense loss")
    parser.add_argument("--seconds", type=_seconds, default=2.0, help="seconds to time each problem (default: 2)")
    parser.add_argument("--json", type=Path, help="append results to this file, one JSON object per line")
    parser.add_argument("--plot", type=Path, help="plot time and memory against N to a .png, .svg, or .pdf file")
    parser.add_argument("--dry-run", action="store_true", help="show which backends and tiles can run, then stop")


def problems(options: argparse.Namespace, device: str) -> Iterator[Problem]:
    """Without a size: those of options.n."""
    for loss in options.loss:
        for dtype in options.dtype:
            for mode in options.mode:
                yield Problem(loss, 0, options.d, dtype, mode, options.variant, device)


def fault(options: argparse.Namespace, device: str) -> str | None:
    """What cannot be done."""
    if device == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    return _file_fault(options) or _backend_fault(options, device) or _problem_fault(options, device)


def _file_fault(options: argparse.Namespace) -> str | None:
    if options.plot and options.plot.suffix not in PICTURES:
        return f"--plot draws {', '.join(PICTURES)} files, got {options.plot.name!r}"
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install matplotlib"
    try:
        for path in filter(None, (options.plot, options.json)):
            _try_writing(path)
        if options.json:
            records.read(options.json)
    except OSError as error:
        return f"cannot write: {error}"
    except ValueError as error:
        return f"--json {options.json} holds something else: {error}"
    return None


def _try_writing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    path.open("a").close()
    if not there:
        path.unlink()


def _backend_fault(options: argparse.Namespace, device: str) -> str | None:
    if options.dry_run:
        return None  # which says it for each
    for dtype in options.dtype:
        for backend in BACKENDS:
            why = reason(backend, torch.device(device), dtype) if backend.name in (options.backend or ()) else None
            if why is not None:
                return f"backend {backend.name}: {why}"
    return None


def _problem_fault(options: argparse.Namespace, device: str) -> str | None:
    try:
        for loss in options.loss:
            variant_of(card(loss), options.variant)
            for n in options.n:
                Problem(loss, n, options.d, options.dtype[0], variant=options.variant, device=device).case(0)
    except ValueError as error:
        return str(error)
    return None


# ---- from text


def _several(parse: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    def every(text: str) -> list[_T]:
        return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))

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


def dtype(text: str) -> torch.dtype:
    return DTYPES[_choice(text, list(DTYPES), "dtype")]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return found
