"""Check every loss and gradient of this installation against the float64 reference.

Errors are relative to the budget of ``contrastile.testing.error_budget``: 1 is the most allowed.
"""

import argparse
import dataclasses
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import contrastile
from contrastile.catalog import CATALOG, Case, LossCard
from contrastile.cli.table import format_table
from contrastile.testing import CheckResult, check_card

_SHAPES = (
    (1, 7),
    (2, 16),
    (13, 33),
    (127, 65),
)  # (rows, features): a single pair, primes, odd widths
_QUICK_SHAPES = ((1, 7), (13, 33))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOW_TEMPERATURE = 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer shapes")


def run(options: argparse.Namespace) -> int:
    shapes = _QUICK_SHAPES if options.quick else _SHAPES
    backends = contrastile.available_backends()
    rows = [
        _Row(card.name, backend, dtype, _worst_check(card, backend, dtype, shapes))
        for card in CATALOG
        for backend, reason in backends.items()
        if reason is None
        for dtype in _dtypes(backend)
    ]
    _print_rows(rows)
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
        verdict = "ok" if self.result.ok else "FAIL"
        return [
            self.loss,
            self.backend,
            _dtype_name(self.dtype),
            f"{self.result.worst:.2g}",
            verdict,
        ]


def _print_rows(rows: list[_Row]) -> None:
    headers = ["loss", "backend", "dtype", "error / budget", ""]
    print(format_table(headers, [row.cells() for row in rows], "<<<><"))
    failed = [row for row in rows if not row.result.ok]
    for row in failed:
        print(f"FAIL {row.loss}, {row.backend}, {_dtype_name(row.dtype)}: {row.result.detail}")
    print(f"{len(rows) - len(failed)} of {len(rows)} ok")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtypes(backend: str) -> tuple[torch.dtype, ...]:
    # the compiled backends compute in float32 at most
    return (*_DTYPES, torch.float64) if backend == "torch" else _DTYPES


def _worst_check(
    card: LossCard, backend: str, dtype: torch.dtype, shapes: tuple[tuple[int, int], ...]
) -> CheckResult:
    results = _checks(card, backend, dtype, shapes)
    return min(results, key=lambda result: (result.ok, -result.worst))


def _checks(
    card: LossCard, backend: str, dtype: torch.dtype, shapes: tuple[tuple[int, int], ...]
) -> Iterator[CheckResult]:
    for variant in (card, *_at_low_temperature(card)):
        for rows, features in shapes:
            try:
                yield check_card(variant, backend, dtype, rows, features)
            except Exception as error:  # one broken loss must not hide the others
                detail = f"{type(error).__name__}: {error} at {rows} x {features}"
                yield CheckResult(worst=math.inf, ok=False, detail=detail)


def _at_low_temperature(card: LossCard) -> list[LossCard]:
    """The loss where its softmax is nearly a maximum; nothing where there is no temperature."""
    values = {"temperature": _LOW_TEMPERATURE, "logit_scale": 1 / _LOW_TEMPERATURE}
    names = list(inspect.signature(card.function).parameters)
    return [_with_argument(card, names, name, values[name]) for name in names if name in values]


def _with_argument(card: LossCard, names: list[str], name: str, value: float) -> LossCard:
    def make_inputs(n: int, d: int, generator: torch.Generator, dtype: torch.dtype) -> Case:
        case = card.make_inputs(n, d, generator, dtype)
        position = names.index(name)
        if position < len(case.args):
            args = list(case.args)
            args[position] = _like(args[position], value)
            return dataclasses.replace(case, args=tuple(args))
        changed = {name: _like(case.kwargs.get(name), value)}
        return dataclasses.replace(case, kwargs={**case.kwargs, **changed})

    return dataclasses.replace(card, make_inputs=make_inputs)


def _like(old: Any, value: float) -> Any:
    if isinstance(old, Tensor):
        return torch.full_like(old, value).requires_grad_(old.requires_grad)
    return value
