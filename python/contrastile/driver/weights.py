"""What the second sweep needs to know of every item: its finished statistic and the upstream gradients."""

from __future__ import annotations

from dataclasses import replace

import torch
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
    up = weights if done is None else upstream(done, weights)
    call.rows = with_weights(call.rows, row, up.row, up.row_positive)
    if call.spec.square:
        call.blocks = [with_weights(call.blocks[0], row, up.row, up.row_positive)]
    elif call.spec.cols:
        attach_columns(call, col, up.col, up.col_positive)


def upstream(done: Finished, weights: Weights) -> Weights:
    """The weights, or the slopes of what is weighed, in the statistics and in the sums over positives."""
    if not weights.cross_entropy:
        return weights
    row, row_positive = slopes(done.row, done.row_positive, weights.row, weights.row_positive)
    col, col_positive = None, None
    if weights.col is not None:
        col, col_positive = slopes(done.col, done.col_positive, weights.col, weights.col_positive)
    return Weights(row, row_positive, col, col_positive)


def slopes(
    stat: Tensor | None, positive: Tensor | None, weight: Tensor, positive_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of weight * softplus(stat - positive) + positive_weight * positive."""
    share = weight.double() * torch.sigmoid(margin(stat, positive))
    rest = -share if positive_weight is None else positive_weight - share
    return share.to(weight.dtype), rest.to(weight.dtype)


def margin(stat: Tensor | None, positive: Tensor | None) -> Tensor:
    """The statistic less the positive, in float64: both are large, and nearly equal before a model has converged."""
    assert stat is not None and positive is not None
    return stat.sum(1, dtype=torch.float64) - positive


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
