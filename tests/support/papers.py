"""Rows of docs/papers.md as tests run them: the row's own code against its formula, written densely."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile.testing import EPS, error_budget, largest

from .pages import DOCS

sys.path.append(str(DOCS / "tools"))
from papers import OFFERS, PAPERS  # the table

__all__ = ["OFFERS", "PAPERS"]

Inputs = dict[str, Any]


def run(key: str, **inputs: Any) -> Tensor:
    """What the code of a row leaves in `loss`, given the names that it uses."""
    code = OFFERS[key].call
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert set(inputs) <= used, f"{key} does not use {sorted(set(inputs) - used)}"
    scope = {"contrastile": contrastile, "torch": torch, "F": F, **inputs}
    exec(compile(code, f"paper {key}", "exec"), scope)
    return scope["loss"]


@dataclass(frozen=True)
class Outcome:
    value: Tensor
    grads: dict[str, Tensor]


def check(
    key: str, dense: Callable[..., Tensor], *, magnitude: float = 20.0, frozen: tuple[str, ...] = (), **inputs: Any
) -> None:
    """The code of a row against `dense`, in float64 and in float32: value, and the gradient of every floating-point
    input that is not frozen.

    Truth is `dense` in float64 on the very values that the code gets. Errors have the budget of contrastile.testing,
    for which `magnitude` is the size of the logits; in float32 the error of `dense` itself in float32 is in it.
    """
    for dtype in (torch.float64, torch.float32):
        given = {name: converted(x, dtype) for name, x in inputs.items()}
        found = outcome(lambda **x: run(key, **x), given, frozen)
        truth = outcome(dense, {name: converted(x, torch.float64) for name, x in given.items()}, frozen)
        twin = truth if dtype == torch.float64 else outcome(dense, given, frozen)
        compare(f"paper {key}, {str(dtype).removeprefix('torch.')}", found, truth, twin, dtype, magnitude)


def converted(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(converted(y, dtype) for y in x)
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def outcome(function: Callable[..., Tensor], inputs: Inputs, frozen: tuple[str, ...]) -> Outcome:
    own = {name: leaf(x, name not in frozen) for name, x in inputs.items()}
    value = function(**own)
    if not value.requires_grad:  # a metric
        return Outcome(value, {})
    (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)).sum().backward()
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves(own)}
    return Outcome(value.detach(), grads)


def leaf(x: Any, wanted: bool) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(leaf(y, wanted) for y in x)
    return x.detach().clone().requires_grad_(wanted and x.is_floating_point()) if isinstance(x, Tensor) else x


def leaves(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    for name, x in inputs.items():
        several = isinstance(x, (list, tuple))
        for index, y in enumerate(x if several else [x]):
            if isinstance(y, Tensor) and y.requires_grad:
                yield f"{name}[{index}]" if several else name, y


def compare(label: str, found: Outcome, truth: Outcome, twin: Outcome, dtype: torch.dtype, magnitude: float) -> None:
    features = max((largest(x) for x in truth.grads.values() if x.dim() > 1), default=0.0)
    checks = [("value", found.value, truth.value, twin.value, largest(truth.value))]
    for name, grad in found.grads.items():
        size = features if grad.dim() > 1 else max(largest(truth.grads[name]), features)
        checks.append((f"gradient of {name}", grad, truth.grads[name], twin.grads[name], size))
    for name, x, true, rough, size in checks:
        assert x.shape == true.shape, f"{label}: {name} has shape {tuple(x.shape)}, not {tuple(true.shape)}"
        error = largest(x.double() - true)
        # float64 has no better type to measure its error by: some roundings stand for it
        of_twin = largest(rough.double() - true) + EPS[torch.float64] * (8.0 + math.sqrt(x.numel())) * size
        budget = error_budget(of_twin, size, dtype, magnitude, size)
        assert error <= budget, f"{label}: {name} is off by {error:.1e}, budget {budget:.1e}, size {size:.1e}"


def rows(*shape: int, seed: int = 0) -> Tensor:
    """Random vectors of length 1 along the last dimension; another seed, other vectors."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def number(value: float) -> Tensor:
    """A learned number."""
    return torch.tensor(value, dtype=torch.float64)


def drawn(weights: Tensor, seed: int, count: int = 1) -> Tensor:
    """Columns of each row by the inverse of its cumulative weights, (N, count)."""
    lots = torch.rand(len(weights), count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sums = weights.double().cumsum(1)
    return torch.searchsorted(sums, lots * sums[:, -1:], right=True)


def wrong_of(weights: Tensor, seed: int) -> Tensor:
    """One other column of each row, (N,): official code puts the own weight at 0."""
    return drawn(weights.detach().clone().fill_diagonal_(0.0), seed)[:, 0]


def ce(logits: Tensor, labels: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of rows; by default row i is of class i."""
    labels = torch.arange(logits.shape[0]) if labels is None else labels
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def clip(logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean of both directions."""
    return 0.5 * (ce(logits, smoothing=smoothing) + ce(logits.T, smoothing=smoothing))


def soft_ce(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).sum(1).mean()


def off_diagonal(x: Tensor) -> Tensor:
    """Without i = j: -inf there."""
    return x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
