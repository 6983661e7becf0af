"""How well queries find what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import Keep, Positives
from ..ops import EngineOptions, check
from ..ops.rules import PerBlock
from ..ranks import GlobalBatch, Group, collective
from ..ranks.agreement import known
from ..retrieval.candidates import Candidates, Gallery, RetrievalScore, count
from .every_place import EveryPlace

EmptyTargetAction: TypeAlias = Literal["skip", "neg", "error"]


@collective
def retrieval_ranks(
    query: Tensor,
    gallery: Gallery,
    *,
    positives: Positives = "same_index",
    empty_target_action: EmptyTargetAction = "skip",
    score: RetrievalScore = "dot",
    keep: Keep = "all",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    row_groups: Tensor | None = None,
    col_groups: PerBlock | None = None,
    row_labels: Tensor | None = None,
    col_labels: PerBlock | None = None,
    partner: Tensor | None = None,
    mask: Tensor | None = None,
    group: Group = None,
) -> RetrievalRanks:
    """The ranks of all positives of every query among its candidates, and from them recall@k, MRR, mAP, and more.

        rank_ip = 1 + #{kept j: s_ij > s_ip} + #{kept j < p: s_ij = s_ip},      p every kept positive of query i

    One call serves all figures of a direction: across modalities with the other modality as gallery, within one with
    gallery=None, where no item is its own candidate.

    Args:
        query: (N, D), not normalized here.
        gallery: (M, D); several tensors are blocks joined in order. None: the queries among themselves, where no item
            is its own candidate. With another score, the tensors (M, D) whose matched rows are the tuples.
        positives: Which columns are right, by tests as in pair_reduce: "same_index" (query i belongs to gallery i),
            "same_id" with ids, "shared_label" with label sets, "partner" with indices, or a tuple of tests. Positives
            that keep drops do not count.
        empty_target_action: What a query without a positive is worth, by torchmetrics' names: "skip" leaves it out of
            all means, as pytorch-metric-learning does; "neg" counts it as 0, as torchmetrics does by default; "error"
            refuses it.
        score: "dot"; or a score that is small for a good match, with its sign changed: "volume", -volume(query_i, x_j,
            y_j, ...) as in gram_volume_matrix; "area", minus the area of the triangle query_i, x_j, y_j;
            "squared_area", -2 area^2, the logit of triangle_loss.
        keep: Which pairs are candidates: "all", a test, or a tuple of tests, as in pair_reduce.
        row_ids, col_ids: (N,), (M,) integers, for "same_id" and "other_id".
        row_groups, col_groups: (N,), (M,) integers, for "same_group" and "other_group".
        row_labels, col_labels: (N, L), (M, L) bool, for "shared_label" and "no_shared_label".
        partner: (N,) or (N, P) integers, columns by index, for "partner" and "no_partner"; -1: none.
        mask: (N, M) bool, True = may be a candidate.
        group: None: this process only. "world", a process group, or distributed.Ranks: query and gallery are this
            rank's share; candidates come from all ranks, and indices count through all ranks.

    Returns: RetrievalRanks. A candidate whose score is NaN ranks ahead of all numbers; a positive whose score is NaN is
    the last of the candidates, a place that all such positives of a query share. No gradient.

    Raises: ValueError, TypeError: what pair_reduce refuses; a query without a positive, with
    empty_target_action="error".

    Cost: 2 N M D FLOP, and again for tiles that hold positives; O(N P + (N + M) D) memory for P positives per query.

    Example:
        >>> image, text = torch.eye(3), torch.eye(3).repeat_interleave(2, 0)  # two texts of every image
        >>> ids = torch.arange(3)
        >>> options = {"positives": "same_id", "row_ids": ids, "col_ids": ids.repeat_interleave(2)}
        >>> found = retrieval_ranks(image, text, **options)
        >>> found.ranks.tolist(), found.recall(1).item(), found.average_precision().item()
        ([[1, 2], [1, 2], [1, 2]], 0.5, 1.0)
    """
    check.choice("empty_target_action", empty_target_action, get_args(EmptyTargetAction))
    if positives in (None, "kept"):
        raise ValueError(f"positives must be tests as 'same_index' or 'same_id', got {positives!r}")
    if gallery is None and "same_index" in (positives if isinstance(positives, tuple) else (positives,)):
        raise ValueError("positives='same_index' needs a gallery: an item is not its own candidate")
    check.features("query", query)
    wanted = Candidates(
        query, gallery, score, keep, row_ids, col_ids, row_groups, col_groups, row_labels, col_labels, partner,
        mask=mask, group=group, positives=positives,
    )  # fmt: skip
    batch = GlobalBatch.of(EngineOptions.of(None, "torch", group).ranks, query.shape[0])
    _, stream = wanted.stream()
    found = EveryPlace(stream.call)
    stream.visit(found.find)
    found.settle()
    stream.visit(found.count)
    ranks = RetrievalRanks(found.places(), empty_target_action, batch)
    empty = int(batch.sum((ranks.positives == 0).sum()))
    if empty and empty_target_action == "error":
        raise known(ValueError(f"each query must have a positive among its candidates, {empty} have none"))
    return ranks


@dataclass(frozen=True, eq=False)
class RetrievalRanks:
    """What `retrieval_ranks` found, and the figures that follow from it.

    The figures are means over the queries, float64 0-dim tensors, NaN if there is no query. With a group they cover all
    ranks, and every rank must ask for them. k is an int >= 1, or one per query, (N,).

    Args:
        ranks: (N, P) int64, rising; 0 after the last positive of a query.
        empty_target_action: What a query without a positive is worth, as given to `retrieval_ranks`.
        batch: The queries of this process or of all ranks.

    Example:
        >>> found = retrieval_ranks(torch.eye(3), torch.eye(3))
        >>> found.hit_rate(1).item(), found.reciprocal_rank().item()
        (1.0, 1.0)

    Source: the definitions of torchmetrics.functional.retrieval and of pytorch-metric-learning's AccuracyCalculator,
    under their names; as reported by Mistretta et al. 2025 (Cross the Gap), https://arxiv.org/abs/2502.04263.
    """

    ranks: Tensor  # (N, P) int64, rising; 0 after the last positive of a query
    empty_target_action: EmptyTargetAction
    batch: GlobalBatch

    @property
    def positives(self) -> Tensor:
        """(N,): how many a query has, R."""
        return (self.ranks > 0).sum(1)

    def hit_rate(self, k: int | Tensor = 1) -> Tensor:
        """The share of queries with a positive among the k best: what image-text retrieval calls R@k, and
        precision_at_1 for k = 1."""
        return self.mean(self.among(k).any(1))

    def recall(self, k: int | Tensor = 1) -> Tensor:
        """The share of a query's positives among its k best."""
        return self.mean(self.hits(k) / self.positives.clamp_min(1))

    def precision(self, k: int | Tensor = 1) -> Tensor:
        """The share of positives among the k best; places that no candidate takes count as wrong."""
        return self.mean(self.hits(k) / self.cut(k)[:, 0].clamp_min(1))

    def r_precision(self) -> Tensor:
        """precision(R): of each query with as many places as it has positives."""
        return self.precision(self.positives)

    def reciprocal_rank(self) -> Tensor:
        """MRR: the mean of one over the rank of the best positive."""
        first = self.ranks[:, :1]
        return self.mean(torch.where(first > 0, 1.0 / first.double(), 0.0).sum(1))

    def average_precision(self, k: int | Tensor | None = None) -> Tensor:
        """mAP; of the k best: sum_{p: rank_p <= k} (place of p among the positives) / rank_p / min(R, k).

        Cross the Gap counts the query itself in its cut-off of AP@R: average_precision(found.positives + 1).
        torchmetrics divides by the number of positives among the k best instead.
        """
        found = self.ranks > 0 if k is None else self.among(k)
        place = torch.arange(1, self.ranks.shape[1] + 1, device=self.ranks.device)
        total = torch.where(found, place / self.ranks.double(), 0.0).sum(1)
        most = self.positives if k is None else torch.minimum(self.positives, self.cut(k)[:, 0])
        return self.mean(total / most.clamp_min(1))

    def average_precision_at_r(self) -> Tensor:
        """mAP@R of Musgrave et al.: average_precision(R)."""
        return self.average_precision(self.positives)

    def cut(self, k: int | Tensor) -> Tensor:
        """(N or 1, 1)."""
        if not isinstance(k, Tensor):
            return self.ranks.new_full((1, 1), count("k", k))
        if k.is_floating_point() or tuple(k.shape) != (self.ranks.shape[0],):
            raise ValueError(f"k must be an int or ({self.ranks.shape[0]},) integers, got {k.dtype}, {tuple(k.shape)}")
        check.condition("k must be >= 0", k >= 0)
        return k.unsqueeze(1)

    def among(self, k: int | Tensor) -> Tensor:
        """(N, P): whether a positive is among the k best."""
        return (self.ranks > 0) & (self.ranks <= self.cut(k))

    def hits(self, k: int | Tensor) -> Tensor:
        return self.among(k).sum(1).double()

    def mean(self, each: Tensor) -> Tensor:
        """Over queries that count. Without positives `each` is 0."""
        counted = torch.ones_like(self.positives) if self.empty_target_action == "neg" else self.positives > 0
        total, number = self.batch.sum(torch.stack([each.double().sum(), counted.double().sum()])).unbind()
        return total / number


def mean_rank_variance(ranks: Tensor) -> Tensor:
    """MRV: how much the rank of an item depends on the language of the query.

        mean_i mean_k (rank_ik - mean_k rank_ik)^2

    Args:
        ranks: (N, K) integers >= 1, of item i in language k, as `retrieval.ranks` gives them for queries (N K, D).

    Returns: A float64 0-dim tensor.

    Example:
        >>> mean_rank_variance(torch.tensor([[1, 3], [2, 2]])).item()
        0.5

    Source: Nie et al. 2024 (1-to-K), https://arxiv.org/abs/2406.18254, section 3.3; its code does not have it.
    """
    if check.tensor("ranks", ranks).dim() != 2 or ranks.is_floating_point():
        raise ValueError(f"ranks must be (N, K) integers, got {ranks.dtype}, shape {tuple(ranks.shape)}")
    check.condition("ranks must be >= 1: there is none without a positive", ranks >= 1)
    return ranks.double().var(1, correction=0).mean()
