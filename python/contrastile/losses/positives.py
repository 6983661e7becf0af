"""Rows, and columns, with any number of positives each: what multi_positive and sup_con are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import PositiveForm, Reduction, TestName
from ..ops import EngineOptions, Pairs, PairStats, Weights, pair_stats, softplus, stat_dtype, weighted_sum
from ..ranks import GlobalBatch
from .common import added, upcast
from .weights import mean_weight, weighed

# of a test of positives, that of negatives
OTHERWISE: dict[TestName, TestName] = {"same_id": "other_id", "shared_label": "no_shared_label"}


@dataclass
class Anchors:
    """What the rows of a problem count as anchors, or its columns."""

    weight: Tensor  # (n,) of each one's loss in what is returned; 0 where it has no positive
    share: Tensor  # (n,) 1 / number of its positives; 0 without

    @staticmethod
    def of(
        positives: Tensor, batch: GlobalBatch, reduction: Reduction, like: Tensor, weights: Tensor | None = None,
        per_pair: bool = False,
    ) -> Anchors:  # fmt: skip
        """positives: (n,) how many each has. weights: of anchors. per_pair: they count as often as they have
        positives."""
        each = has_positive = (positives > 0).to(stat_dtype(like.dtype))
        if weights is not None:
            each = each * weights
        if per_pair:
            each = each * positives
        weight = each if reduction == "none" else mean_weight(batch, each, reduction)
        return Anchors(weight, has_positive / positives.clamp_min(1))

    def times(self, factor: float) -> Anchors:
        return self if factor == 1.0 else replace(self, weight=factor * self.weight)


@dataclass
class ManyPositives:
    """The losses of anchors, each against its candidates: its positives and all others that pairs.keep leaves."""

    # its own; `positives` is a tuple; b, where it is given, and what belongs to it are lists of blocks
    pairs: Pairs
    form: PositiveForm
    engine: EngineOptions
    rows: Anchors
    cols: Anchors | None = None  # of the first block of columns; None: they are no anchors
    among: bool = True  # False: positives are no candidates. With rows and form="out" alone

    def loss(self, reduction: Reduction) -> Tensor:
        """reduction="none": of rows, then of columns."""
        pairs, entropy = self.pairs, self.form == "in"
        # positives outside of the rule stay candidates; a rule of indices alone leaves out none
        pairs.keep_positives = self.among and pairs.keep not in ("all", "other_index")
        pairs.cols, pairs.split = self.cols is not None, entropy
        if self.form == "each" or reduction == "none":
            return self.of_terms(reduction)
        row, share = self.rows.weight, self.rows.share
        weights = Weights(row, 0.0 if entropy else -row * share, cross_entropy=entropy)
        if self.cols is not None:
            col, share = self.of_columns(self.cols.weight), self.of_columns(self.cols.share)
            weights.col, weights.col_positive = col, 0.0 if entropy else -col * share
        return weighted_sum(pairs, weights, self.engine)

    def of_terms(self, reduction: Reduction) -> Tensor:
        """What one weighted sum of statistics does not give."""
        if self.form == "each":  # the gradients of both passes meet in float32 and are rounded once
            self.engine.compute_dtype = self.engine.compute_dtype or self.pairs.a.dtype
            self.pairs = with_features(self.pairs, upcast)
        sides = [self.rows] if self.cols is None else [self.rows, self.cols]
        if reduction == "none":
            found = [weighed(anchors.weight, x) for anchors, x in zip(sides, self.losses(), strict=True)]
            return found[0] if len(found) == 1 else torch.cat(found)
        found = [
            weighted_sum(pairs, Weights(anchors.weight * anchors.share), self.engine)
            for pairs, anchors in zip(self.softplus_pairs(), sides, strict=True)
        ]
        return added(found)

    def of_columns(self, x: Tensor) -> Tensor:
        """Numbers of the first block of columns as ones of all: the others are no anchors."""
        blocks = list(self.pairs.b or ())[1:]
        return torch.cat([x, *(x.new_zeros(block.shape[0]) for block in blocks)]) if blocks else x

    def losses(self) -> list[Tensor]:
        if self.form == "each":
            sums = [pair_stats(pairs, self.engine).rows for pairs in self.softplus_pairs()]
            return [anchors.share * x for anchors, x in zip((self.rows, self.cols), sums, strict=False) if anchors]
        self.pairs.split = self.among
        stats = pair_stats(self.pairs, self.engine)
        found = [self.of_side(stats, "row", self.rows)]
        if self.cols is not None:
            found.append(self.of_side(stats, "col", self.cols))
        return found

    def of_side(self, stats: PairStats, side: str, anchors: Anchors) -> Tensor:
        """A single positive is the log-sum-exp of positives: written so, a converged model's loss keeps its digits."""
        n, share = anchors.share.shape[0], anchors.share
        mean: Tensor = share * getattr(stats, f"{side}_positives")[:n]
        if not self.among:
            return stats.rows - mean
        others: Tensor = getattr(stats, f"{side}_negatives")[:n]
        positives: Tensor = getattr(stats, f"{side}_positives_lse")[:n]
        positives = torch.where(
            share == 0.0, 0.0, positives
        )  # -inf: their derivatives would be NaN, whatever they weigh
        inside: Tensor = softplus(others - positives)
        return inside if self.form == "in" else inside + torch.where(share == 1.0, 0.0, positives - mean)

    def softplus_pairs(self) -> list[Pairs]:
        """Positive pairs whose z is the anchor's log-sum-exp over negatives minus their score: of rows, of columns."""
        pairs, positives = self.pairs, self.pairs.positives
        assert isinstance(positives, tuple)
        found = pair_stats(ruled(pairs, negatives_rule(pairs, positives)), self.engine)
        sides = [(pairs, found.rows)]
        if found.cols is not None:
            turned = turned_pairs(pairs)
            sides.append((turned, found.cols[: turned.a.shape[0]]))
        return [
            replace(ruled(own, positives), scale=-own.scale, row_bias=others, reduce="softplus", cols=False)
            for own, others in sides
        ]


def negatives_rule(pairs: Pairs, positives: tuple[TestName, ...]) -> tuple[TestName, ...]:
    """The candidates that are no positives."""
    keep = pairs.keep
    tests = () if keep == "all" else (keep,) if isinstance(keep, str) else keep
    return tuple(dict.fromkeys((*tests, *(OTHERWISE[x] for x in positives if x in OTHERWISE))))


def ruled(pairs: Pairs, keep: tuple[TestName, ...]) -> Pairs:
    """The pairs that pass these tests, without positives and without what the tests do not compare."""
    idle: dict[str, Any] = {f"{side}_{name}s": None for name in ("id", "group", "label") for side in ("row", "col")
            if not any(test.endswith(name) for test in keep)}  # fmt: skip
    return replace(pairs, keep=keep, positives=None, keep_positives=False, **idle)


def with_features(pairs: Pairs, change: Any, rows: bool = True) -> Pairs:
    """With all features changed, or those of columns."""
    b = None if pairs.b is None else [change(x) for x in pairs.b]
    return replace(pairs, a=change(pairs.a) if rows else pairs.a, b=b)


def turned_pairs(pairs: Pairs) -> Pairs:
    """The first block of columns against the rows."""
    assert pairs.b is not None
    swapped: dict[str, Any] = {}
    for name in ("ids", "groups", "labels"):
        row, col = getattr(pairs, f"row_{name}"), getattr(pairs, f"col_{name}")
        if row is not None:
            swapped |= {f"row_{name}": col[0], f"col_{name}": [row]}
    return replace(pairs, a=pairs.b[0], b=[pairs.a], cols=False, **swapped)


def equal_ids(ids: Tensor, others: Tensor, there: Tensor | None = None) -> Tensor:
    """How many of the others have each id. there: bool, which of them count. Sorting needs no host sync."""
    ordered, order = others.sort()
    first, last = torch.searchsorted(ordered, ids), torch.searchsorted(ordered, ids, right=True)
    if there is None:
        return last - first
    before = F.pad(there[order].long().cumsum(0), (1, 0))
    return before[last] - before[first]


def counted_positives(pairs: Pairs, engine: EngineOptions) -> tuple[Tensor, Tensor | None]:
    """How many positives rows and columns have, from a pass over features of width one."""
    thin = replace(
        with_features(pairs, lambda x: x.new_zeros(x.shape[0], 1)), scale=1.0, reduce="relu", counts=True,
        keep_positives=False,
    )  # fmt: skip
    found = pair_stats(thin, EngineOptions(None, engine.backend, engine.ranks))
    assert found.row_positive_count is not None
    return found.row_positive_count, found.col_positive_count
