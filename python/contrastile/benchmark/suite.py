"""What can be measured: the losses of the catalog, computed by this package, in dense torch, and compiled.

A suite is a module with the two functions at the end. A fresh process that measures memory imports it by name, so that
other suites, like the repository's with other packages' losses, need nothing but a name either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastile.backends import BACKENDS, backend_names, reason
from contrastile.catalog import CATALOG, Case, CaseMaker, LossCard

if TYPE_CHECKING:
    from .problem import Problem

Loss = Callable[..., Tensor]
Flop = Callable[[int, int, int, bool], float]  # n, d, k, backward

DENSE, COMPILED = "dense", "torch.compile"


class Skip(Exception):
    """Why a candidate does not run here."""


@dataclass(frozen=True)
class Workload:
    """A loss in one variant, at any size."""

    loss: str
    variant: str
    make: CaseMaker
    function: Loss  # takes backend=
    reference: Loss  # dense, right in float64
    flop: Flop | None  # None: not counted for this variant
    stacked: bool = False  # as in LossCard
    dense_rows: int = 1024  # up to this batch, the reference is cheap
    normalizes: bool = False  # unit rows rounded to half precision, which no error budget covers


@dataclass(frozen=True)
class Candidate:
    """Who computes a loss. make(problem) gives a function of a case's arguments, or raises Skip."""

    name: str
    package: str
    make: Callable[[Problem], Loss] = field(compare=False)  # made anew whenever candidates are asked for
    distribution: str | None = None  # whose version is recorded
    backend: str | None = None
    ours: bool = False  # this package computes it
    budget: bool = False  # held to the error budget, with the gradients of its parameters
    normalizes: bool = False  # its own copies of unit rows, so that gradients have no part along them


def card(loss: str) -> LossCard:
    """By name, with or without "_loss". Raises: ValueError: there is none."""
    for found in CATALOG:
        if loss in (found.name, found.name.removesuffix("_loss")):
            return found
    raise ValueError(f"unknown loss {loss!r}: one of {', '.join(x.name for x in CATALOG)}")


def variant_of(card: LossCard, variant: str) -> Workload:
    if variant not in card.variants:
        raise ValueError(f"unknown variant {variant!r} of {card.name}: one of {', '.join(card.variants)}")
    make, function = card.variants[variant], card.function if card.gemm else partial(without_backend, card.function)
    flop = card.flop if counted(card, make) else None
    rows = 64 if "n_squared" in variant else 1024
    return Workload(card.name, variant, make, function, card.reference, flop, card.stacked, rows)


def without_backend(function: Loss, *args: Any, backend: str | None = None, **kwargs: Any) -> Tensor:
    return function(*args, **kwargs)


def counted(card: LossCard, make: CaseMaker) -> bool:
    """Whether the card's operations are this variant's: it differs from the default by no option and no more rows."""

    def options(make: CaseMaker) -> dict[str, Any]:
        case = make(8, 8, torch.Generator().manual_seed(0), torch.float32)
        return {name: None if isinstance(x, Tensor) and x.dim() == 0 else x for name, x in case.kwargs.items()}

    mine, default = options(make), options(card.variants["default"])
    tensors = [isinstance(x, Tensor) for x in (*mine.values(), *default.values())]
    return card.gemm > 0 and (mine.keys() == default.keys() if any(tensors) else mine == default)


def features(case: Case) -> list[Tensor]:
    return [x for x in case.args if isinstance(x, Tensor) and x.dim() > 1]


def count(case: Case) -> int:
    """k: tensors of features (N, D) or views."""
    first = features(case)[0]
    if first.dim() == 3:
        return int(first.shape[0 if case.views else 1])
    return len(features(case))


# ---- candidates


def ours(backend: str, problem: Problem) -> Loss:
    found = next(x for x in BACKENDS if x.name == backend)
    why = reason(found, torch.device(problem.device), problem.dtype)
    if why is not None:
        raise Skip(why)
    return partial(problem.workload.function, backend=backend)


def dense(problem: Problem) -> Loss:
    return problem.workload.reference


def compiled(problem: Problem) -> Loss:
    return torch.compile(problem.workload.reference, dynamic=False)


# ---- the suite


def workload(loss: str, variant: str) -> Workload:
    return variant_of(card(loss), variant)


def candidates(workload: Workload) -> dict[str, Candidate]:
    found = [
        Candidate(f"contrastile {x}", "contrastile", partial(ours, x), "contrastile", x, True, True)
        for x in backend_names()
    ]
    found.append(Candidate(DENSE, "dense torch", dense, "torch"))
    found.append(Candidate(COMPILED, "torch.compile", compiled, "torch"))
    return {x.name: x for x in found}
