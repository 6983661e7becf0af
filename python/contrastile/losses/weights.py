"""What of a batch counts in a loss, and how much: weights of items, items that are missing, directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import Direction, Reduction
from ..ops import Pairs, check
from ..ranks import GlobalBatch, given
from ..ranks.facts import Fact
from .common import like_statistics, log_count

# weights of the rows' cross entropies and of the columns'; a direction of weight 0 is not computed
DIRECTIONS: dict[Direction, tuple[float, float]] = {
    "mean": (0.5, 0.5), "sum": (1.0, 1.0), "rows": (1.0, 0.0), "cols": (0.0, 1.0),
}  # fmt: skip
NOWHERE = -1e30  # a logit of no weight in any softmax, whose own softmax is still a number


def direction_weights(direction: Direction, symmetric: bool = True) -> tuple[float, float]:
    """symmetric: whether the loss has two directions; without, direction has no effect."""
    check.choice("direction", direction, tuple(DIRECTIONS))
    if symmetric:
        return DIRECTIONS[direction]
    if direction != "mean":
        raise ValueError(f"direction must be 'mean' without symmetric=True, got {direction!r}: it would have no effect")
    return DIRECTIONS["rows"]


def constant(name: str, value: Tensor, n: int, like: Tensor) -> Tensor:
    """(n,) finite numbers without gradient, in the type of the statistics."""
    x = check.vector(name, value, n, like.device)
    if x.requires_grad:
        raise ValueError(f"{name} must not require grad: it has none; give {name}.detach()")
    check.condition(f"{name} must be finite", x.isfinite())
    return like_statistics(x, like)


def item_weights(name: str, value: Tensor, n: int, like: Tensor) -> Tensor:
    """What each of n items counts."""
    x = constant(name, value, n, like)
    check.condition(f"{name} must be >= 0", x >= 0)
    return x


@dataclass(frozen=True)
class Counted:
    """Which items take part in a loss, and what each counts. Without both fields: all of them, alike."""

    weights: Tensor | None = None  # (N,), >= 0
    present: Tensor | None = None  # (N,) bool; an item that is not takes no part, whatever its features hold

    @staticmethod
    def of(weights: Tensor | None, present: Tensor | None, like: Tensor) -> Counted:
        """From the arguments of a loss of as many items as `like` has rows."""
        n = like.shape[0]
        if present is not None:
            present = check.bool_mask("present", present, (n,), like.device)
        return Counted.weighted(weights, present, like, n)

    @staticmethod
    def weighted(weights: Tensor | None, present: Tensor | None, like: Tensor, n: int) -> Counted:
        """`of`, with the items that take part known."""
        return Counted(None if weights is None else item_weights("weights", weights, n, like), present)

    def facts(self) -> dict[str, Fact]:
        """What all ranks must agree on."""
        return dict(weights=given(self.weights), present=given(self.present))

    def count(self, batch: GlobalBatch) -> int | Tensor:
        """How many items of all ranks take part."""
        return batch.total if self.present is None else batch.sum(self.present.sum())

    def each(self, batch: GlobalBatch, like: Tensor, least: int = 1) -> Tensor | None:
        """What each item counts, (N,); None: 1. least: where fewer take part, none counts."""
        if self.present is None:
            return self.weights
        found = self.present & (self.count(batch) >= least) if least > 1 else self.present
        return like_statistics(found, like) if self.weights is None else torch.where(found, self.weights, 0.0)

    def weight(
        self, batch: GlobalBatch, reduction: Reduction, like: Tensor, views: int = 1, least: int = 1
    ) -> float | Tensor:
        """What each row counts in a scalar reduction, (views * N,), or one number for all; views: rows of each item."""
        each = self.each(batch, like, least)
        if each is None:
            return batch.weight(reduction, views)
        return mean_weight(batch, each.repeat(views), reduction)

    def reduced(self, batch: GlobalBatch, rows: Tensor, reduction: Reduction, least: int = 1) -> Tensor:
        """Rows of this rank, as many for each item, reduced over the global batch: sum w L / sum w, sum w L, w L."""
        each = self.each(batch, rows, least)
        if each is None:
            return batch.reduced(rows, reduction)
        each = each.repeat(rows.shape[0] // max(batch.n, 1))
        if reduction == "none":
            return weighed(each, rows)
        return weighed(mean_weight(batch, each, reduction), rows).sum()

    def log_mean(self, rows: Tensor, batch: GlobalBatch) -> Tensor:
        """log of the mean of e^z over the pairs of different items, from each row's log-sum-exp; 0 without pairs."""
        count = self.count(batch)
        if not isinstance(count, Tensor):
            return batch.logsumexp(rows) - log_count(count * (count - 1), rows)
        assert self.present is not None
        rows = torch.where(self.present & (count > 1), rows, NOWHERE)
        value = batch.logsumexp(rows) - log_count((count * (count - 1)).clamp_min(1), rows)
        return self.if_pairs(value, batch)

    def if_pairs(self, value: Tensor, batch: GlobalBatch) -> Tensor:
        """A mean over pairs of different items, of a batch that has some; 0 where none of them are there."""
        count = self.count(batch)
        return torch.where(count > 1, value, 0.0) if isinstance(count, Tensor) else value


def mean_weight(batch: GlobalBatch, each: Tensor, reduction: Reduction) -> Tensor:
    """each, over its sum for "mean"; 0 where that is 0."""
    weight = batch.weight("sum") * each
    if reduction != "mean":
        return weight
    total = batch.sum(each.sum())
    return weight / torch.where(total > 0, total, 1.0)


def weighed(weight: Tensor, rows: Tensor) -> Tensor:
    """weight * rows; a row that does not count is 0, without gradient, also where its loss is not finite."""
    return torch.where(weight > 0, rows, 0.0) * weight


def keep_present(pairs: Pairs, rows: Tensor | None, cols: Sequence[Tensor | None] = ()) -> None:
    """Drops all pairs of an item that is present and one that is not. Those of two that are not may stay, in
    statistics nobody reads.

    rows: (N,) bool, or None: all are. cols: the same of each block of columns; none for b=None.
    """
    every = [rows, *cols]
    if all(x is None for x in every):
        return
    blocks = [pairs.a, *([pairs.b] if isinstance(pairs.b, Tensor) else pairs.b or ())]
    known = [
        x.new_ones(x.shape[-2], dtype=torch.bool) if here is None else here
        for x, here in zip(blocks, every, strict=True)
    ]
    rest = () if pairs.keep == "all" else (pairs.keep,) if isinstance(pairs.keep, str) else pairs.keep
    if pairs.row_groups is None:
        own, *others = [(~here).long() for here in known]
        pairs.keep, pairs.row_groups = (*rest, "same_group"), own
        pairs.col_groups = others if pairs.b is not None else None
        return
    own, *others = [here.unsqueeze(1) for here in known]  # groups are taken: a label of all that are there
    pairs.keep, pairs.row_labels = (*rest, "shared_label"), own
    pairs.col_labels = others if pairs.b is not None else None
