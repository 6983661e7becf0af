"""Blocks of candidates: of every query, and among items of one side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..literals import TestName
from ..ops import Pairs, log_add
from .common import upcast
from .weights import keep_present


@dataclass
class Block:
    """Candidates of every query beside the matched keys."""

    features: Tensor  # (M, D)
    ids: Tensor | None = None
    log_prob: Tensor | None = None
    groups: Tensor | None = None

    def part(self, start: int, stop: int) -> Block:
        more = (None if x is None else x[start:stop] for x in (self.ids, self.log_prob, self.groups))
        return Block(self.features[start:stop], *more)


def col_bias(blocks: list[Block]) -> Tensor | None:
    for block in blocks:
        if block.log_prob is not None:
            break
    else:  # a loop, as it runs in every small call, where a generator would be felt
        return None
    zeros = [upcast(x.features).new_zeros(x.features.shape[0]) for x in blocks]
    return torch.cat([zero if x.log_prob is None else -x.log_prob for x, zero in zip(blocks, zeros, strict=True)])


@dataclass(frozen=True)
class Negatives:
    """What a row has beside its positive."""

    lse: Tensor  # (N,) log-sum-exp of their logits
    peak: Tensor | None = None  # (N,) the largest, where a report wants it

    def joined(self, other: Negatives | None) -> Negatives:
        if other is None:
            return self
        peak = None if self.peak is None or other.peak is None else torch.maximum(self.peak, other.peak)
        return Negatives(log_add(self.lse, other.lse), peak)


@dataclass(frozen=True)
class Sides:
    """Which similarities beside those of queries to keys are in the sum of every pair, in either direction."""

    query_query: bool = False
    key_key: bool = False
    key_query: bool = False
    further: list[Block] = field(default_factory=list)  # keys that no query matches

    def changed(self, change: Callable[[Tensor], Tensor]) -> Sides:
        return replace(self, further=[replace(x, features=change(x.features)) for x in self.further])

    def pairs(
        self, queries: Block, keys: Block, scale: float | Tensor, present: Tensor | None, detached: bool, split: bool
    ) -> list[Pairs]:
        """Of each block that is asked for. detached: candidates get no gradient; split: with the largest negatives."""
        asked = (
            (self.query_query, queries, [queries]),
            (self.key_key, keys, [keys, *self.further]),
            (self.key_query, keys, [queries]),
        )
        return [among(rows, cols, scale, present, detached, split) for wanted, rows, cols in asked if wanted]


def among(
    rows: Block, columns: list[Block], scale: float | Tensor, present: Tensor | None, detached: bool, split: bool
) -> Pairs:
    """Each row against the columns of other indices that are not the same item and of the same group."""
    own = len(columns) == 1 and columns[0] is rows and not (detached or split)  # each unordered pair once
    keep: tuple[TestName, ...] = ("other_index",)
    pairs = Pairs(rows.features, None, scale)
    if not own:
        pairs.b = [x.features.detach() if detached else x.features for x in columns]
    if split:
        pairs.positives, pairs.split = "same_index", True
    if rows.ids is not None:
        keep, pairs.row_ids, pairs.col_ids = (*keep, "other_id"), rows.ids, None if own else [x.ids for x in columns]
    if rows.groups is not None:
        keep, pairs.row_groups = (*keep, "same_group"), rows.groups
        pairs.col_groups = None if own else [x.groups for x in columns]
    pairs.keep = keep
    keep_present(pairs, present, [] if own else [present, *(None for _ in columns[1:])])
    return pairs
