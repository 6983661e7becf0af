"""Debiased contrastive losses: the class prior tau_plus corrects for negatives that are positives in truth."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, pair_stats
from ..ranks import GlobalBatch, Group, collective
from .common import (
    at_least_one,
    engine_options,
    feature_pair,
    inverse,
    like_statistics,
    log_count,
    reduced_empty,
    upcast,
)
from .soft_targets import widened
from .two_views import two_views
from .weights import Counted, keep_present


@collective
def debiased_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    hardness: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Debiased InfoNCE with the other keys of the batch as negatives (K = N - 1 per query).

        g_i = max( (sum_{j != i} e^{z_ij} - K tau_plus e^{z_ii}) / (1 - tau_plus),  K e^{-1 / temperature} )
        L_i = -log( e^{z_ii} / (e^{z_ii} + g_i) ),      z_ij = <q_i, k_j> / temperature

    hardness=beta weights the negatives by how hard they are (HCL). Their sum becomes

        K sum_{j != i} w_ij e^{z_ij} / sum_{j != i} w_ij,      w_ij = e^{beta z_ij}

    Everything is evaluated in logs, so a temperature of 0.005 neither overflows nor loses the correction.

    Args:
        query, key: Pairs, (N, D), unit rows (the floor e^{-1/temperature} assumes them), or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        tau_plus: Probability that a negative shares the query's class, in [0, 1). 0 gives InfoNCE, except for the
            floor.
        hardness: beta >= 0, a number. Gradients flow through the weights, as in the official code.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is not a candidate; K counts the pairs
            that are present.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over rows, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. A single pair has no negative and gives 0.
    Cost: 8 N^2 D FLOP forward and backward, 16 with hardness.

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> loss = debiased_info_nce(query, key, tau_plus=0.1, normalize=True)

    Source: Chuang et al. 2020, https://arxiv.org/abs/2007.00224, eq. 7 and 8. hardness: Robinson et al. 2021,
    https://arxiv.org/abs/2010.04592.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("query", query))
    query, key = feature_pair("query", query, "key", key, normalize, counted.present)
    prior, scale, n = class_prior(tau_plus), inverse(temperature, query), query.shape[0]
    beta = hard_exponent(hardness)
    batch = GlobalBatch.of(engine.ranks, n, facts=counted.facts)
    if batch.total <= 1:
        return reduced_empty(n, reduction, query, key, scale)
    if beta:
        query, key = widened(engine, query, key)
    pairs = Pairs(query, key, scale, keep="other_index", positives="same_index")
    keep_present(pairs, counted.present, [counted.present])
    count = counted.count(batch) - 1
    negative, positive = negatives_and_positive(pairs, scale, beta, count, engine)
    rows = debiased_rows(counted, negative, positive, count, prior, scale)
    return counted.reduced(batch, rows, reduction, least=2)


@collective
def debiased_nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    hardness: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Debiased SimCLR as the official code computes it: 2N rows, K = 2N - 2 negatives from both views.

        g_i = max( (sum_j e^{z_ij} - K tau_plus e^{z_ip(i)}) / (1 - tau_plus),  K e^{-1 / temperature} )
        L_i = -log( e^{z_ip(i)} / (e^{z_ip(i)} + g_i) ),    z_ij = <x_i, x_j> / temperature,   x = [z1; z2]

    j runs over the views of other instances; p(i) is the other view of i's instance. hardness=beta weights the
    negatives as in `debiased_info_nce`.

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        tau_plus: Probability that a negative shares the row's class, in [0, 1). 0 gives NT-Xent, except for the floor.
        hardness: beta >= 0, a number. Gradients flow through the weights, as in the official code.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. An instance with a missing view (False) takes no part and is not a candidate; K counts the
            instances that are present.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. A single instance has no negative and gives 0.
    Cost: 4 (2N)^2 D FLOP forward and backward.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = debiased_nt_xent(z1, z2, tau_plus=0.1, normalize=True)

    Source: Chuang et al. 2020, https://arxiv.org/abs/2007.00224; official code, main.py (debiased, estimator "easy").
    hardness: Robinson et al. 2021, https://arxiv.org/abs/2010.04592, official code, image/main.py (estimator "hard").
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    prior, beta = class_prior(tau_plus), hard_exponent(hardness)
    views = two_views(z1, z2, normalize, engine, weights, present)
    scale, batch = inverse(temperature, views.x), views.batch
    if batch.total <= 1:
        return reduced_empty(views.size, reduction, views.x, scale)
    if beta:
        engine.compute_dtype, views.x = views.x.dtype, upcast(views.x)
    counted = views.counted
    count = 2 * (counted.count(batch) - 1)
    negative, positive = negatives_and_positive(views.pairs(scale), scale, beta, count, engine)
    rows = debiased_rows(counted, negative, positive, count, prior, scale)
    return counted.reduced(batch, rows, reduction, least=2)


def negatives_and_positive(
    pairs: Pairs, scale: float | Tensor, beta: float, count: int | Tensor, engine: EngineOptions
) -> tuple[Tensor, Tensor]:
    """Of every row, the logarithm of what stands for the sum of its `count` negatives, and the positive logit.

    The weights' sum is a pass of its own: the difference of two log-sum-exps, in float64 until it is taken.
    """
    if not beta:
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        return stats.rows, stats.row_positives
    engine.exact_stats = True
    hard = pair_stats(replace(pairs, scale=(1.0 + beta) * scale), engine)
    weights = pair_stats(replace(pairs, scale=beta * scale, positives=None), engine)
    assert hard.row_positives is not None
    every = log_count(at_least_one(count), hard.rows)
    negative, positive = hard.rows - weights.rows + every, hard.row_positives / (1.0 + beta)
    return like_statistics(negative, pairs.a), like_statistics(positive, pairs.a)


def debiased_rows(
    counted: Counted, negative: Tensor, positive: Tensor, count: int | Tensor, prior: float, scale: float | Tensor
) -> Tensor:
    """L_i from the log-sum-exp of the `count` negatives and the positive logit, with everything divided by e^positive.
    Rows of items that are missing are anything finite."""
    if counted.present is not None and isinstance(count, Tensor):
        there = counted.present.repeat(negative.shape[0] // max(counted.present.shape[0], 1))
        negative = torch.where(there & (negative != -torch.inf), negative, 0.0)
        count = like_statistics(count.clamp_min(1), negative)
    ratio = negative - positive  # log of (sum over negatives / positive)
    removed = count * prior * torch.exp(-ratio.clamp_min(-80.0))
    # a ratio that is NaN stays
    corrected = torch.where(removed >= 1.0, -torch.inf, ratio + torch.log1p(-removed.clamp_max(1.0 - 1e-7)))
    floor = log_count(count, positive) - scale - positive
    rest = corrected.new_full((), -prior).log1p()  # math.log1p would bind a graph to one value of a size
    return F.softplus(torch.maximum(corrected - rest, floor))


def hard_exponent(hardness: float) -> float:
    value = check.scalar("hardness", hardness)
    if isinstance(value, Tensor) or value < 0.0:
        raise ValueError(f"hardness must be a number >= 0, got {hardness}")
    return value


def class_prior(tau_plus: float) -> float:
    value = check.scalar("tau_plus", tau_plus)
    if isinstance(value, Tensor) or not 0.0 <= value < 1.0:
        raise ValueError(f"tau_plus must be a number in [0, 1), got {tau_plus}")
    return value
