"""Check every loss and gradient of this installation against the float64 reference.

Errors are relative to the budget of ``contrastile.testing.error_budget``: 1 is the most allowed.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import contrastile
from contrastile.catalog import CATALOG, LossCard
from contrastile.cli.table import format_table
from contrastile.testing import CheckResult, check_card

Shapes = tuple[tuple[int, int], ...]  # (rows, features)

_SHAPES: Shapes = ((1, 7), (2, 16), (13, 33), (97, 35))
_QUICK_SHAPES: Shapes = ((1, 7), (13, 33))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NO_BACKEND = "-"  # shown for a loss without pairs, which is ordinary PyTorch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument("--verbose", "-v", action="store_true", help="a line for every loss")


def run(options: argparse.Namespace) -> int:
    backends = contrastile.available_backends()
    usable = [name for name, reason in backends.items() if reason is None]
    shapes = _QUICK_SHAPES if options.quick else _SHAPES
    rows = [
        _Row(card.name, backend, dtype, _worst_check(card, backend, dtype, shapes))
        for card in CATALOG
        for backend in (usable if card.gemm else [_NO_BACKEND])
        for dtype in _dtypes(backend)
    ]
    _print_rows(rows, options.verbose)
    for backend, reason in backends.items():
        if reason is not None:
            print(f"not checked: backend {backend}: {reason}")
    return 0 if all(row.result.ok for row in rows) else 1


@dataclass(frozen=True)
class _Row:
    loss: str
    backend: str
    dtype: torch.dtype
    result: CheckResult

    def cells(self) -> list[str]:
        error, verdict = f"{self.result.worst:.2g}", "ok" if self.result.ok else "FAIL"
        return [self.loss, self.backend, _dtype_name(self.dtype), error, verdict]


def _print_rows(rows: list[_Row], verbose: bool) -> None:
    if verbose:
        headers = ["loss", "backend", "dtype", "error / budget", ""]
        print(format_table(headers, [row.cells() for row in rows], "<<<><") + "\n")
    headers = ["backend", "dtype", "losses", "ok", "largest error / budget", "of"]
    print(format_table(headers, _summary(rows), "<<>>><"))
    failed = [row for row in rows if not row.result.ok]
    for row in failed:
        print(f"FAIL {row.loss}, {row.backend}, {_dtype_name(row.dtype)}: {row.result.detail}")
    print(f"{len(rows) - len(failed)} of {len(rows)} ok")


def _summary(rows: list[_Row]) -> list[list[str]]:
    """A line for each backend and type."""
    groups: dict[tuple[str, torch.dtype], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.backend, row.dtype), []).append(row)
    lines = []
    for (backend, dtype), group in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1].itemsize)):
        worst = max(group, key=lambda row: (not row.result.ok, row.result.worst))
        shown = "no pairs" if backend == _NO_BACKEND else backend
        right = sum(row.result.ok for row in group)
        lines.append([shown, _dtype_name(dtype), str(len(group)), str(right), f"{worst.result.worst:.2g}", worst.loss])
    return lines


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtypes(backend: str) -> tuple[torch.dtype, ...]:
    # the compiled backends compute in float32
    return (*_DTYPES, torch.float64) if backend in ("torch", _NO_BACKEND) else _DTYPES


def _worst_check(card: LossCard, backend: str, dtype: torch.dtype, shapes: Shapes) -> CheckResult:
    results = _checks(card, backend, dtype, shapes)
    return min(results, key=lambda result: (result.ok, -result.worst))


def _checks(card: LossCard, backend: str, dtype: torch.dtype, shapes: Shapes) -> Iterator[CheckResult]:
    for rows, features in shapes:
        try:
            result = check_card(card, backend, dtype, rows, features)
        except Exception as error:  # one broken loss must not hide the others
            result = CheckResult(math.inf, False, f"{type(error).__name__}: {error}")
        yield CheckResult(result.worst, result.ok, f"{rows} x {features}: {result.detail}")
