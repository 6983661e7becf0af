"""Debiased contrastive losses: the class prior tau_plus corrects for negatives that are positives in truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import Pairs, check, pair_stats
from ..ranks import GlobalBatch, Group, collective
from .common import engine_options, feature_pair, inverse, log_count, reduced_empty
from .two_views import two_views


@collective
def debiased_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Debiased InfoNCE with the other keys of the batch as negatives (K = N - 1 per query).

        g_i = max( (sum_{j != i} e^{z_ij} - K tau_plus e^{z_ii}) / (1 - tau_plus),  K e^{-1 / temperature} )
        L_i = -log( e^{z_ii} / (e^{z_ii} + g_i) ),      z_ij = <q_i, k_j> / temperature

    Everything is evaluated in logs, so a temperature of 0.005 neither overflows nor loses the correction.

    Args:
        query, key: Pairs, (N, D), unit rows expected (the floor e^{-1/temperature} assumes it), or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        tau_plus: Probability that a negative shares the query's class, in [0, 1). 0 gives InfoNCE but for the floor.
        reduction: "mean" | "sum" over rows, or "none": (N,). A single pair has no negative: loss 0.

    Source: Chuang et al. 2020, arXiv 2007.00224, eq. 7 and 8.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    query, key = feature_pair("query", query, "key", key, normalize)
    prior, scale, n = class_prior(tau_plus), inverse(temperature, query), query.shape[0]
    batch = GlobalBatch.of(engine.ranks, n)
    if batch.total <= 1:
        return reduced_empty(n, reduction, query, key, scale)
    stats = pair_stats(Pairs(query, key, scale, keep="other_index", positives="same_index"), engine)
    assert stats.row_positives is not None
    return batch.reduced(debiased_rows(stats.rows, stats.row_positives, batch.total - 1, prior, scale), reduction)


@collective
def debiased_nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Debiased SimCLR as the official code computes it: 2N rows, K = 2N - 2 negatives from both views.

    Formula and arguments as in debiased_info_nce with x = [z1; z2]; "none" gives (2N,), z1's rows first.

    Source: Chuang et al. 2020, arXiv 2007.00224; official code, main.py (debiased, estimator "easy").
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    prior = class_prior(tau_plus)
    views = two_views(z1, z2, normalize, engine)
    x, batch = views.x, views.batch
    scale, n = inverse(temperature, x), 2 * batch.total
    if n <= 2:
        return reduced_empty(x.shape[0], reduction, x, scale)
    stats = pair_stats(views.pairs(scale), engine)
    assert stats.row_positives is not None
    return batch.reduced(debiased_rows(stats.rows, stats.row_positives, n - 2, prior, scale), reduction)


def debiased_rows(negative: Tensor, positive: Tensor, count: int, prior: float, scale: float | Tensor) -> Tensor:
    """L_i from the log-sum-exp of the negatives and the positive logit, with everything divided by e^positive."""
    ratio = negative - positive  # log of (sum over negatives / positive)
    removed = count * prior * torch.exp(-ratio.clamp_min(-80.0))
    corrected = torch.where(removed < 1.0, ratio + torch.log1p(-removed.clamp_max(1.0 - 1e-7)), -torch.inf)
    floor = log_count(count, positive) - scale - positive
    rest = corrected.new_full((), -prior).log1p()  # math.log1p would bind a graph to one value of a size
    return F.softplus(torch.maximum(corrected - rest, floor))


def class_prior(tau_plus: float) -> float:
    value = check.scalar("tau_plus", tau_plus)
    if isinstance(value, Tensor) or not 0.0 <= value < 1.0:
        raise ValueError(f"tau_plus must be a number in [0, 1), got {tau_plus}")
    return value
