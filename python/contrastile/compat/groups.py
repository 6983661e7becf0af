"""Passages in groups, one group for each query: the batch that trainers of retrieval models make.

    queries (N, D), passages (N g, D):   passage g i is query i's own, the g - 1 after it are its hard negatives

All passages are candidates of all queries. Other layouts say which passage is a query's own by its index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..losses.common import REDUCTIONS, inverse, paired_dot, private_dots, reduced_empty, upcast
from ..ops import EngineOptions, Pairs, Weights, check, log_add, pair_stats, softplus, weighted_sum
from ..ranks import GlobalBatch, Group, Ranks, collective, given
from .common import autocast_features, gradient_scaled
from .ranks import mean_value


@dataclass
class Grouped:
    """One problem of this rank's queries against the passages of all ranks."""

    queries: Tensor  # (N, D)
    passages: Tensor  # (M, D), this rank's
    own: Tensor  # (N,) which of those of all ranks is each query's own
    scale: float
    batch: GlobalBatch  # of queries
    columns: GlobalBatch  # of passages
    engine: EngineOptions
    ids: Tensor | None = None  # (M,) another passage with the id of a query's own is no candidate of it
    blocks: list[Tensor] | None = None  # passages of all ranks, where they have been gathered

    @staticmethod
    def of(
        queries: Tensor, passages: Tensor, own: Tensor | None, scale: float, memory_budget: int | None,
        backend: BackendName, group: Group, *, names: tuple[str, str] = ("queries", "passages"),
        size: int | None = None, ids: Tensor | None = None, jointly: bool = False,
    ) -> Grouped:  # fmt: skip
        """own: None: the first of every group; jointly: of the queries of all ranks, among the passages of all. size:
        passages there must be for each query. names: of queries and passages, in errors."""
        engine = EngineOptions.of(memory_budget, backend, group)
        found = group_size(queries, passages, names, own is not None)
        n, m = queries.shape[0], passages.shape[0]
        if size not in (None, found) and n and own is None:
            raise ValueError(f"{names[1]} must have {size} rows for each of {names[0]}, got {found}")
        if ids is not None:
            ids = check.ids("passage_doc_ids", ids, m, queries.device)
        batch, columns = GlobalBatch.several(engine.ranks, [n, m], lambda: dict(target=given(own), ids=given(ids)))
        if own is None:
            own = columns.offset + found * torch.arange(n, device=queries.device)
        else:
            first, given_for, among = (0, batch.total, columns.total) if jointly else (columns.offset, n, m)
            own = check.ids("target", own, given_for, queries.device)
            check.condition(f"target must lie in [0, {among})", (own >= 0) & (own < among))
            own = first + (own[batch.offset : batch.offset + n] if jointly else own)
        queries, passages = autocast_features(queries, passages)
        return Grouped(queries, passages, own, scale, batch, columns, engine, ids)

    def with_others_fixed(self) -> Grouped:
        """Passages of other ranks without gradient."""
        if self.columns.ranks is None:
            return self
        every, here = self.columns.gather(self.passages.detach()), self.columns.offset
        blocks = [every[:here], self.passages, every[here + self.columns.n :]]
        return replace(self, blocks=blocks, engine=replace(self.engine, ranks=None))

    def of_all(self) -> Grouped:
        """For trainers in which every rank gathers all rows without gradient and puts its own in: the gradient is that
        of the loss of the global batch, where it would be W times that."""
        if self.batch.ranks is None:
            return self
        queries, passages = (gradient_scaled(x, 1.0 / self.batch.ranks.size) for x in (self.queries, self.passages))
        return replace(self, queries=queries, passages=passages)

    def candidates(self, rows: Tensor | None = None, high: Tensor | None = None) -> Pairs:
        """Each query, or another row in its place, against all passages but its query's own. high: logits above it are
        left out."""
        pairs = Pairs(
            self.queries if rows is None else rows, self.passages if self.blocks is None else self.blocks, self.scale,
            keep="no_partner", positives="partner", partner=self.own, row_high=high,
        )  # fmt: skip
        if self.ids is not None:
            pairs.keep, pairs.row_ids = ("no_partner", "other_id"), self.ids[self.own - self.columns.offset]
            pairs.col_ids = self.ids if self.blocks is None else self.columns.gather(self.ids)
        return pairs

    def loss(self, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy of each query's own passage among all."""
        if self.batch.total == 0:
            return reduced_empty(0, reduction, self.queries, self.passages)
        if reduction == "none":
            stats = pair_stats(self.candidates(), self.engine)
            assert stats.row_positives is not None
            return softplus(stats.rows - stats.row_positives)
        weights = Weights(self.batch.weight(reduction), cross_entropy=True)
        return weighted_sum(self.candidates(), weights, self.engine)

    def in_turn(self, size: int, share: Tensor) -> Tensor:
        """Cross-entropies of each passage of a group against those after it and those of other groups, weighed by share
        (N, g): (N,)."""
        rule = Pairs(
            self.queries, self.passages, self.scale, keep="no_partner",
            partner=self.own[:, None] + torch.arange(size, device=self.own.device),
        )  # fmt: skip
        others, own = pair_stats(rule, self.engine).rows, own_logits(self.queries, self.passages, size, self.scale)
        after = own.flip(1).logcumsumexp(1).flip(1)
        return (share * (log_add(others[:, None], after) - own)).sum(1)

    def limit(self, margin: float) -> Tensor:
        """The logit above which a candidate is taken for another positive: that of the own passage and a margin."""
        return self.scale * (paired_dot(self.queries.detach(), self.own_passages().detach()) + margin)

    def own_passages(self) -> Tensor:
        """(N, D), where they are on this rank."""
        return self.passages.index_select(0, self.own - self.columns.offset)


def group_size(queries: Tensor, passages: Tensor, names: tuple[str, str], any_number: bool = False) -> int:
    """How many passages each query has; both are looked at."""
    first, second = names
    check.same_width(second, check.features(second, passages), first, check.features(first, queries))
    check.same_device(second, passages, queries.device)
    n, m = queries.shape[0], passages.shape[0]
    if any_number:
        return 0
    if (m and (n == 0 or m % n)) or m < n:
        raise ValueError(f"{second} must have as many rows, one or more, for each of {n} {first}, got {m}")
    return m // max(n, 1)


def own_logits(queries: Tensor, passages: Tensor, size: int, scale: float) -> Tensor:
    """(N, g): each query with its own group."""
    queries, passages = (upcast(x) for x in autocast_features(queries, passages))
    return scale * private_dots(queries, passages.reshape(queries.shape[0], size, passages.shape[1]))


@collective
def contrast(
    queries: Tensor,
    passages: Tensor,
    own: Tensor | None = None,
    *,
    scale: float = 1.0,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Ranks | None = None,
    **layout: Any,
) -> Tensor:
    """Cross-entropy of each query's own passage among all; with ranks as in Grouped.of_all. own, layout: Grouped.of."""
    check.choice("reduction", reduction, REDUCTIONS)
    if reduction == "none" and group is not None:
        raise ValueError("reduction must be 'mean' or 'sum' across processes, got 'none'")
    problem = Grouped.of(queries, passages, own, scale, memory_budget, backend, group, **layout)
    return mean_value(problem.of_all().loss(reduction), group)


def inverse_number(temperature: float, like: Tensor) -> float:
    """1 / temperature of packages that never learn it."""
    scale = inverse(temperature, like)
    if isinstance(scale, Tensor):
        raise TypeError("temperature must be a number, got a torch.Tensor: it has no gradient here")
    return scale
