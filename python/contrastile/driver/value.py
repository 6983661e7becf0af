"""The weighted sum of finished statistics, and what is differentiated with: its slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..monoid import softplus
from ..spec import Weights
from .statistics import Finished


def weighed(done: Finished, weights: Weights) -> tuple[Tensor, Weights]:
    """The sum, float64, because a statistic and its positive are large and nearly equal; and its slopes in the
    statistics and in the sums over positives."""
    if weights.cross_entropy:
        return cross_entropy(done, weights)
    value = linear(done.row, weights.row, done.row_positive, weights.row_positive)
    if done.col is not None:
        value = value + linear(done.col, weights.col, done.col_positive, weights.col_positive)
    return value, weights


def linear(stat: Tensor, weight: Tensor | None, positive: Tensor | None, positive_weight: Tensor | None) -> Tensor:
    """Of one side. An item with nothing kept (statistic -inf) contributes 0."""
    parts = []
    if weight is not None:
        parts.append(stat.sum(1, dtype=torch.float64).nan_to_num_(torch.nan, torch.inf, 0.0).mul_(weight))
    if positive_weight is not None:
        assert positive is not None
        parts.append(positive.double() * positive_weight)
    return sum(parts[1:], parts[0]).sum() if parts else stat.new_zeros((), dtype=torch.float64)


def cross_entropy(done: Finished, weights: Weights) -> tuple[Tensor, Weights]:
    """weight * softplus(stat - positive) + positive_weight * positive, of both sides at once: few small operations."""

    def joined(row: Tensor | None, col: Tensor | None) -> Tensor:
        assert row is not None
        return row if weights.col is None or col is None else torch.cat([row, col])

    positive, weight = joined(done.row_positive, done.col_positive), joined(weights.row, weights.col)
    stat = joined(done.row, done.col).sum(1, dtype=torch.float64)
    # without others the loss is 0, whatever the positive
    margin = torch.where(stat == -torch.inf, stat, stat - positive)
    idle = weight == 0
    share = torch.where(idle, 0.0, torch.sigmoid(margin) * weight)
    value, rest = torch.where(idle, 0.0, softplus(margin) * weight), -share
    if weights.row_positive is not None:
        positive_weight = joined(weights.row_positive, weights.col_positive)
        linear_part = torch.where(positive_weight == 0, 0.0, positive_weight.double() * positive)
        value, rest = value + linear_part, rest + positive_weight
    share, rest = share.to(weight.dtype), rest.to(weight.dtype)
    n = len(weights.row)
    if weights.col is None:
        return value.sum(), Weights(share, rest)
    return value.sum(), Weights(share[:n], rest[:n], share[n:], rest[n:])
