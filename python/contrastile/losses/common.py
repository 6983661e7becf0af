"""What the loss compositions share: argument checks, temperatures, reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, check, matmul, softplus, stat_dtype
from ..ranks import GlobalBatch, Group
from ..ranks.facts import Fact

REDUCTIONS = get_args(Reduction)
ZERO_ROW = 1e-12  # norm up to which a row counts as zeros


def feature_pair(
    x_name: str, x: Tensor, y_name: str, y: Tensor, normalize: bool, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Two (N, D) batches of equal shape and device, of one dtype, unit-norm if asked. present: (N,) bool, rows that are
    there; the others become zeros."""
    check.same_shape(y_name, check.features(y_name, y), x_name, check.features(x_name, x))
    check.same_device(y_name, y, x.device)
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = check.as_type(x, dtype), check.as_type(y, dtype)
    return unit(cleaned(x, present), normalize), unit(cleaned(y, present), normalize)


def cleaned(x: Tensor, present: Tensor | None, missing: float = 0.0) -> Tensor:
    """x (*present.shape, ...), whose missing items may hold anything, with `missing` in their place; they get the
    gradient 0."""
    if present is None:
        return x
    return torch.where(present.reshape(*present.shape, *[1] * (x.dim() - present.dim())), x, missing)


def as_rows(name: str, x: Tensor) -> tuple[Tensor, torch.Size]:
    """(N, D) of items or of tokens of items, and the shape of what has one number for each."""
    tokens = isinstance(x, Tensor) and x.dim() == 3
    check.features(name, x, ndim=3 if tokens else 2)
    return x.flatten(0, -2), x.shape[:-1]


def of_rows(name: str, x: Tensor, shape: torch.Size) -> Tensor:
    """(N,) of what is given in that shape."""
    if check.tensor(name, x).shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(x.shape)}")
    return x.flatten()


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


def own_columns(engine: EngineOptions, n: int, facts: Callable[[], Mapping[str, Fact | int]]) -> GlobalBatch:
    """The batch of all ranks, for a loss whose columns are the same on every rank: the engine sees this rank alone."""
    batch = GlobalBatch.of(engine.ranks, n, facts=facts)
    engine.ranks = None
    return batch


def inverse(
    temperature: float | Tensor,
    like: Tensor,
    n: int | None = None,
    name: str = "temperature",
    present: Tensor | None = None,
) -> float | Tensor:
    """1 / temperature in the type of the statistics; a vector of n temperatures is allowed where n is given, of which
    only those of items that are present matter."""
    if n is not None and check.is_vector(name, temperature, n):
        return cleaned(upcast(check.vector(name, temperature, n, like.device)), present, 1.0).reciprocal()
    value = check.scalar(name, temperature, positive=True, device=like.device)
    return upcast(value).reciprocal() if isinstance(value, Tensor) else 1.0 / value


def scale_of(name: str, scale: float | Tensor, like: Tensor, present: Tensor | None = None) -> float | Tensor:
    """A factor of scores as it is given: one number, or one per row of `like`."""
    n = like.shape[0]
    if check.is_vector(name, scale, n):
        return cleaned(upcast(check.vector(name, scale, n, like.device)), present)
    return check.scalar(name, scale, device=like.device)


def is_per_row(x: object, batch: GlobalBatch) -> bool:
    """Whether a number or one per row is one per row, on all ranks: one with one row cannot tell by itself."""
    if not isinstance(x, Tensor) or x.dim() != 1:
        return False
    return x.shape[0] == batch.n != 1 or (batch.ranks is not None and 1 in batch.sizes)


def check_gathered(anchors: Tensor, name: str, other: Tensor, key_offset: int, group: object) -> None:
    """M >= N + key_offset: every anchor has its own partner among the gathered ones."""
    if group is not None and (key_offset != 0 or other.shape[0] != anchors.shape[0]):
        raise ValueError(f"{name} must be this rank's own, as many as anchors, with group: nothing is to be gathered")
    if isinstance(key_offset, bool) or not isinstance(key_offset, int) or key_offset < 0:
        raise ValueError(f"key_offset must be an int >= 0, got {key_offset!r}")
    least = anchors.shape[0] + key_offset
    if other.shape[0] < least:
        raise ValueError(f"{name} must have at least N + key_offset = {least} rows, got {other.shape[0]}")


def number(name: str, x: float | Tensor, like: Tensor, *, positive: bool = False) -> float | Tensor:
    """A finite number, or a 0-dim tensor in like's type: one in another would decide the type of the loss."""
    value = check.scalar(name, x, positive=positive, device=like.device)
    return value.to(like.dtype) if isinstance(value, Tensor) else value


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the directions that are wanted, one or both."""
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def upcast(x: Tensor) -> Tensor:
    """x in the type of the statistics: float64 stays, everything else is float32."""
    return x if x.dtype == torch.float64 else x.float()


def like_statistics(x: Tensor, like: Tensor) -> Tensor:
    """x in the type of the statistics of `like`."""
    return x.to(stat_dtype(like.dtype))


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


def log_count(count: int | Tensor, like: Tensor) -> Tensor:
    """log of a number of items. math.log would make torch.compile compile anew for every batch size."""
    if isinstance(count, Tensor):
        return count.to(like.dtype).log()
    return like.new_full((), count).log()


def at_least_one(count: int | Tensor) -> int | Tensor:
    """A number of items to divide by; one that is no tensor is not 0."""
    return count.clamp_min(1) if isinstance(count, Tensor) else count
