"""What the second sweep needs to know of every item: its finished statistics and their upstream gradients."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..monoid import stat_dtype
from ..spec import PairCall, Side, Upstream


def with_upstream(side: Side, up: Upstream) -> Side:
    weight = up.weight
    if weight is None:
        weight = side.features.new_zeros(len(side), dtype=stat_dtype(side.features.dtype))
    return replace(side, **{**vars(up), "weight": weight})


def attach(call: PairCall, row: Upstream, col: Upstream | None) -> None:
    """Gives rows, and columns that have statistics, what belongs to them."""
    call.rows = with_upstream(call.rows, row)
    if call.spec.square:
        call.blocks = [with_upstream(call.blocks[0], row)]
    elif call.spec.cols and col is not None:
        call.blocks = attached(call.blocks, col)


def attached(blocks: list[Side], col: Upstream) -> list[Side]:
    """Column blocks, each with its part of vectors over all columns."""
    found, start = [], 0
    for block in blocks:
        stop = start + len(block)
        found.append(with_upstream(block, col.slice(start, stop)))
        start = stop
    return found


def given_weights(call: PairCall) -> list[Tensor | None]:
    sides = (call.rows, *call.blocks)
    return [
        w for side in sides for w in (side.weight, side.positive_weight, side.positive_stat_weight, side.mean_weight)
    ]
