"""Cross-entropy over matched tuples: rows against columns whose score is a distance from a flat. GRAM and TRIANGLE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..literals import Reduction, ScoreName
from ..ops import EngineOptions, Pairs, check, pair_stats
from ..ranks import GlobalBatch, Group
from .common import cross_entropy, upcast


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
    key_offset: int = 0
    part: Tensor | None = None  # (N,) bool, samples that take part; M = N

    def rows(self, rows: bool, cols: bool) -> Tensor:
        """Mean over the wanted directions of the cross-entropies of every sample, (N,)."""
        n, m, anchor = self.anchor.shape[0], self.columns.directions.shape[1], upcast(self.anchor)
        pairs = Pairs(
            anchor, self.columns.directions, self.scale, col_scale=self.columns.factor,
            row_bias=anchor.square().sum(1), col_bias=self.columns.norm, score=self.columns.score,
            offset=self.columns.offset, positives="kept" if self.smoothing else None, cols=cols,
        )  # fmt: skip
        self.drop_matched(pairs, m)
        self.engine.compute_dtype = self.anchor.dtype
        stats = pair_stats(pairs, self.engine)
        own = slice(self.key_offset, self.key_offset + n)
        found = []
        if rows:
            found.append(self.cross_entropy(stats.rows, stats.row_positives, m - n + self.batch.total))
        if cols:
            assert stats.cols is not None
            total = None if stats.col_positives is None else stats.col_positives[own]
            found.append(self.cross_entropy(stats.cols[own], total, self.batch.total))
        value: Tensor = found[0] if len(found) == 1 else 0.5 * (found[0] + found[1])
        return value if self.part is None else torch.where(self.part, value, 0.0)

    def drop_matched(self, pairs: Pairs, m: int) -> None:
        """The keep rule that leaves every pair but the matched ones and those of samples that take no part."""
        n, device = self.anchor.shape[0], self.anchor.device
        if self.key_offset:
            index = torch.arange(m, device=device)
            pairs.keep, pairs.row_ids, pairs.col_ids = "other_id", index[self.key_offset :][:n], index
        elif self.part is None:
            pairs.keep = "other_index"
        else:
            # a pair is dropped where ids are equal: whenever exactly one side takes part. Where neither does, the pair
            # stays, in statistics nobody reads.
            ids = self.part.long()
            pairs.keep, pairs.row_ids, pairs.col_ids = ("other_index", "other_id"), ids, 1 - ids

    def cross_entropy(self, others: Tensor, total: Tensor | None, candidates: int) -> Tensor:
        """From the log-sum-exp over all other candidates and, with smoothing, the sum of their logits."""
        own = self.scale * self.matched
        value = cross_entropy(others, own)
        if total is None:
            return value
        count: int | Tensor = candidates if self.part is None else self.batch.sum(self.part.sum()).clamp_min(1)
        mean: Tensor = (total + own) / count
        return value + self.smoothing * (own - mean)


def tuple_loss(
    build: Callable[[list[Tensor]], TupleProblem],
    tensors: list[Tensor],
    symmetric: bool,
    detach_keys: bool,
    reduction: Reduction,
) -> Tensor:
    """The loss of the problem that `build` makes of [anchor, *others]."""
    if detach_keys:
        anchor, *others = tensors
        problem = build([anchor, *(x.detach() for x in others)])
        rows = problem.rows(True, False)
        if symmetric:
            rows = 0.5 * (rows + build([anchor.detach(), *others]).rows(False, True))
    else:
        problem = build(tensors)
        rows = problem.rows(True, symmetric)
    batch = problem.batch
    if reduction == "mean" and problem.part is not None:
        return batch.reduced(rows, "sum") / batch.sum(problem.part.sum()).clamp_min(1)
    return batch.reduced(rows, reduction)


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


def check_gathered(anchor: Tensor, name: str, other: Tensor, key_offset: int, group: Group) -> None:
    """M >= N + key_offset: every anchor has its own tuple among the gathered ones."""
    if group is not None and (key_offset != 0 or other.shape[0] != anchor.shape[0]):
        raise ValueError(f"{name} must be this rank's own, as many as anchors, with group: nothing is to be gathered")
    if isinstance(key_offset, bool) or not isinstance(key_offset, int) or key_offset < 0:
        raise ValueError(f"key_offset must be an int >= 0, got {key_offset!r}")
    least = anchor.shape[0] + key_offset
    if other.shape[0] < least:
        raise ValueError(f"{name} must have at least N + key_offset = {least} rows, got {other.shape[0]}")
