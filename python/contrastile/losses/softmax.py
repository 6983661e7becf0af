"""The cross entropy of matched pairs, in one direction or both: what info_nce, clip_loss and cua are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..literals import Direction, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, pair_stats, reported_sum, small_sum, weighted_sum
from ..ranks import GlobalBatch
from .common import at_least_one, cross_entropy, paired_dot, private_dots, upcast
from .in_batch import InBatch, measured
from .matryoshka import Matryoshka
from .weights import Counted, direction_weights, keep_present


@dataclass
class Block:
    """Candidates of every query beside the matched keys."""

    features: Tensor  # (M, D)
    ids: Tensor | None = None
    log_prob: Tensor | None = None

    def part(self, start: int, stop: int) -> Block:
        ids, log_prob = (None if x is None else x[start:stop] for x in (self.ids, self.log_prob))
        return Block(self.features[start:stop], ids, log_prob)


@dataclass
class Softmax:
    """One softmax problem: rows, column blocks, which pairs count. Arguments are checked before it is made."""

    batch: GlobalBatch
    engine: EngineOptions
    query: Tensor
    key: Tensor  # as many as queries
    scale: float | Tensor
    counted: Counted
    others: list[Block] = field(default_factory=list)
    hard: Tensor | None = None
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    margin: float | Tensor | None = None
    smoothing: float = 0.0
    log_prob: Tensor | None = None  # (N,) of the keys
    spare_positive: bool = False  # log_prob is that of the other candidates alone
    row: float = 1.0  # weight of the direction query -> key
    col: float = 0.0  # of key -> query, from the same pass
    prefixes: Matryoshka | None = None  # features are whole: the loss is the sum over these
    report: InBatch | None = None
    keys: bool = False  # the rows are the keys of the caller's problem

    def pairs(self) -> Pairs:
        """Every row against the others; its positive apart, so that a converged model's loss keeps its digits."""
        pairs = Pairs(
            self.query, [self.key, *(x.features for x in self.others)], self.scale, col_bias=self.col_bias(),
            keep="other_index", positives="same_index", cols=self.col > 0.0,
        )  # fmt: skip
        if self.row_ids is not None:
            pairs.keep, pairs.row_ids = ("other_index", "other_id"), self.row_ids
            pairs.col_ids = [self.col_ids, *(x.ids for x in self.others)] if self.others else self.col_ids
        if self.counted.present is not None:
            keep_present(pairs, self.counted.present, [self.counted.present, *(None for _ in self.others)])
        if self.margin is not None:
            limit = (self.scale * (paired_dot(self.query, self.key) + self.margin)).detach()
            pairs.row_high = limit
            if self.col:
                pairs.col_high = self.of_columns(limit)
        return pairs

    def of_columns(self, own: Tensor) -> Tensor:
        """Numbers of the matched keys as ones of all columns: the others have no row of their own, so theirs is 0."""
        return torch.cat([own, *(own.new_zeros(x.features.shape[0]) for x in self.others)]) if self.others else own

    def col_bias(self) -> Tensor | None:
        found = [self.log_prob, *[x.log_prob for x in self.others]]
        if found.count(None) == len(found):
            return None
        blocks = [self.key, *(x.features for x in self.others)]
        parts = [upcast(b).new_zeros(b.shape[0]) if x is None else -x for x, b in zip(found, blocks, strict=True)]
        return torch.cat(parts)

    def widened(self) -> Softmax:
        """For terms beside the engine's: their gradients meet in float32 and are rounded once, after cancelling."""
        if self.engine.compute_dtype is None:
            self.engine.compute_dtype = self.query.dtype
        return self.changed(upcast(self.query), upcast(self.key), upcast)

    def detached_candidates(self) -> Softmax:
        return self.changed(self.query, self.key.detach(), Tensor.detach)

    def changed(self, query: Tensor, key: Tensor, change: Callable[[Tensor], Tensor]) -> Softmax:
        others = [replace(x, features=change(x.features)) for x in self.others]
        return replace(self, query=query, key=key, others=others, hard=None if self.hard is None else change(self.hard))

    def turned(self, scale: float | Tensor) -> Softmax:
        """Key -> query as rows against columns. A bias of a key is constant in its softmax, and other candidates are
        not the keys'."""
        return replace(
            self, batch=replace(self.batch, extra=0), query=self.key, key=self.query, scale=scale, others=[], hard=None,
            row_ids=self.col_ids, col_ids=self.row_ids, log_prob=None, spare_positive=False, keys=True,
        )  # fmt: skip

    def one_sum(self) -> bool:
        """Whether the loss has no terms beside the cross entropy of the engine."""
        return not (self.smoothing or self.spare_positive)

    def loss(self, reduction: Reduction) -> Tensor:
        if self.prefixes is not None:
            return self.widened().over_prefixes(self.prefixes, reduction)
        # a weight would bind a graph to sizes
        small = self.hard is not None and self.report is None
        if small and reduction != "none" and check.plain(self.query) and self.one_sum():
            weights = self.weights(self.counted.weight(self.batch, reduction, self.query))
            value = small_sum(self.pairs(), weights, self.engine, private=self.hard)
            if value is not None:
                return value
        more_terms = self.smoothing > 0.0 or self.hard is not None
        return (self.widened() if more_terms else self).reduced(reduction)

    def over_prefixes(self, prefixes: Matryoshka, reduction: Reduction) -> Tensor:
        if reduction != "none" and self.hard is None and self.margin is None and self.one_sum():
            weights = self.weights(self.counted.weight(self.batch, reduction, self.query))
            value = prefixes.at_once(self.pairs(), weights, self.engine)
            if value is not None:
                return value
        whole = replace(self, prefixes=None)
        return prefixes.total(lambda cut: whole.changed(cut(self.query), cut(self.key), cut).loss(reduction))

    def reduced(self, reduction: Reduction) -> Tensor:
        if reduction == "none" or self.hard is not None or self.spare_positive:
            return self.counted.reduced(self.batch, self.rows(), reduction)
        weight = self.counted.weight(self.batch, reduction, self.query)
        if self.report is None:
            value = weighted_sum(self.pairs(), self.weights(weight), self.engine)
        else:
            value, *sides = reported_sum(self.pairs(), self.weights(weight), self.engine)
            for keys, side in zip((self.keys, True), sides, strict=False):
                self.tell(keys, *side[: self.query.shape[0]].unbind(1))
        if self.smoothing > 0.0:
            mean = self.counted.reduced(self.batch, self.mean_logits(), reduction)
            value = value - self.smoothing * mean
        return value

    def tell(self, keys: bool, peak: Tensor, others: Tensor, positive: Tensor) -> None:
        """Fills the report, if there is one."""
        if self.report is not None:
            self.report.fill(keys, measured(peak, others, positive, self.counted, self.batch))

    def weights(self, weight: float | Tensor) -> Weights:
        rows = self.row * weight
        if not self.col:
            return Weights(rows, self.smoothing * rows, cross_entropy=True)
        cols = self.col * weight
        if self.others:
            if not isinstance(cols, Tensor):
                cols = upcast(self.key).new_full((self.key.shape[0],), cols)
            cols = self.of_columns(cols)
        return Weights(rows, self.smoothing * rows, cols, self.smoothing * cols, cross_entropy=True)

    def rows(self) -> Tensor:
        """Per-row losses, (N,)."""
        n = self.query.shape[0]
        pairs = self.pairs()
        pairs.split = self.report is not None  # for the largest negatives
        stats = pair_stats(pairs, self.engine)
        assert stats.row_positives is not None
        others, positive, peak = stats.rows, stats.row_positives, stats.row_negative_max
        if self.hard is not None and self.hard.shape[1]:
            hard = self.hard_logits()
            others = torch.logaddexp(others, hard.logsumexp(1))
            peak = None if peak is None else torch.maximum(peak, hard.amax(1))
        spared = positive if self.log_prob is None or not self.spare_positive else positive + self.log_prob
        if peak is not None:
            self.tell(self.keys, peak, others, spared)
        rows = self.row * cross_entropy(others, spared)
        if self.col:
            assert stats.cols is not None
            if stats.col_negative_max is not None:
                self.tell(True, stats.col_negative_max[:n], stats.cols[:n], positive)
            rows = rows + self.col * cross_entropy(stats.cols[:n], positive)
        if self.smoothing > 0.0:
            rows = rows + self.smoothing * ((self.row + self.col) * positive - self.mean_logits())
        return rows

    def hard_logits(self) -> Tensor:
        """(N, K): private negatives never meet another row, so they are N K dot products, not N^2."""
        assert self.hard is not None
        scale = self.scale.unsqueeze(-1) if isinstance(self.scale, Tensor) and self.scale.dim() else self.scale
        return scale * private_dots(upcast(self.query), upcast(self.hard))

    def mean_logits(self) -> Tensor:
        """Mean logit over the candidates, of both directions by their weights, (N,): linear in the scores, so no
        pairs are needed."""
        count = self.counted.count(self.batch)
        hard = 0 if self.hard is None else self.hard.shape[1]
        more = [upcast(x.features).sum(0) for x in self.others]
        total = (upcast(self.query) * self.batch.column_sum(self.key, torch.stack(more) if more else None)).sum(1)
        if self.hard is not None:
            total = total + (upcast(self.query) * upcast(self.hard).sum(1)).sum(1)
        candidates = count + self.batch.extra + hard
        mean = self.row * self.scale * total / at_least_one(candidates)
        if not self.col:
            return mean
        back = (upcast(self.key) * self.batch.column_sum(self.query)).sum(1)
        return mean + self.col * self.scale * back / at_least_one(count)


def softmax_loss(
    problem: Softmax,
    reduction: Reduction,
    direction: Direction,
    symmetric: bool,
    key_scale: float | Tensor | None = None,
    detach_keys: bool = False,
) -> Tensor:
    """The wanted directions of a problem: both from one pass, unless they differ in more than their weights.

    key_scale: of key -> query where it is not that of query -> key: the other way round, or one per row.
    """
    row, col = direction_weights(direction, symmetric)
    if row and col and key_scale is None and not detach_keys:
        problem.row, problem.col = row, col
        return problem.loss(reduction)
    if row and col and not detach_keys:  # the gradients of both passes meet before they are rounded
        problem = problem.widened()
    parts = []
    if col:
        parts.append(replace(problem.turned(problem.scale if key_scale is None else key_scale), row=col))
    if row:
        problem.row = row
        parts.insert(0, problem)
    values = [(x.detached_candidates() if detach_keys else x).loss(reduction) for x in parts]
    return values[0] if len(values) == 1 else values[0] + values[1]
