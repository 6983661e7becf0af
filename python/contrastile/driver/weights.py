"""What the second sweep needs to know of every item: its finished statistic and the upstream gradients."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..monoid import stat_dtype
from ..spec import PairCall, Side, Weights
from .statistics import Finished


def with_weights(side: Side, stat: Tensor | None, weight: Tensor | None, positive_weight: Tensor | None) -> Side:
    """stat None: of a sum, whose slopes do not depend on it."""
    if weight is None:
        weight = side.features.new_zeros(len(side), dtype=stat_dtype(side.features.dtype))
    return replace(side, stat=stat, weight=weight, positive_weight=positive_weight)


def set_weights(call: PairCall, done: Finished | None, weights: Weights) -> None:
    row, col = (None, None) if done is None else (done.row, done.col)
    call.rows = with_weights(call.rows, row, weights.row, weights.row_positive)
    if call.spec.square:
        call.blocks = [with_weights(call.blocks[0], row, weights.row, weights.row_positive)]
    elif call.spec.cols:
        attach_columns(call, col, weights.col, weights.col_positive)


def attach_columns(call: PairCall, stat: Tensor | None, weight: Tensor | None, positive_weight: Tensor | None) -> None:
    """Gives every column block its part of vectors over all columns."""
    start = 0
    for index, block in enumerate(call.blocks):
        stop = start + len(block)
        parts = (None if x is None else x[start:stop] for x in (stat, weight, positive_weight))
        call.blocks[index] = with_weights(block, *parts)
        start = stop


def given_weights(call: PairCall) -> list[Tensor | None]:
    return [x for side in (call.rows, *call.blocks) for x in (side.weight, side.positive_weight)]
