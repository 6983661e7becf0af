"""One loss at one size and type: its inputs, its operations, and a step on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from contrastile.catalog import Case

from . import suite as catalog_suite
from .clock import Step
from .suite import Candidate, Loss, Workload, count, features

BOTH, FORWARD = "forward+backward", "forward"
MODES = (BOTH, FORWARD)
ROTATED_BYTES = 128 << 20  # inputs are rotated until they exceed this (larger than most caches), or SETS of them
SETS = 16
NOISE = 1.0  # the catalog's pairs are those of a trained model; with it the cosine of positives is about 0.45


@dataclass(frozen=True)
class Problem:
    """Only names and numbers: it can be sent to another process."""

    loss: str
    n: int
    d: int
    dtype: torch.dtype
    mode: str = BOTH
    variant: str = "default"
    device: str = "cpu"
    tf32: bool = False
    suite: str = catalog_suite.__name__

    @property
    def workload(self) -> Workload:
        found: Workload = import_module(self.suite).workload(self.loss, self.variant)
        return found

    @property
    def candidates(self) -> dict[str, Candidate]:
        found: dict[str, Candidate] = import_module(self.suite).candidates(self.workload)
        return found

    @property
    def backward(self) -> bool:
        return self.mode == BOTH

    @property
    def type(self) -> str:
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")

    @property
    def k(self) -> int:
        return count(self.at(4).case(0))

    @property
    def rows(self) -> int:
        """Of the matrix of pairs."""
        return self.n * self.k if self.workload.stacked else self.n

    @property
    def flop(self) -> float | None:
        flop = self.workload.flop
        return None if flop is None else flop(self.n, self.d, self.k, self.backward)

    def name(self) -> str:
        variant = "" if self.variant == "default" else f" ({self.variant})"
        return f"{self.loss}{variant} N={self.n} D={self.d} {self.type} {self.mode}"

    def at(self, n: int) -> Problem:
        return replace(self, n=n)

    def case(self, seed: int) -> Case:
        """Arguments of one call, on the device. Raises: ValueError: this variant has no batch of n."""
        with torch.device(self.device):
            generator = torch.Generator(self.device).manual_seed(seed)
            case = self.workload.make(self.n, self.d, generator, self.dtype)
            if case.n != self.n:
                raise ValueError(f"{self.loss}, variant {self.variant!r}, is limited to N = {case.n}, got {self.n}")
            args = tuple(noisy(x, generator) if is_features(x) else x for x in case.args)
        return replace(case, args=args)

    def sets(self) -> list[Case]:
        """Inputs to rotate."""
        first = self.case(0)
        size = sum(x.nbytes for x in features(first))
        number = min(SETS, max(2, -(-ROTATED_BYTES // size)))
        return [first, *(self.case(seed) for seed in range(1, number))]


def is_features(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() > 1


def noisy(x: Tensor, generator: Generator) -> Tensor:
    """Rows of the same length, further from each other."""
    wide = x.float()
    length: Tensor = wide.norm(dim=-1, keepdim=True)
    noise = F.normalize(torch.randn(x.shape, generator=generator), dim=-1)
    mixed: Tensor = F.normalize(wide + NOISE * length * noise, dim=-1)
    return (length * mixed).to(x.dtype)


def leaf(x: Any) -> Any:
    """A parameter or a feature tensor takes a gradient; ids, labels and options do not."""
    return x.detach().clone().requires_grad_() if isinstance(x, Tensor) and x.dtype.is_floating_point else x


def leaves(case: Case) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call that is differentiated: all tensors of floating type but those that are constants."""
    args = [x if case.constant(place) else leaf(x) for place, x in enumerate(case.args)]
    return args, {name: x if case.constant(name) else leaf(x) for name, x in case.kwargs.items()}


def stepper(loss: Loss, cases: Sequence[Case], backward: bool) -> Step:
    """Does one forward pass, and one backward, on one case after the other."""
    if not backward:

        def forward(index: int) -> Tensor:
            case = cases[index % len(cases)]
            with torch.no_grad():
                value: Tensor = loss(*case.args, **case.kwargs)
            return value

        return forward

    prepared = [leaves(case) for case in cases]

    def both(index: int) -> Tensor:
        args, kwargs = prepared[index % len(prepared)]
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                x.grad = None
        value: Tensor = loss(*args, **kwargs)
        value.backward()
        return value.detach()

    return both
