"""The cross entropy of matched pairs, in one direction or both: what info_nce, clip_loss and cua are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..literals import Direction, Reduction, TestName
from ..ops import (
    EngineOptions,
    Pairs,
    Weights,
    check,
    hardest_limit,
    log_add,
    pair_stats,
    reported_sum,
    small_sum,
    weighted_sum,
)
from ..ranks import GlobalBatch
from .blocks import Block, Negatives, Sides, col_bias
from .common import added, at_least_one, cross_entropy, paired_dot, upcast
from .in_batch import InBatch, measured
from .matryoshka import Matryoshka
from .private import Candidates, private_logits, private_sum
from .weights import NOWHERE, Counted, direction_weights, keep_present


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
    hard: Tensor | Candidates | None = None
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    row_groups: Tensor | None = None  # candidates of another group are no negatives
    col_groups: Tensor | None = None
    margin: float | Tensor | None = None
    smoothing: float = 0.0
    log_prob: Tensor | None = None  # (N,) of the keys
    spare_positive: bool = False  # log_prob is that of the other candidates alone
    row: float = 1.0  # weight of the direction query -> key
    col: float = 0.0  # of key -> query, from the same pass
    num_hard: int | None = None  # how many negatives count, the largest
    prefixes: Matryoshka | None = None  # features are whole: the loss is the sum over these
    relative_margin: float | Tensor | None = None
    in_batch: bool = True  # False: no other key is a candidate
    report: InBatch | None = None
    keys: bool = False  # the rows are the keys of the caller's problem
    sides: Sides | None = None  # candidates among queries and among keys
    detached: bool = False  # candidates get no gradient
    key_scale: float | Tensor | None = None  # of key -> query; None: scale

    def pairs(self) -> Pairs:
        """Every row against the others; its positive apart, so that a converged model's loss keeps its digits."""
        own = [Block(self.key, self.col_ids, self.log_prob, self.col_groups)] if self.in_batch else []
        blocks = [*own, *self.others]
        keep: tuple[TestName, ...] = ()
        pairs = Pairs(
            self.query, [x.features for x in blocks], self.scale, col_bias=col_bias(blocks), cols=self.col > 0.0
        )
        if self.in_batch:
            keep, pairs.positives = ("other_index",), "same_index"
        if self.row_ids is not None:
            ids = [x.ids for x in blocks]
            if any(x is not None for x in ids):
                keep, pairs.row_ids, pairs.col_ids = (*keep, "other_id"), self.row_ids, ids if self.others else ids[0]
        if self.row_groups is not None:
            keep, pairs.row_groups, groups = (*keep, "same_group"), self.row_groups, [x.groups for x in blocks]
            pairs.col_groups = groups if self.others else groups[0]
        if self.key_scale is not None:
            scales = check.as_tensor("key_scale", self.key_scale, self.key).expand(self.key.shape[0])
            pairs.col_scale, pairs.own_scales = self.of_columns(scales), True
        if keep:
            pairs.keep = keep if len(keep) > 1 else keep[0]
        if self.counted.present is not None:
            here = [self.counted.present] if self.in_batch else []
            keep_present(pairs, self.counted.present, [*here, *(None for _ in self.others)])
        if self.margin is not None or self.relative_margin is not None:
            pairs.row_high = limit = self.limit(self.scale)
            if self.col:
                pairs.col_high = self.of_columns(limit if self.key_scale is None else self.limit(self.key_scale))
        if self.num_hard is not None:
            pairs.row_low = hardest_limit(pairs, self.num_hard, self.engine)
            if self.col:
                back = replace(self.turned(), row=1.0, col=0.0, num_hard=None)
                pairs.col_low = self.of_columns(hardest_limit(back.pairs(), self.num_hard, self.engine))
        return pairs

    def limit(self, scale: float | Tensor) -> Tensor:
        """(N,): the z above which a candidate is taken for a false negative."""
        own = paired_dot(self.query, self.key).detach()
        most = [] if self.margin is None else [own + self.margin]
        most += [] if self.relative_margin is None else [own - self.relative_margin * own.abs()]
        least = most[0] if len(most) == 1 else torch.minimum(*most)
        return (scale * least).detach()

    def of_columns(self, own: Tensor) -> Tensor:
        """Numbers of the matched keys as ones of all columns: the others have no row of their own, so theirs is 0."""
        return torch.cat([own, *(own.new_zeros(x.features.shape[0]) for x in self.others)]) if self.others else own

    def widened(self) -> Softmax:
        """For terms beside the engine's: their gradients meet in float32 and are rounded once, after cancelling."""
        if self.engine.compute_dtype is None:
            self.engine.compute_dtype = self.query.dtype
        return self.changed(upcast(self.query), upcast(self.key), upcast)

    def detached_candidates(self) -> Softmax:
        found = replace(self.changed(self.query, self.key.detach(), Tensor.detach), detached=True)
        return found if self.hard is None else replace(found, hard=self.hard.detach())

    def changed(self, query: Tensor, key: Tensor, change: Callable[[Tensor], Tensor]) -> Softmax:
        others = [replace(x, features=change(x.features)) for x in self.others]
        # Candidates are widened as they are read
        hard = change(self.hard) if isinstance(self.hard, Tensor) else self.hard
        sides = None if self.sides is None else self.sides.changed(change)
        return replace(self, query=query, key=key, others=others, hard=hard, sides=sides)

    def turned(self) -> Softmax:
        """Key -> query as rows against columns. A bias of a key is constant in its softmax, and other candidates are
        not the keys'."""
        return replace(
            self, batch=replace(self.batch, extra=0), query=self.key, key=self.query, others=[], hard=None,
            scale=self.scale if self.key_scale is None else self.key_scale, key_scale=None, row_ids=self.col_ids,
            col_ids=self.row_ids, row_groups=self.col_groups, col_groups=self.row_groups, log_prob=None,
            spare_positive=False, keys=True,
        )  # fmt: skip

    def one_sum(self) -> bool:
        """Whether the loss has no terms beside the cross entropy of the engine."""
        return self.in_batch and self.sides is None and not (self.smoothing or self.spare_positive)

    def loss(self, reduction: Reduction) -> Tensor:
        if self.prefixes is not None:
            return self.widened().over_prefixes(self.prefixes, reduction)
        # a weight would bind a graph to sizes
        few = isinstance(self.hard, Tensor) and reduction != "none" and self.report is None
        if few and check.plain(self.query) and self.one_sum():
            assert isinstance(self.hard, Tensor)
            weights = self.weights(self.counted.weight(self.batch, reduction, self.query))
            value = small_sum(self.pairs(), weights, self.engine, private=self.hard)
            if value is not None:
                return value
        more_terms = self.smoothing > 0.0 or self.hard is not None or not self.in_batch or self.sides is not None
        return (self.widened() if more_terms else self).reduced(reduction)

    def over_prefixes(self, prefixes: Matryoshka, reduction: Reduction) -> Tensor:
        of_scores = (self.hard, self.margin, self.relative_margin, self.num_hard)  # other ones for each prefix
        if reduction != "none" and self.one_sum() and of_scores.count(None) == len(of_scores):
            weights = self.weights(self.counted.weight(self.batch, reduction, self.query))
            value = prefixes.at_once(self.pairs(), weights, self.engine)
            if value is not None:
                return value
        whole = replace(self, prefixes=None)

        def of(cut: Callable[[Tensor], Tensor]) -> Tensor:
            part = whole.changed(cut(self.query), cut(self.key), cut)
            if isinstance(self.hard, Candidates):
                part.hard = replace(self.hard, features=cut(self.hard.features))
            return part.loss(reduction)

        return prefixes.total(of)

    def reduced(self, reduction: Reduction) -> Tensor:
        apart = self.hard is not None or self.sides is not None or self.spare_positive or not self.in_batch
        if reduction == "none" or apart:
            return self.counted.reduced(self.batch, self.rows(), reduction)
        weight = self.counted.weight(self.batch, reduction, self.query)
        if self.report is None:
            value = weighted_sum(self.pairs(), self.weights(weight), self.engine)
        else:
            value, *sides = reported_sum(self.pairs(), self.weights(weight), self.engine)
            for keys, side in zip((self.keys, True), sides, strict=False):
                peak, lse, positive = side[: self.query.shape[0]].unbind(1)
                self.tell(keys, Negatives(lse, peak), positive)
        if self.smoothing > 0.0:
            mean = self.counted.reduced(self.batch, self.mean_logits(), reduction)
            value = value - self.smoothing * mean
        return value

    def tell(self, keys: bool, negatives: Negatives, positive: Tensor) -> None:
        """Fills the report, if there is one."""
        if self.report is not None:
            assert negatives.peak is not None
            self.report.fill(keys, measured(negatives.peak, negatives.lse, positive, self.counted, self.batch))

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
        if not self.in_batch:
            return self.rows_beside()
        n = self.query.shape[0]
        pairs = self.pairs()
        pairs.split = self.report is not None  # for the largest negatives
        stats, more = pair_stats(pairs, self.engine), self.of_sides()
        positive = stats.row_positives
        assert positive is not None
        negatives = Negatives(stats.rows, stats.row_negative_max).joined(more)
        back = positive if stats.col_positives is None else stats.col_positives[:n]
        hard = None if self.hard is None else private_logits(self.hard, self.query, self.scale)
        if hard is not None and hard.shape[1]:
            peak = None if self.report is None else hard.masked_fill(hard <= NOWHERE, -torch.inf).amax(1)
            negatives = negatives.joined(Negatives(hard.logsumexp(1), peak))
        spared = positive if self.log_prob is None or not self.spare_positive else positive + self.log_prob
        self.tell(self.keys, negatives, spared)
        rows = self.row * cross_entropy(negatives.lse, spared)
        if self.col:
            assert stats.cols is not None
            top = stats.col_negative_max
            negatives = Negatives(stats.cols[:n], None if top is None else top[:n]).joined(more)
            self.tell(True, negatives, back)
            rows = rows + self.col * cross_entropy(negatives.lse, back)
        if self.smoothing > 0.0:
            rows = rows + self.smoothing * (self.row * positive + self.col * back - self.mean_logits(hard))
        return rows

    def of_sides(self) -> Negatives | None:
        """Of each pair, among queries and among keys."""
        if self.sides is None:
            return None
        rows = Block(self.query, self.row_ids, None, self.row_groups)
        cols = Block(self.key, self.col_ids, None, self.col_groups)
        queries, keys = (cols, rows) if self.keys else (rows, cols)
        found, split = None, self.report is not None
        for pairs in self.sides.pairs(queries, keys, self.scale, self.counted.present, self.detached, split):
            if self.margin is not None or self.relative_margin is not None:
                pairs.row_high = self.limit(self.scale)
            stats = pair_stats(pairs, self.engine)
            found = Negatives(stats.rows, stats.row_negative_max).joined(found)
        return found

    def rows_beside(self) -> Tensor:
        """Per-row losses, (N,), of the positives against the other candidates alone, query -> key."""
        positive = self.scale * paired_dot(self.query, self.key)
        others = pair_stats(self.pairs(), self.engine).rows if self.others else torch.full_like(positive, NOWHERE)
        if self.hard is not None and self.hard.shape[1]:
            others = log_add(others, private_logits(self.hard, self.query, self.scale).logsumexp(1))
        return cross_entropy(others, positive)

    def mean_logits(self, hard: Tensor | None = None) -> Tensor:
        """Mean logit over the candidates, of both directions by their weights, (N,): linear in the scores, so no
        pairs are needed. hard: logits of private candidates."""
        count = self.counted.count(self.batch)
        more = [upcast(x.features).sum(0) for x in self.others]
        total = (upcast(self.query) * self.batch.column_sum(self.key, torch.stack(more) if more else None)).sum(1)
        total, candidates = self.scale * total, count + self.batch.extra
        if self.hard is not None and hard is not None:
            more_total, more_candidates = private_sum(self.hard, hard)
            total, candidates = total + more_total, candidates + more_candidates
        mean = self.row * total / at_least_one(candidates)
        if not self.col:
            return mean
        back = (upcast(self.key) * self.batch.column_sum(self.query)).sum(1)
        scale = self.scale if self.key_scale is None else self.key_scale
        return mean + self.col * scale * back / at_least_one(count)


def softmax_loss(
    problem: Softmax,
    reduction: Reduction,
    direction: Direction,
    symmetric: bool,
    key_scale: float | Tensor | None = None,
    detach_keys: bool = False,
) -> Tensor:
    """The wanted directions of a problem: both from one pass, unless candidates are detached.

    key_scale: of key -> query where it is not that of query -> key: the other way round, or one per row.
    """
    row, col = direction_weights(direction, symmetric)
    problem.key_scale = key_scale
    by_direction = problem.prefixes is not None or problem.sides is not None  # sums that hold for one scale
    apart = detach_keys or (key_scale is not None and by_direction)
    if row and col and not apart:
        problem.row, problem.col = row, col
        return problem.loss(reduction)
    if row and col and not detach_keys:  # the gradients of both passes meet before they are rounded
        problem = problem.widened()
    parts = []
    if col:
        parts.append(replace(problem.turned(), row=col))
    if row:
        problem.row, problem.key_scale = row, None
        parts.insert(0, problem)
    values = [(x.detached_candidates() if detach_keys else x).loss(reduction) for x in parts]
    return added(values)
