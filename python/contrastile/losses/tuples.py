"""Cross-entropy over matched tuples: rows against columns whose score is a distance from a flat. GRAM and TRIANGLE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..literals import Reduction, ScoreName
from ..ops import EngineOptions, Pairs, check, pair_stats
from ..ranks import GlobalBatch
from .common import added, at_least_one, cross_entropy, upcast
from .weights import Counted, keep_present


def product(factors: Tensor) -> Tensor:
    """Over dim 0. torch.prod looks for zeros in its backward pass, which would stop the device."""
    return reduce(torch.mul, factors.unbind(0))


@dataclass
class Columns:
    """What the other modalities of every sample make of themselves: a flat and a factor of the distance from it."""

    directions: Tensor  # (T, M, D), see pair_reduce's score
    factor: Tensor  # (M,)
    norm: Tensor | None  # (M,) squared norm of the flat's point
    score: ScoreName
    offset: bool


@dataclass
class TupleProblem:
    """Logits z_ij = scale * factor_j * f(distance of row i from the flat of column j).

    The logit of matched tuples is given apart, computed from residuals: near alignment, where training ends, a distance
    out of dot products has no correct digit left.
    """

    batch: GlobalBatch
    engine: EngineOptions
    anchor: Tensor  # (N, D)
    columns: Columns  # of M >= N tuples
    matched: Tensor  # (N,) scores of the matched tuples
    scale: float | Tensor
    smoothing: float
    key_offset: int
    counted: Counted  # samples; with some missing, M = N

    def rows(self, rows: float, cols: float) -> Tensor:
        """The cross-entropies of every sample by the weights of both directions, (N,); one of weight 0 is not
        computed."""
        n, m, anchor = self.anchor.shape[0], self.columns.directions.shape[1], upcast(self.anchor)
        pairs = Pairs(
            anchor, self.columns.directions, self.scale, col_scale=self.columns.factor,
            row_bias=anchor.square().sum(1), col_bias=self.columns.norm, score=self.columns.score,
            offset=self.columns.offset, positives="kept" if self.smoothing else None, cols=cols > 0.0,
        )  # fmt: skip
        self.drop_matched(pairs, m)
        self.engine.compute_dtype = self.anchor.dtype
        stats = pair_stats(pairs, self.engine)
        own, matched = slice(self.key_offset, self.key_offset + n), self.scale * self.matched
        found = []
        if rows:
            value = self.cross_entropy(stats.rows, matched, stats.row_positives, m - n + self.batch.total)
            found.append(rows * value)
        if cols:
            others, total = stats.cols, stats.col_positives
            assert others is not None
            if n != m:
                others, total = others[own], None if total is None else total[own]
            found.append(cols * self.cross_entropy(others, matched, total, self.batch.total))
        return added(found)

    def drop_matched(self, pairs: Pairs, m: int) -> None:
        """The keep rule that leaves every pair but the matched ones and those of samples that take no part."""
        pairs.keep = "other_index"
        if self.key_offset:
            index = torch.arange(m, device=self.anchor.device)
            own = index[self.key_offset :][: self.anchor.shape[0]]
            pairs.keep, pairs.row_ids, pairs.col_ids = "other_id", own, index
        keep_present(pairs, self.counted.present, [self.counted.present])

    def cross_entropy(self, others: Tensor, own: Tensor, total: Tensor | None, candidates: int) -> Tensor:
        """From the log-sum-exp over all other candidates, the matched logit and, with smoothing, the sum of the others'
        logits."""
        value = cross_entropy(others, own)
        if total is None:
            return value
        count = candidates if self.counted.present is None else at_least_one(self.counted.count(self.batch))
        share = self.smoothing / count  # of a candidate in smoothing * (own - the mean of all logits)
        smoothed: Tensor = value + (self.smoothing - share) * own - share * total
        return smoothed


def tuple_loss(
    build: Callable[[list[Tensor]], TupleProblem],
    tensors: list[Tensor],
    directions: tuple[float, float],
    detach_keys: bool,
    reduction: Reduction,
) -> Tensor:
    """The loss of the problem that `build` makes of [anchor, *others]."""
    row, col = directions
    if not detach_keys:
        problem = build(tensors)
        return problem.counted.reduced(problem.batch, problem.rows(row, col), reduction)
    anchor, *others = tensors
    found = []
    if row:
        problem = build([anchor, *(x.detach() for x in others)])
        found.append(problem.rows(row, 0.0))
    if col:
        problem = build([anchor.detach(), *others])
        found.append(problem.rows(0.0, col))
    rows = added(found)
    return problem.counted.reduced(problem.batch, rows, reduction)


def check_tuples(names: Sequence[str], tensors: Sequence[Tensor]) -> list[Tensor]:
    """anchor (N, D) and others (M, D), brought to one type."""
    anchor = check.features(names[0], tensors[0])
    dtype = anchor.dtype
    for name, x in zip(names[1:], tensors[1:], strict=True):
        check.same_shape(name, check.features(name, x), names[1], tensors[1])
        check.same_width(name, x, names[0], anchor)
        check.same_device(name, x, anchor.device)
        dtype = torch.promote_types(dtype, x.dtype)
    return [x.to(dtype) for x in tensors]
