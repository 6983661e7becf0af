"""Partial results as tensors that travel: statistics of columns, gradients of columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import driver
from ..spec import Gradients, Needs, PairSpec, Reduce, SideStats
from . import wire
from .group import Ranks
from .joint import Part
from .shard import joined


def numbers(stats: SideStats) -> Tensor:
    """(m, 2 or 3): the parts of a statistic, then the sum over positives."""
    parts = [x for x in (stats.peak, stats.total) if x is not None]
    return torch.stack([*parts, torch.zeros_like(parts[0]) if stats.positive is None else stats.positive], 1)


def stats_of(spec: PairSpec, x: Tensor) -> SideStats:
    *parts, positive = (column.contiguous() for column in x.unbind(1))
    return SideStats(parts[0] if spec.reduce == Reduce.LSE else None, parts[-1], positive, None)


def merge(spec: PairSpec, x: Tensor, y: Tensor) -> Tensor:
    return numbers(driver.merge(spec, stats_of(spec, x), stats_of(spec, y)))


def merge_everywhere(ranks: Ranks, spec: PairSpec, x: Tensor) -> Tensor:
    """`merge` over ranks of the numbers of all columns."""
    if spec.reduce != Reduce.LSE:
        return wire.all_reduce(ranks, x)
    peak = wire.all_reduce(ranks, x[:, 0].clone(), largest=True)
    base = peak.clamp_min(torch.finfo(peak.dtype).min)  # columns that met nothing: e^(-inf - base) is 0
    rest = torch.stack([x[:, 1] * (x[:, 0] - base).exp(), x[:, 2]], 1)
    return torch.cat([peak.unsqueeze(1), wire.all_reduce(ranks, rest)], 1)


def placed(x: Tensor, part: Part, neutral: float | Tensor = 0.0) -> Tensor:
    """Rows for a part's columns among those of their owner."""
    if x.shape[0] == part.width:
        return x
    out = x.new_empty(part.width, *x.shape[1:])
    out[:] = neutral
    out[slice(*part.cols)] = x
    return out


def column_gradients(part: Part, grads: Gradients) -> list[Tensor]:
    """Of the columns that ranks share: features (width, t d), scale and bias (width, v), as far as wanted."""
    sides, shared = part.call.blocks[: part.shared], grads.blocks[: part.shared]
    found = []
    if any(part.needs.blocks[: part.shared]):
        dtype = driver.stat_dtype(part.call.dtype)
        each = [
            side.features.new_zeros(side.features.shape, dtype=dtype) if x is None else x
            for x, side in zip(shared, sides, strict=True)
        ]
        found.append(joined([rows_first(x) for x in each]))
    m = sum(map(len, sides))
    vectors = [x[:m] for x in (grads.col_scale, grads.col_bias) if x is not None]
    if vectors:
        found.append(torch.stack(vectors, 1))
    return [placed(x, part) for x in found]


def nothing_left(part: Part, needs: Needs) -> list[Tensor]:
    """`column_gradients` of the part of a square call that is a rank's own: its rows have them."""
    rows = part.call.rows.features
    dtype = driver.stat_dtype(rows.dtype)
    found = [rows.new_zeros(rows.shape, dtype=dtype)] if needs.a else []
    return [*found, rows.new_zeros((len(rows), 1), dtype=dtype)] if needs.col_bias else found


def rows_first(x: Tensor) -> Tensor:
    """(m, d) or (t, m, d) as (m, t d)."""
    return x if x.dim() == 2 else x.movedim(0, 1).flatten(1)


def tiles_first(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(m, t d) in the shape of features, (m, d) or (t, m, d)."""
    return x if len(shape) == 2 else x.unflatten(1, (shape[0], shape[2])).movedim(1, 0)
