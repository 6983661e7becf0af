"""What the loss compositions share: argument checks, temperatures, reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, check, matmul, softplus
from ..ranks import GlobalBatch, Group

REDUCTIONS = get_args(Reduction)
ZERO_ROW = 1e-12  # norm up to which a row counts as zeros


def feature_pair(x_name: str, x: Tensor, y_name: str, y: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Two (N, D) batches of equal shape and device, of one dtype, unit-norm if asked."""
    check.same_shape(y_name, check.features(y_name, y), x_name, check.features(x_name, x))
    check.same_device(y_name, y, x.device)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return unit(check.as_type(x, dtype), normalize), unit(check.as_type(y, dtype), normalize)


def feature_batches(name: str, batches: Sequence[Tensor], normalize: bool = False, least: int = 2) -> list[Tensor]:
    """`least` or more (N, D) batches of equal shape and device, of one dtype, unit-norm if asked; `name`[i] in
    errors."""
    if len(batches) < least:
        raise ValueError(f"{name} must be at least {'two' if least == 2 else 'one'} tensors, got {len(batches)}")
    first = check.features(f"{name}[0]", batches[0])
    dtype = first.dtype
    for index, x in enumerate(batches[1:], start=1):
        own = f"{name}[{index}]"
        check.same_shape(own, check.features(own, x), f"{name}[0]", first)
        check.same_device(own, x, first.device)
        dtype = torch.promote_types(dtype, x.dtype)
    return [unit(x.to(dtype), normalize) for x in batches]


def unit(x: Tensor, normalize: bool, *, p: float = 2.0, least: float = ZERO_ROW) -> Tensor:
    """Unit rows, normalised in float32 and rounded once to x's type: half-precision norms are off by 2^-9.

    A row whose norm is not above ZERO_ROW has no direction: it becomes zeros and gets the gradient 0, where a division
    by the least norm would multiply its gradient by 1e12. p: of the norm. least: shorter rows are divided by it.
    """
    if not normalize:
        return x
    rows = upcast(x)
    length = F.threshold(torch.linalg.vector_norm(rows, p, -1, keepdim=True), ZERO_ROW, torch.inf)
    return (rows / (length.clamp_min(least) if least > ZERO_ROW else length)).to(x.dtype)


def engine_options(
    reduction: Reduction, memory_budget: int | None, backend: BackendName, group: Group
) -> EngineOptions:
    """Checked here also for the batches that are too small to reach the engine."""
    check.choice("reduction", reduction, REDUCTIONS)
    return EngineOptions.of(memory_budget, backend, group)


def inverse(
    temperature: float | Tensor, like: Tensor, n: int | None = None, name: str = "temperature"
) -> float | Tensor:
    """1 / temperature in the type of the statistics; a vector of n temperatures is allowed where n is given."""
    if n is not None and check.is_vector(name, temperature, n):
        return upcast(check.vector(name, temperature, n, like.device)).reciprocal()
    value = check.scalar(name, temperature, positive=True, device=like.device)
    return upcast(value).reciprocal() if isinstance(value, Tensor) else 1.0 / value


def number(name: str, x: float | Tensor, like: Tensor, *, positive: bool = False) -> float | Tensor:
    """A finite number, or a 0-dim tensor in like's type: one in another would decide the type of the loss."""
    value = check.scalar(name, x, positive=positive, device=like.device)
    return value.to(like.dtype) if isinstance(value, Tensor) else value


def upcast(x: Tensor) -> Tensor:
    """x in the type of the statistics: float64 stays, everything else is float32."""
    return x if x.dtype == torch.float64 else x.float()


def paired_dot(x: Tensor, y: Tensor) -> Tensor:
    """<x_i, y_i> per row, accumulated in the type of the statistics."""
    return (upcast(x) * upcast(y)).sum(-1)


def private_dots(x: Tensor, y: Tensor) -> Tensor:
    """<x_i, y_ik> of wide rows x (N, D) and y (N, K, D) of each row's own, (N, K): dot products of no other pairs."""
    return matmul(y, x.unsqueeze(2)).squeeze(2)


def zero(features: Tensor, *others: Tensor | float | None) -> Tensor:
    """The documented loss of an empty batch: 0, connected to all inputs so that backward gives zero gradients."""
    value = upcast(features).sum() * 0.0
    for x in others:
        if isinstance(x, Tensor):
            value = value + (upcast(x).sum() * 0.0).to(value.dtype)
    return value


def reduced_empty(n: int, reduction: Reduction, features: Tensor, *others: Tensor | float | None) -> Tensor:
    """`zero` for each of n rows, reduced."""
    value = zero(features, *others)
    return value.expand(n).clone() if reduction == "none" else value


def cross_entropy(others: Tensor, positive: Tensor) -> Tensor:
    """-log of the positive's share, from the log-sum-exp over all other candidates."""
    return softplus(others - positive)


def distance_origin(x: Tensor, batch: GlobalBatch, engine: EngineOptions) -> Tensor | float:
    """From where to measure points of which distances alone matter: from their mean |x|^2 + |y|^2 - 2 <x, y> cancels
    least. Half-precision features stay what they are: only so are their products exact."""
    return 0.0 if engine.compute_dtype in (torch.bfloat16, torch.float16) else batch.mean(x)


def log_count(count: int, like: Tensor) -> Tensor:
    """log of a number of items. math.log would make torch.compile compile anew for every batch size."""
    return like.new_full((), count).log()
