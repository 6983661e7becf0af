"""Which pairs of a block count, in plain torch: as masks or, where rules go by index alone, as a diagonal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..spec import NO_TEST, PARTNER_TESTS, READERS, PairBlock, PairTest, Side
from .torch_functors import FUNCTORS


def sides_of(block: PairBlock) -> list[tuple[Side, int]]:
    """The sides that have a statistic, and the dimension each reduces over."""
    return [(block.row, 1), (block.col, 0)] if block.both_sides else [(block.row, 1)]


class Rules(Protocol):
    def kept(self, side: Side, dim: int, positives: bool = False) -> Tensor:
        """z with the pairs at -inf that the side drops which reduces over dim; NaN is above no threshold: it stays.
        positives: of the statistic that kept positives have of their own."""

    def drops(self, side: Side, dim: int) -> Tensor | None:
        """The pairs that the side drops; None: none."""

    def counts(self, side: Side, dim: int) -> dict[str, Tensor]:
        """The integers of monoid.NUMBERS that are counts of pairs, as far as they are wanted."""

    def positives(self, dim: int) -> Tensor:
        """Sums over positive pairs along dim."""

    def add_positive_slopes(self, sides: Sequence[tuple[Side, int]], g: Tensor) -> None:
        """Adds to dL/dz of the block what the positives of these sides, as `sides_of`, give beside the statistics."""


def rules_of(block: PairBlock, z: Tensor) -> Rules:
    """`z` belongs to the rules from now on: they may overwrite it."""
    return Diagonal(block, z) if by_index(block) else Masks(block, z)


def by_index(block: PairBlock) -> bool:
    spec = block.spec
    limits = (block.row.low, block.row.high, block.col.low, block.col.high)
    bare = block.mask is None and all(x is None for x in limits) and not (spec.split or spec.counts)
    return bare and spec.keep in (NO_TEST, PairTest.OTHER_INDEX) and spec.positives in (NO_TEST, PairTest.SAME_INDEX)


class Diagonal:
    """Pairs of the same index lie on a diagonal: no masks, and their number is that of rows, not of pairs."""

    def __init__(self, block: PairBlock, z: Tensor) -> None:
        spec, self.functor, self.z = block.spec, FUNCTORS[block.spec.reduce], z
        self.shift = block.row.origin - block.col.origin  # row i meets its own index in column i + shift
        self.some = bool(spec.positives)
        self.positive_z = z.diagonal(self.shift).clone() if self.some else z.new_empty(0)
        self.drops_diagonal = bool(spec.keep) and not (self.some and spec.keep_positives)
        if self.drops_diagonal:
            z.diagonal(self.shift).fill_(-torch.inf)

    def own(self, vector: Tensor, dim: int) -> Tensor:
        """The items of rows (dim 1) or columns (dim 0) that have a pair on the diagonal."""
        return vector.narrow(0, max(-self.shift if dim else self.shift, 0), len(self.positive_z))

    def kept(self, side: Side, dim: int, positives: bool = False) -> Tensor:
        return self.z

    def drops(self, side: Side, dim: int) -> Tensor | None:
        if not self.drops_diagonal:
            return None
        drop = torch.zeros_like(self.z, dtype=torch.bool)
        drop.diagonal(self.shift).fill_(True)
        return drop

    def counts(self, side: Side, dim: int) -> dict[str, Tensor]:
        return {}

    def positives(self, dim: int) -> Tensor:
        count, terms = self.z.shape[1 - dim], self.functor.positive_term(self.positive_z)
        if len(terms) == count:
            return terms
        sums = terms.new_zeros(count)
        if len(terms):
            self.own(sums, dim).copy_(terms)
        return sums

    def add_positive_slopes(self, sides: Sequence[tuple[Side, int]], g: Tensor) -> None:
        for side, dim in sides:
            if len(self.positive_z) and side.positive_weight is not None:
                weight, slope = self.own(side.positive_weight, dim), self.functor.positive_slope
                g.diagonal(self.shift).add_(weight if slope is None else weight * slope(self.positive_z))


class Masks:
    """Any rule."""

    def __init__(self, block: PairBlock, z: Tensor) -> None:
        self.spec, self.functor, self.z = block.spec, FUNCTORS[block.spec.reduce], z
        self.positive, self.drop = masks(block)
        self.drop_from_positives: Tensor | None = None
        if self.spec.split and self.positive is not None:
            self.drop, self.drop_from_positives = joined(self.drop, self.positive), joined(self.drop, ~self.positive)
        self.share = None if self.positive is None else share_of(block)
        self.chosen = None
        if self.positive is not None:
            terms = self.functor.positive_term(z)
            self.chosen = torch.where(self.positive, terms if self.share is None else terms * self.share, 0.0)

    def kept(self, side: Side, dim: int, positives: bool = False) -> Tensor:
        drop = self.drops(side, dim, positives)
        return self.z if drop is None else self.z.masked_fill(drop, -torch.inf)

    def drops(self, side: Side, dim: int, positives: bool = False) -> Tensor | None:
        outside = None
        if side.high is not None:
            outside = self.z > side.high.unsqueeze(dim)
        if side.low is not None:
            outside = joined(outside, self.z <= side.low.unsqueeze(dim))
        if outside is not None and self.spec.keep_positives and self.positive is not None:
            outside &= ~self.positive
        return joined(self.drop_from_positives if positives else self.drop, outside)

    def counts(self, side: Side, dim: int) -> dict[str, Tensor]:
        found = {}
        if self.spec.split:
            found["kept_positives"] = self.remaining(self.drops(side, dim, positives=True), dim)
        if self.spec.counts:
            found["kept"] = self.remaining(self.drops(side, dim), dim)
        if self.spec.split or self.spec.counts:
            none = self.z.new_zeros(self.z.shape[1 - dim], dtype=torch.int64)
            found["positives"] = none if self.positive is None else self.positive.sum(dim)
        return found

    def remaining(self, drop: Tensor | None, dim: int) -> Tensor:
        """How many pairs are not dropped, along dim."""
        whole = self.z.new_full((self.z.shape[1 - dim],), self.z.shape[dim], dtype=torch.int64)
        return whole if drop is None else whole - drop.sum(dim)

    def positives(self, dim: int) -> Tensor:
        return self.z.new_zeros(self.z.shape[1 - dim]) if self.chosen is None else self.chosen.sum(dim)

    def add_positive_slopes(self, sides: Sequence[tuple[Side, int]], g: Tensor) -> None:
        weights = [side.positive_weight.unsqueeze(dim) for side, dim in sides if side.positive_weight is not None]
        if self.positive is not None and weights:
            weight, slope = sum(weights[1:], weights[0]), self.functor.positive_slope
            weight = weight if self.share is None else weight * self.share
            g += torch.where(self.positive, weight if slope is None else weight * slope(self.z), 0.0)


def joined(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    """Pairs in either mask; None = no pair."""
    return y if x is None else x if y is None else x | y


def masks(block: PairBlock) -> tuple[Tensor | None, Tensor | None]:
    """Which pairs are positive, and which both sides drop; None = no pair."""
    spec = block.spec
    drop = None if not spec.keep else ~holds(spec.keep, block)
    if block.mask is not None:
        drop = ~block.mask if drop is None else drop | ~block.mask
    if not spec.positives:
        return None, drop
    if spec.positives & PairTest.KEPT:
        shape, device = (len(block.row), len(block.col)), block.row.features.device
        return torch.ones(shape, dtype=torch.bool, device=device) if drop is None else ~drop, drop
    positive = holds(spec.positives, block)
    if spec.keep_positives and drop is not None:
        drop = drop & ~positive
    return positive, drop


def holds(rule: int, block: PairBlock) -> Tensor:
    """Which pairs pass all tests of the rule, (n, m)."""
    row, col = block.row, block.col
    found = [fact if rule & yes else ~fact for yes, no, fact in facts(rule, row, col) if rule & (yes | no)]
    return torch.stack(found).all(0) if len(found) > 1 else found[0]


def facts(rule: int, row: Side, col: Side) -> Iterator[tuple[int, int, Tensor]]:
    """The comparisons that the rule asks for, each with the test that wants it to hold and the one that wants it not
    to."""
    device = row.features.device

    def equal(x: Tensor | None, y: Tensor | None) -> Tensor:
        if x is None or y is None:
            return torch.zeros(len(row), len(col), dtype=torch.bool, device=device)
        return x[:, None] == y

    if rule & (PairTest.SAME_INDEX | PairTest.OTHER_INDEX):
        rows = torch.arange(row.origin, row.origin + len(row), device=device)
        yield (
            PairTest.SAME_INDEX,
            PairTest.OTHER_INDEX,
            equal(rows, torch.arange(col.origin, col.origin + len(col), device=device)),
        )
    if rule & READERS["ids"]:
        yield PairTest.SAME_ID, PairTest.OTHER_ID, equal(row.ids, col.ids)
    if rule & READERS["groups"]:
        yield PairTest.SAME_GROUP, PairTest.OTHER_GROUP, equal(row.groups, col.groups)
    if rule & READERS["labels"]:
        yield PairTest.SHARED_LABEL, PairTest.NO_SHARED_LABEL, shared(row.labels, col.labels, equal(None, None))
    if rule & PARTNER_TESTS:
        assert row.partner is not None
        yield (
            PairTest.PARTNER,
            PairTest.NO_PARTNER,
            at_partners(row, col, torch.ones_like(row.partner, dtype=torch.float32)) > 0,
        )
    if rule & PairTest.LOWER_ORDER:
        assert row.order is not None and col.order is not None
        yield PairTest.LOWER_ORDER, NO_TEST, col.order < row.order[:, None]


def shared(row: Tensor | None, col: Tensor | None, none: Tensor) -> Tensor:
    """Whether label sets meet, word by word: all words at once would be as many matrices."""
    if row is not None and col is not None:
        for x, y in zip(row.unbind(1), col.unbind(1), strict=True):
            none |= (x[:, None] & y) != 0
    return none


def share_of(block: PairBlock) -> Tensor | None:
    """What a positive counts, (n, m) where partners have shares."""
    share = block.row.share
    return None if share is None else at_partners(block.row, block.col, share)


def at_partners(row: Side, col: Side, values: Tensor) -> Tensor:
    """(n, m): the values of partners, added up where they are, else 0."""
    assert row.partner is not None
    place = row.partner - col.origin
    here = (place >= 0) & (place < len(col))
    own = torch.where(here, values, 0.0)
    found = own.new_zeros(len(row), len(col) + 1)  # the last column is for those elsewhere
    return found.scatter_add_(1, torch.where(here, place, len(col)), own)[:, :-1]
