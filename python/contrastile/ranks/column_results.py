"""Partial results as tensors that travel: statistics of columns, gradients of columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..monoid import NUMBERS, SideStats, brought_to, merge, stat_dtype
from ..spec import Gradients, Needs
from . import communication
from .global_call import Part
from .group import Ranks
from .shard import joined


def numbers(stats: SideStats) -> Tensor:
    """(m, count): the numbers of a statistic, in the order of NUMBERS."""
    present = stats.present()
    values = list(present.values())
    if any(NUMBERS[name].integer for name in present):  # exact in float64 up to 2^53
        values = [x.double() for x in values]
    return torch.stack(values, 1)


def stats_of(names: Sequence[str], x: Tensor, dtype: torch.dtype | None = None) -> SideStats:
    """dtype: of what is no integer; default that of x."""
    columns = dict(zip(names, x.unbind(1), strict=True))
    kinds = {name: torch.int64 if NUMBERS[name].integer else dtype or x.dtype for name in names}
    return SideStats(**{name: v.to(kinds[name]).contiguous() for name, v in columns.items()})


def merged(names: Sequence[str], x: Tensor, y: Tensor) -> Tensor:
    return numbers(merge(stats_of(names, x), stats_of(names, y)))


def merge_everywhere(ranks: Ranks, names: Sequence[str], x: Tensor) -> Tensor:
    """`merge` over ranks of the numbers of all columns: the largest first, then one sum of all others."""
    own = stats_of(names, x).present()
    top = {name: largest(ranks, value) for name, value in own.items() if NUMBERS[name].law == "max"}
    first = {name: first_index(ranks, own[name], own[of], top[of]) for name, of in followers(own)}
    rest = [brought_to(top, name, own) for name in own if name not in top | first]
    sums = communication.all_reduce(ranks, torch.stack(rest, 1))
    joined = iter(sums.unbind(1))
    return numbers(SideStats(**{name: (top | first)[name] if name in top | first else next(joined) for name in own}))


def largest(ranks: Ranks, x: Tensor) -> Tensor:
    """The maximum over ranks; NaN where one is, which a transport may lose."""
    unknown = x.isnan()
    both = torch.stack([torch.where(unknown, -torch.inf, x), unknown.to(x.dtype)])
    top, flag = communication.all_reduce(ranks, both, largest=True)
    return torch.where(flag > 0, torch.nan, top)


def followers(own: dict[str, Tensor]) -> list[tuple[str, str]]:
    return [(name, NUMBERS[name].of) for name in own if NUMBERS[name].law == "follow"]


def first_index(ranks: Ranks, index: Tensor, peak: Tensor, top: Tensor) -> Tensor:
    """The lowest index among the ranks whose peak is the largest of all."""
    here = ((peak == top) | (peak.isnan() & top.isnan())) & (index >= 0)
    none = torch.iinfo(torch.int64).min
    found = communication.all_reduce(ranks, torch.where(here, -index, none), largest=True)
    return torch.where(found == none, -1, -found)


def placed(x: Tensor, part: Part, neutral: float | Tensor = 0.0) -> Tensor:
    """Rows for a part's columns among those of their owner."""
    if x.shape[0] == part.width:
        return x
    out = x.new_empty(part.width, *x.shape[1:])
    out[:] = neutral
    out[slice(*part.cols)] = x
    return out


def column_gradients(part: Part, grads: Gradients) -> list[Tensor]:
    """Of the columns that ranks share: features (width, t d), second operands (width, d'), scale and bias (width, v),
    as far as wanted."""
    sides, needs = part.call.blocks[: part.shared], part.needs
    found = []
    if any(needs.blocks[: part.shared]):
        found.append(all_of(grads.blocks, [side.features for side in sides]))
    if any(needs.second_blocks[: part.shared]):
        found.append(all_of(grads.second_blocks, [side.second for side in sides if side.second is not None]))
    m = sum(map(len, sides))
    vectors = [x[:m] for x in (grads.col_scale, grads.col_bias) if x is not None]
    if vectors:
        found.append(torch.stack(vectors, 1))
    return [placed(x, part) for x in found]


def all_of(grads: Sequence[Tensor | None], features: Sequence[Tensor]) -> Tensor:
    """The gradients of these blocks, one after the other; 0 of a block that wants none."""
    each = [
        x.new_zeros(x.shape, dtype=stat_dtype(x.dtype)) if grad is None else grad
        for grad, x in zip(grads[: len(features)], features, strict=True)
    ]
    return joined([rows_first(x) for x in each])


def nothing_left(part: Part, needs: Needs) -> list[Tensor]:
    """`column_gradients` of the part of a square call that is a rank's own: its rows have them."""
    rows = part.call.rows.features
    dtype = stat_dtype(rows.dtype)
    found = [rows.new_zeros(rows.shape, dtype=dtype)] if needs.a else []
    return [*found, rows.new_zeros((len(rows), 1), dtype=dtype)] if needs.col_bias else found


def rows_first(x: Tensor) -> Tensor:
    """(m, d) or (t, m, d) as (m, t d)."""
    return x if x.dim() == 2 else x.movedim(0, 1).flatten(1)


def directions_first(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(m, t d) in the shape of features, (m, d) or (t, m, d)."""
    return x if len(shape) == 2 else x.unflatten(1, (shape[0], shape[2])).movedim(1, 0)
