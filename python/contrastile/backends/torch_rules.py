"""Which pairs of a block count, in plain torch: as masks or, where rules go by index alone, as a diagonal."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..spec import Keep, PairBlock, Positives, Side
from .torch_functors import FUNCTORS


def sides_of(block: PairBlock) -> list[tuple[Side, int]]:
    """The sides that have a statistic, and the dimension each reduces over."""
    return [(block.row, 1), (block.col, 0)] if block.both_sides else [(block.row, 1)]


class Rules(Protocol):
    def kept(self, side: Side, dim: int) -> Tensor:
        """z with the pairs at -inf that the side drops which reduces over dim; NaN is above no threshold: it stays."""

    def positives(self, dim: int) -> Tensor:
        """Sums over positive pairs along dim."""

    def add_positive_slopes(self, block: PairBlock, g: Tensor) -> None:
        """Adds to dL/dz of the block, whose sides have weights by now, what positives give beside the statistics."""


def rules_of(block: PairBlock, z: Tensor) -> Rules:
    """`z` belongs to the rules from now on: they may overwrite it."""
    return Diagonal(block, z) if by_index(block) else Masks(block, z)


def by_index(block: PairBlock) -> bool:
    spec = block.spec
    bare = block.mask is None and block.row.threshold is None and block.col.threshold is None
    return (
        bare
        and spec.keep in (Keep.ALL, Keep.NOT_SAME_INDEX)
        and spec.positives in (Positives.NONE, Positives.SAME_INDEX)
    )


class Diagonal:
    """Pairs of the same index lie on a diagonal: no masks, and their number is that of rows, not of pairs."""

    def __init__(self, block: PairBlock, z: Tensor) -> None:
        spec, self.functor, self.z = block.spec, FUNCTORS[block.spec.reduce], z
        self.shift = block.row.origin - block.col.origin  # row i meets its own index in column i + shift
        self.some = spec.positives == Positives.SAME_INDEX
        self.positive_z = z.diagonal(self.shift).clone() if self.some else z.new_empty(0)
        if spec.keep == Keep.NOT_SAME_INDEX and not (self.some and spec.keep_positives):
            z.diagonal(self.shift).fill_(-torch.inf)

    def own(self, vector: Tensor, dim: int) -> Tensor:
        """The items of rows (dim 1) or columns (dim 0) that have a pair on the diagonal."""
        return vector.narrow(0, max(-self.shift if dim else self.shift, 0), len(self.positive_z))

    def kept(self, side: Side, dim: int) -> Tensor:
        return self.z

    def positives(self, dim: int) -> Tensor:
        count, terms = self.z.shape[1 - dim], self.functor.positive_term(self.positive_z)
        if len(terms) == count:
            return terms
        sums = terms.new_zeros(count)
        if len(terms):
            self.own(sums, dim).copy_(terms)
        return sums

    def add_positive_slopes(self, block: PairBlock, g: Tensor) -> None:
        for side, dim in sides_of(block):
            if len(self.positive_z) and side.positive_weight is not None:
                weight, slope = self.own(side.positive_weight, dim), self.functor.positive_slope
                g.diagonal(self.shift).add_(weight if slope is None else weight * slope(self.positive_z))


class Masks:
    """Any rule."""

    def __init__(self, block: PairBlock, z: Tensor) -> None:
        self.spec, self.functor, self.z = block.spec, FUNCTORS[block.spec.reduce], z
        self.positive, self.drop = masks(block)
        self.chosen = None
        if self.positive is not None:
            self.chosen = torch.where(self.positive, self.functor.positive_term(z), 0.0)

    def kept(self, side: Side, dim: int) -> Tensor:
        drop = self.drop
        if side.threshold is not None:
            above = self.z > side.threshold.unsqueeze(dim)
            if self.spec.keep_positives and self.positive is not None:
                above &= ~self.positive
            drop = above if drop is None else drop | above
        return self.z if drop is None else self.z.masked_fill(drop, -torch.inf)

    def positives(self, dim: int) -> Tensor:
        return self.z.new_zeros(self.z.shape[1 - dim]) if self.chosen is None else self.chosen.sum(dim)

    def add_positive_slopes(self, block: PairBlock, g: Tensor) -> None:
        weights = [
            side.positive_weight.unsqueeze(dim) for side, dim in sides_of(block) if side.positive_weight is not None
        ]
        if self.positive is not None and weights:
            weight, slope = sum(weights[1:], weights[0]), self.functor.positive_slope
            g += torch.where(self.positive, weight if slope is None else weight * slope(self.z), 0.0)


def masks(block: PairBlock) -> tuple[Tensor | None, Tensor | None]:
    """Which pairs are positive, and which both sides drop; None = no pair."""
    spec, row, col = block.spec, block.row, block.col
    positive = drop = None
    index_rule = spec.keep in (Keep.NOT_SAME_INDEX, Keep.NOT_SAME_INDEX_OR_ID)
    if index_rule or spec.positives in (Positives.SAME_INDEX, Positives.SAME_ID):
        rows = torch.arange(row.origin, row.origin + len(row), device=row.features.device)
        cols = torch.arange(col.origin, col.origin + len(col), device=row.features.device)
        same_index = rows[:, None] == cols
    if row.ids is not None and col.ids is not None:
        same_id = row.ids[:, None] == col.ids
    if spec.keep == Keep.NOT_SAME_INDEX:
        drop = same_index
    elif spec.keep == Keep.NOT_SAME_INDEX_OR_ID:
        drop = same_index | same_id
    elif spec.keep != Keep.ALL:
        drop = same_id if spec.keep == Keep.NOT_SAME_ID else ~same_id
    if block.mask is not None:
        drop = ~block.mask if drop is None else drop | ~block.mask
    if spec.positives == Positives.SAME_INDEX:
        positive = same_index
    elif spec.positives == Positives.SAME_ID:
        positive = same_id & ~same_index if spec.same else same_id
    elif spec.positives == Positives.KEPT:
        everything = torch.ones(len(row), len(col), dtype=torch.bool, device=row.features.device)
        positive = everything if drop is None else ~drop
    if spec.keep_positives and positive is not None and drop is not None:
        drop = drop & ~positive
    return positive, drop
