"""Each query against candidates of its own alone: a softmax over them, and the margin form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import Reduction
from ..ops import check, stat_dtype
from ..ranks import GlobalBatch, Group, collective
from .common import REDUCTIONS, cleaned, cross_entropy, inverse, paired_dot, reduced_empty, unit
from .private import Candidates, lists_of, prepared, private_candidates, private_logits, private_sum
from .weights import Counted


@collective
def grouped_info_nce(
    query: Tensor,
    positive: Tensor,
    hard_negatives: Tensor | Candidates,
    *,
    temperature: float | Tensor = 0.07,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    group: Group = None,
) -> Tensor:
    """InfoNCE over each query's own candidates: nothing else in the batch is a negative.

        L_i = log(e^{z_i} + sum_k e^{z_ik}) - z_i
        z_i = <q_i, p_i> / temperature,    z_ik = <q_i, c_ik> / temperature + bias_ik

    Args:
        query, positive: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        hard_negatives: c, (N, K, D), or Candidates: lists of any length, rows of a bank by index, a bias.
        temperature: > 0: a float, a 0-dim tensor, or (N,). Dimensionless; divides the similarity.
        weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over queries, or "none": (N,).
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean is over the queries of
            all ranks; nothing else connects them.

    Returns: float32 (float64 for float64 features), nats. A query without candidates and an empty batch give 0.
    Cost: 6 N K D FLOP forward and backward, O(N K) memory beyond the features. Plain torch.

    Example:
        >>> query, positive = torch.randn(2, 8, 16)
        >>> hard_negatives = torch.randn(8, 10, 16)
        >>> loss = grouped_info_nce(query, positive, hard_negatives, temperature=0.01, normalize=True)

    Source: Hu et al. 2025 (DeGLA), https://arxiv.org/abs/2504.16801, eq. 8 and 9; FG-CLIP 2,
    https://arxiv.org/abs/2510.10921, official code (hard_contrastive_loss).
    """
    found = Grouped.of(query, positive, hard_negatives, temperature, weights, present, normalize, reduction, group)
    if found.batch.total == 0:
        return found.empty(reduction)
    logits, own = found.logits()
    return found.counted.reduced(found.batch, cross_entropy(logits.logsumexp(1), own), reduction)


@collective
def grouped_margin_loss(
    query: Tensor,
    positive: Tensor,
    hard_negatives: Tensor | Candidates,
    *,
    margin: float,
    temperature: float | Tensor = 1.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    group: Group = None,
) -> Tensor:
    """The positive must beat each of the query's own candidates by a margin.

        L_i = mean_k max(0, margin + z_ik - z_i)
        z_i = <q_i, p_i> / temperature,    z_ik = <q_i, c_ik> / temperature + bias_ik

    Args:
        query, positive: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        hard_negatives: c, (N, K, D), or Candidates: lists of any length, rows of a bank by index, a bias. The mean is
            over the candidates that exist.
        margin: A number in units of z, so of the similarity at temperature 1. FG-CLIP 2 sets it to the average lead of
            the positives in the previous step, from 0 to 10.
        temperature: > 0: a float, a 0-dim tensor, or (N,). Divides the similarity.
        weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over queries, or "none": (N,).
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean is over the queries of
            all ranks; nothing else connects them.

    Returns: float32 (float64 for float64 features), in units of z. A query without candidates and an empty batch give
    0. Where a term is 0, so is its gradient.
    Cost: 6 N K D FLOP forward and backward. Plain torch.

    Example:
        >>> query, positive = torch.randn(2, 8, 16)
        >>> hard_negatives = torch.randn(8, 10, 16)
        >>> loss = grouped_margin_loss(query, positive, hard_negatives, margin=0.2, normalize=True)

    Source: FG-CLIP 2, https://arxiv.org/abs/2510.10921, official code (get_cmr_loss).
    """
    found = Grouped.of(query, positive, hard_negatives, temperature, weights, present, normalize, reduction, group)
    lead = check.scalar("margin", margin, device=query.device)
    if found.batch.total == 0:
        return found.empty(reduction)
    logits, own = found.logits()
    behind = F.relu(logits - own.unsqueeze(1) + lead)
    total, count = private_sum(found.private, behind)
    mean = total / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1))
    return found.counted.reduced(found.batch, mean, reduction)


@dataclass
class Grouped:
    """Queries, their positives and their own candidates, checked."""

    query: Tensor
    positive: Tensor
    private: Tensor | Candidates
    scale: float | Tensor
    counted: Counted
    batch: GlobalBatch

    @staticmethod
    def of(
        query: Tensor,
        positive: Tensor,
        private: Tensor | Candidates,
        temperature: float | Tensor,
        weights: Tensor | None,
        present: Tensor | None,
        normalize: bool,
        reduction: Reduction,
        group: Group,
    ) -> Grouped:
        check.choice("reduction", reduction, REDUCTIONS)
        check.same_shape("positive", check.features("positive", positive), "query", check.features("query", query))
        check.same_device("positive", positive, query.device)
        private, n = private_candidates("hard_negatives", private, query), query.shape[0]
        counted = Counted.of(weights, present, query)
        scale = inverse(temperature, query, n, present=counted.present)
        wide = torch.promote_types(stat_dtype(query.dtype), stat_dtype(positive.dtype))
        if isinstance(private, Tensor):
            wide = torch.promote_types(wide, stat_dtype(private.dtype))
        here = counted.present
        query, positive = (unit(cleaned(x, here), normalize).to(wide) for x in (query, positive))
        batch = GlobalBatch.of(group, n, facts=lambda: dict(**counted.facts(), hard_negatives=lists_of(private)))
        return Grouped(query, positive, prepared(private, here, normalize), scale, counted, batch)

    def logits(self) -> tuple[Tensor, Tensor]:
        """(N, K) of the candidates, (N,) of the positives."""
        return private_logits(self.private, self.query, self.scale), self.scale * paired_dot(self.query, self.positive)

    def empty(self, reduction: Reduction) -> Tensor:
        features = self.private.features if isinstance(self.private, Candidates) else self.private
        return reduced_empty(self.batch.n, reduction, self.query, self.positive, features, self.scale)
