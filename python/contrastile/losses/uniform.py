"""Uniformity and alignment: the two properties a contrastive loss trades."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, pair_stats, softplus
from ..ranks import GlobalBatch, Group, collective, given
from .common import (
    REDUCTIONS,
    at_least_one,
    cleaned,
    distance_origin,
    engine_options,
    feature_pair,
    like_statistics,
    log_count,
    reduced_empty,
    unit,
    upcast,
    zero,
)
from .weights import Counted, keep_present


@collective
def uniformity(
    x: Tensor,
    y: Tensor | None = None,
    *,
    t: float | Tensor = 2.0,
    present: Tensor | None = None,
    normalize: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Uniformity: the logarithm of the mean Gaussian potential over pairs of different items.

        L = log mean_{i < j} e^{-t |x_i - x_j|^2},        with y:  L = log mean_{i != j} e^{-t |x_i - y_j|^2}

    Args:
        x, y: (N, D). They are normalized only with normalize=True and need not be unit. An exponent -t |x - y|^2 comes
            from a dot product and norms, with an error up to t (|x|^2 + |y|^2) 2^-22 (float64: 2^-51).
        t: > 0, an inverse squared length; a float or a 0-dim tensor.
        present: (N,) bool: the mean covers pairs of items that are present (with y, items with both x and y). The
            features of others may hold anything and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats, <= 0 except for that rounding. Fewer than two items give 0.
    Cost: 4 N^2 D FLOP forward and backward (with y 8).

    Example:
        >>> x = torch.randn(8, 16)
        >>> spread = uniformity(x, normalize=True)

    Source: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, eq. 4; the cross form: the contrastive-gap paper's
    L_XU.
    """
    engine = EngineOptions.of(memory_budget, backend, group)
    counted = Counted.of(None, present, check.features("x", x))
    if y is None:
        x = unit(cleaned(x, counted.present), normalize)
    else:
        x, y = feature_pair("x", x, "y", y, normalize, counted.present)
    scale = check.scalar("t", t, positive=True, device=x.device)
    batch = GlobalBatch.of(engine.ranks, x.shape[0], facts=lambda: dict(**counted.facts(), y=given(y)))
    if batch.total < 2:
        return zero(x, y, scale)
    engine.compute_dtype = x.dtype
    return log_potential(upcast(x), None if y is None else upcast(y), scale, batch, engine, counted)


def log_potential(
    x: Tensor,
    y: Tensor | None,
    t: float | Tensor,
    batch: GlobalBatch,
    engine: EngineOptions,
    counted: Counted,
) -> Tensor:
    """`uniformity` of at least two items, of widened features: the two parts of a distance's gradient must cancel
    before they are rounded."""
    return counted.log_mean(log_potentials(x, y, t, batch, engine, counted), batch).to(x.dtype)


def log_potentials(
    x: Tensor,
    y: Tensor | None,
    t: float | Tensor,
    batch: GlobalBatch,
    engine: EngineOptions,
    counted: Counted,
) -> Tensor:
    """log sum_{j != i} e^{-t |x_i - y_j|^2} of every row, in float64."""
    origin, engine.exact_stats = distance_origin(x, batch, engine), True
    x, y = x - origin, None if y is None else y - origin
    row_bias = -t * x.square().sum(1)
    col_bias = row_bias if y is None else -t * y.square().sum(1)
    pairs = Pairs(x, y, 2.0 * t, row_bias=row_bias, col_bias=col_bias, keep="other_index")
    keep_present(pairs, counted.present, [] if y is None else [counted.present])
    return pair_stats(pairs, engine).rows


@collective
def joint_entropy(
    x: Tensor,
    *,
    t: float | Tensor = 1.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Joint entropy, estimated with kernels, with the opposite sign: minimizing it spreads the points (SepCLR's k-JEM).

        L_i = log( 1/N sum_j e^{-t |x_i - x_j|^2} ),    j = i too

    For several parts, x = torch.cat([c, s], dim=1): the product of their kernels is the kernel of their joint points,
    and a large joint entropy leaves them little mutual information.

    Args:
        x: (N, D). It is normalized only with normalize=True. Exponents round like those of `uniformity`; a pair of a
            point with itself is exact.
        t: > 0, an inverse squared length; a float or a 0-dim tensor. SepCLR's tau is 1 / (2 t).
        weights: (N,) >= 0, no gradient. The weight of each point: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool: N and the sum cover the points that are present. The features of others may hold anything
            and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over points, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats, from -log N to 0.
    Cost: 4 N^2 D FLOP forward and backward.

    Example:
        >>> common, salient = torch.randn(2, 8, 16)
        >>> x = torch.cat([common, salient], dim=1)
        >>> loss = joint_entropy(x)

    Source: Louiset et al. 2024 (SepCLR), https://arxiv.org/abs/2402.11928; its joint_entropy_loss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("x", x))
    x = unit(cleaned(x, counted.present), normalize)
    scale = check.scalar("t", t, positive=True, device=x.device)
    batch = GlobalBatch.of(engine.ranks, x.shape[0], facts=counted.facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, scale)
    engine.compute_dtype, x = x.dtype, upcast(x)
    others = log_potentials(x, None, scale, batch, engine, counted)
    if counted.present is not None:
        others = torch.where(counted.present, others, 0.0)
    rows = softplus(others) - log_count(at_least_one(counted.count(batch)), others)
    return counted.reduced(batch, like_statistics(rows, x), reduction)


@collective
def alignment(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float = 2.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    group: Group = None,
) -> Tensor:
    """Alignment: the mean distance of positive pairs, to the power alpha.

        L = mean_i |x_i - y_i|^alpha

    Args:
        x, y: (N, D), pairs. They are normalized only with normalize=True.
        alpha: >= 1: below 1 the gradient at distance 0 would be infinite. From 1 on it is 0 there.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the pairs of all
            ranks. Only matched rows are compared, so there is no backend and no memory_budget to choose.

    Returns: float32 (float64 for float64 features), >= 0. An empty batch gives 0.
    Cost: O(N D).

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> closeness = alignment(x, y, normalize=True)

    Source: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, eq. 3.
    """
    check.choice("reduction", reduction, REDUCTIONS)
    power = check.scalar("alpha", alpha)
    if isinstance(power, Tensor) or power < 1.0:
        got = f"a tensor on {power.device}" if isinstance(power, Tensor) else alpha
        raise ValueError(f"alpha must be a number >= 1, got {got}")
    counted = Counted.of(weights, present, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize, counted.present)
    batch = GlobalBatch.of(group, x.shape[0], facts=counted.facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y)
    distance: Tensor = torch.linalg.vector_norm(upcast(x) - upcast(y), dim=1)
    return counted.reduced(batch, distance.pow(power), reduction)
