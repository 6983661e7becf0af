"""The weighted sum of finished statistics, and what is differentiated with: its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..monoid import softplus, target_slopes
from ..spec import Upstream, Weights
from .statistics import Finished, Statistics


def weighed(done: Statistics, weights: Weights) -> tuple[Tensor, Upstream, Upstream | None]:
    """The sum, float64, because a statistic and its positive are large and nearly equal; and what the rows and the
    columns bring to the second sweep: its slopes in all statistics and in the sums over positives."""
    if weights.seen is not None:
        weights.seen.append(done)
    split = done.row.positive_stat is not None
    if not (split or weights.cross_entropy):
        row, col = weights.upstream(done.row.stat, None if done.col is None else done.col.stat)
        row = with_mean(row, done.row, weights.row_mean)
        value = linear(done.row, row, weights.row_mean)
        if done.col is not None and col is not None:
            col = with_mean(col, done.col, weights.col_mean)
            value = value + linear(done.col, col, weights.col_mean)
        return value, row, col
    items = both_sides(done, weights)
    value, slopes = with_positives_apart(items, weights) if split else cross_entropy(items)
    slopes = [x if x is None else x.to(weights.row.dtype) for x in slopes]
    up = Upstream(items.parts, slopes[0], slopes[1], items.positive_parts, slopes[2])
    row = up.slice(0, len(weights.row))
    return value.sum(), row, None if weights.col is None else up.slice(len(weights.row), len(items.parts))


def with_mean(up: Upstream, done: Finished, weight: Tensor | None) -> Upstream:
    """Adds the slopes of the means under the target. Where affine weights have none, it is the sum over positives."""
    if weight is None:
        return up
    assert done.target is not None
    affine = done.numbers.weights is not None
    up = replace(up, target_stat=done.target.stat, **target_slopes(done.target, affine, weight)._asdict())
    if affine and up.positive_weight is not None:
        up.positive_weight = up.positive_weight + torch.where(done.target.given, 0.0, weight)
    return up


def linear(done: Finished, up: Upstream, mean_weight: Tensor | None) -> Tensor:
    """Of one side. An item with nothing kept (statistic -inf) contributes 0."""
    parts = []
    if up.weight is not None:
        if mean_weight is None:
            stat = done.stat.sum(1, dtype=torch.float64)
            parts.append(stat.nan_to_num_(torch.nan, torch.inf, 0.0).mul_(up.weight))
        else:  # the peak apart, which cancels where the mean has the opposite weight
            assert done.target is not None
            peak, log_total = done.stat.double().nan_to_num_(torch.nan, torch.inf, 0.0).unbind(1)
            parts += [peak * (up.weight + torch.where(done.target.given, mean_weight, 0.0)), log_total * up.weight]
    if up.positive_weight is not None:
        assert done.numbers.positive is not None
        parts.append(done.numbers.positive.double() * up.positive_weight)
    if mean_weight is not None:
        assert done.target is not None
        parts.append(done.target.mean.double() * mean_weight)
    return sum(parts[1:], parts[0]).sum() if parts else done.stat.new_zeros((), dtype=torch.float64)


class Items(NamedTuple):
    """The items of one side, or of both one after the other: few small operations."""

    parts: Tensor  # the statistic
    positive: Tensor  # float64, the sum over positives
    weight: Tensor
    positive_weight: Tensor | None
    positive_parts: Tensor | None  # where positives are apart, as are the next two
    kept_positives: Tensor | None
    positives: Tensor | None


def both_sides(done: Statistics, weights: Weights) -> Items:
    sides = [done.row] if done.col is None or weights.col is None else [done.row, done.col]

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        given = [x for x in parts[: len(sides)] if x is not None]
        return (given[0] if len(given) == 1 else torch.cat(given)) if given else None

    parts, positive = joined([x.stat for x in sides]), joined([x.numbers.positive for x in sides])
    weight = joined([weights.row, weights.col])
    assert parts is not None and positive is not None and weight is not None
    return Items(
        parts, positive.double(), weight, joined([weights.row_positive, weights.col_positive]),
        joined([x.positive_stat for x in sides]), joined([x.numbers.kept_positives for x in sides]),
        joined([x.numbers.positives for x in sides]),
    )  # fmt: skip


def times(weight: Tensor, x: Tensor) -> Tensor:
    """float64; what has no weight adds nothing, whatever it is."""
    return torch.where(weight == 0, 0.0, weight.double() * x)


def cross_entropy(x: Items) -> tuple[Tensor, list[Tensor | None]]:
    """weight * softplus(stat - positive) + positive_weight * positive; slopes in the two."""
    stat = x.parts.sum(1, dtype=torch.float64)
    # without others the loss is 0, whatever the positive
    margin = torch.where(stat == -torch.inf, stat, stat - x.positive)
    share, value = times(x.weight, torch.sigmoid(margin)), times(x.weight, softplus(margin))
    if x.positive_weight is None:
        return value, [share, -share, None]
    return value + times(x.positive_weight, x.positive), [share, x.positive_weight - share, None]


def with_positives_apart(x: Items, weights: Weights) -> tuple[Tensor, list[Tensor | None]]:
    """weight * (k + softplus(o - k)) + positive_weight * positive, with o the log-sum-exp of the others and k that of
    the kept positives; slopes in o, in the sum over positives and in k. As a cross entropy weight * softplus(o - k),
    and nothing of an item without kept positives.

    Of an item with one positive k is this positive: its two slopes are added here, in float64, where the weights
    cancel, and the kernel adds no exponential, which would have to be 1 to the last bit. Not of positives with shares.
    """
    assert x.positive_parts is not None and x.kept_positives is not None and x.positives is not None
    o, k = x.parts.sum(1, dtype=torch.float64), x.positive_parts.sum(1, dtype=torch.float64)
    kept, weight = k != -torch.inf, x.weight
    margin = torch.where(kept, o - k, torch.inf)
    if weights.cross_entropy:
        weight = torch.where(kept, weight, 0.0)
    own = torch.zeros_like(weight) if weights.cross_entropy else weight  # of k itself
    of_others = times(weight, torch.sigmoid(margin))
    of_positives = -of_others if weights.cross_entropy else times(weight, torch.sigmoid(-margin))
    positive_weight = torch.zeros_like(weight) if x.positive_weight is None else x.positive_weight
    large = times(own, torch.where(kept, k, 0.0)) + times(positive_weight, x.positive)  # it cancels first
    rest = torch.where(kept, softplus(margin), o.nan_to_num(torch.nan, torch.inf, 0.0))  # -inf: nothing is kept
    one = (x.kept_positives == 1) & (x.positives == 1) & (not weights.shares)
    both = positive_weight.double() + own.double() - of_others
    of_sum = torch.where(one, both, positive_weight.double())
    return large + times(weight, rest), [of_others, of_sum, torch.where(one, 0.0, of_positives)]
