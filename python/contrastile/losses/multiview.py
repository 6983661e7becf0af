"""Losses over any number of views of the same instances: MV-InfoNCE, MV-DHEL, poly-view contrast, view pairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, small_sum
from ..ranks import Group, collective
from .common import cleaned, engine_options, inverse, reduced_empty, upcast
from .decoupled import view_energy
from .views import ViewBatch, Views, other_instances, other_instances_across, stacked

Denominator: TypeAlias = Literal["all", "cross_view"]
Aggregation: TypeAlias = Literal["geometric", "arithmetic"]
Mode: TypeAlias = Literal["pairwise", "average"]


@collective
def mv_infonce(
    views: Views,
    *,
    temperature: float | Tensor = 0.5,
    negatives: Denominator = "all",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """MV-InfoNCE: one softmax per instance, all pairs of its views against all pairs with other instances.

        L_i = log(P_i + R_i) - log P_i,      s(x, y) = <x, y> / temperature
        P_i = sum_{l != m} e^{s(u_li, u_mi)},      R_i = sum_l sum_m sum_{j != i} e^{s(u_li, u_mj)}

    Everything is evaluated in logs. Positives meet the negatives in one logistic function, so neither a loss near 0 nor
    its gradient is the difference of two large numbers.

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
            normalize=True. Types of a list promote as in torch.
        temperature: > 0, a float or a 0-dim tensor with gradient. Published runs use 0.5 (ImageNet-1k 0.1).
        negatives: "all": m runs over all views, as in the official code. "cross_view": m != l, as in the formula of the
            paper and of the code's README.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (k, N) bool, the views each instance has: all sums cover these. Instances with fewer than two views
            take no part. Missing features may hold anything and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats, >= 0. One instance has no negative and gives 0.
    Cost: "all" 4 (kN)^2 D FLOP forward and backward (each unordered pair once), "cross_view" 4 k (k - 1) N^2 D.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> loss = mv_infonce(views, temperature=0.5, normalize=True)

    Source: Koromilas et al. 2025, https://arxiv.org/abs/2507.06979; official code pakoromilas/Multi-View-CL, MVINFONCE,
    which forms e^s and overflows in float32 below a temperature of 1/88.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("negatives", negatives, get_args(Denominator))
    every = ViewBatch.of(views, weights, present, normalize, engine)
    scale, batch = inverse(temperature, every.x), every.batch
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, every.x, scale)
    if (
        negatives == "all"
        and reduction != "none"
        and (value := small_set_loss(every, scale, reduction, engine)) is not None
    ):
        return value
    # the gradients of positives and of negatives meet in float32 and are rounded once
    engine.compute_dtype, every.x = every.x.dtype, upcast(every.x)
    others = (other_instances if negatives == "all" else other_instances_across)(every, scale, engine)
    positive = every.pairs(scale).logsumexp((1, 2))
    return every.counted.reduced(batch, -F.logsigmoid(positive - others.logsumexp(0)), reduction)


def small_set_loss(
    every: ViewBatch, scale: float | Tensor, reduction: Reduction, engine: EngineOptions
) -> Tensor | None:
    """mv_infonce of few instances at once; None: they are many, or views are missing."""
    if every.present is not None or not check.plain(every.x):  # a weight would bind a graph to sizes
        return None
    k = every.x.shape[0]
    ids = every.batch.index(every.x.device).repeat(k)
    pairs = Pairs(every.x.flatten(0, 1), scale=scale, keep="other_index", positives="same_id", row_ids=ids, split=True)
    weight = every.counted.weight(every.batch, reduction, every.x[0])
    return small_sum(pairs, Weights(weight.repeat(k) if isinstance(weight, Tensor) else weight), engine, sets=k)


@collective
def mv_dhel(
    views: Views,
    *,
    temperature: float | Tensor = 0.5,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """MV-DHEL: the views of an instance attract each other; instances repel each other within every view.

        L_i = sum_l log sum_{j != i} e^{s(u_li, u_lj)} - log sum_{l < m} e^{s(u_li, u_mi)}
        s(x, y) = <x, y> / temperature

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
            normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. The official class defaults to 0.2.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (k, N) bool, the views each instance has. Instances with fewer than two views take no part. A view that
            no other instance has adds nothing to the first sum. Missing features may hold anything and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats; can be negative. One instance leaves the first sum empty and
    gives 0.
    Cost: 4 k N^2 D FLOP forward and backward: k separate N x N problems, each unordered pair once; 3 k where the scores
    fit memory_budget.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> loss = mv_dhel(views, temperature=0.5, normalize=True)

    Source: Koromilas et al. 2025, https://arxiv.org/abs/2507.06979; official code pakoromilas/Multi-View-CL, MVDHEL,
    which multiplies the k sums of e^s and so overflows with many views or a low temperature. Its README sums over l !=
    m, which is log 2 less, and over all j, where the code drops j = i.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    every = ViewBatch.of(views, weights, present, normalize, engine)
    scale, batch = inverse(temperature, every.x), every.batch
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, every.x, scale)
    engine.compute_dtype, every.x = every.x.dtype, upcast(every.x)
    energy = view_energy(every.x.unbind(), scale, reduction, batch, engine, every.counted, every.present)
    return energy - every.counted.reduced(batch, every.pairs(scale, once=True).logsumexp((1, 2)), reduction)


@collective
def pvc(
    views: Views,
    *,
    temperature: float | Tensor = 0.2,
    aggregation: Aggregation = "geometric",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Poly-view contrast: every view must find each other view of its instance among all views of other instances.

        p_ilm = e^{s(u_li, u_mi)} / ( e^{s(u_li, u_mi)} + sum_{j != i} sum_g e^{s(u_li, u_gj)} )
        s(x, y) = <x, y> / temperature
        geometric:   L_i = -mean_l mean_{m != l} log p_ilm
        arithmetic:  L_i = -mean_l log mean_{m != l} p_ilm

    A positive competes with negatives only, never with other positives. With two views both forms are the same.

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
            normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        aggregation: "geometric" | "arithmetic": where the mean over the other views is taken.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (k, N) bool, the views each instance has; the means over l and m cover these. Instances with fewer than
            two views take no part. Missing features may hold anything and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats, >= 0. One instance has no negative and gives 0.
    Cost: 4 (kN)^2 D FLOP forward and backward.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> loss = pvc(views, temperature=0.2, normalize=True)

    Source: Shidani et al. 2024, https://arxiv.org/abs/2403.05490; official code of Multi-View-CL (pakoromilas),
    PVCLoss. The "arithmetic" branch of that code is not the paper's: it takes the log-sum-exp of the losses -log p,
    already averaged over the batch, so that it rises where the paper's form falls, and subtracts the logarithm of the
    batch size.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("aggregation", aggregation, get_args(Aggregation))
    every = ViewBatch.of(views, weights, present, normalize, engine)
    scale, batch, k = inverse(temperature, every.x), every.batch, every.x.shape[0]
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, every.x, scale)
    engine.compute_dtype, every.x = every.x.dtype, upcast(every.x)
    others = other_instances(every, scale, engine)
    dropped = torch.eye(k, dtype=torch.bool, device=others.device)
    count: int | Tensor = k  # of the views of an instance
    if every.present is not None:
        here = every.present.t()
        others, count = cleaned(others, every.present), here.sum(1, keepdim=True).clamp_min(2)
        dropped = dropped | ~(here[:, :, None] & here[:, None])
    log_p = F.logsigmoid(every.pairs(scale) - others.t().unsqueeze(2))  # -inf on the diagonal
    if every.present is not None:
        log_p = cleaned(log_p, here)
    if aggregation == "arithmetic":
        over_views = log_mean(log_p, dropped, count - 1)
    else:
        over_views = log_p.masked_fill(dropped, 0.0).sum(2) / (count - 1)
    return every.counted.reduced(batch, -over_views.sum(1, keepdim=True).div(count).squeeze(1), reduction)


def log_mean(log_p: Tensor, dropped: Tensor, count: int | Tensor) -> Tensor:
    """log of the mean of e^log_p over the last dimension less the dropped elements, `count` of them, exact also where
    log_p is near 0."""
    top = log_p.detach().amax(-1, keepdim=True)  # any constant will do; this one keeps log1p away from -1
    excess = torch.expm1(log_p - top).masked_fill(dropped, 0.0).sum(-1) / count
    return top.squeeze(-1) + excess.log1p()


def pairwise_aggregate(views: Views, loss: Callable[..., Tensor], *, mode: Mode = "pairwise", **options: Any) -> Tensor:
    """Extends a loss of two views to k views by its mean over pairs of views.

        "pairwise":  L = mean_{l < m} loss(view_l, view_m)
        "average":   L = mean_l loss(view_l, mean_{m != l} view_m)

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D). Normalize them first. The
            mean of views is formed in float32, rounded to the views' type, and not normalized again, as in the official
            NTXent; the official MVDHEL normalizes it, which you get with normalize=True among the options.
        loss: A function of two (N, D) batches, or its module, such as contrastile.nt_xent or contrastile.dhel. The
            order of arguments matters for losses with one direction.
        mode: "pairwise": k (k - 1) / 2 calls ("PWE"). "average": k calls ("AVG").
        options: Passed to loss. With reduction="none" rows of the same index are averaged.

    Returns: What loss returns. With two views, "pairwise" is loss(view_0, view_1).

    Example:
        >>> views = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=2)
        >>> loss = pairwise_aggregate(views, nt_xent, temperature=0.5)

    Source: Baselines of Koromilas et al. 2025, https://arxiv.org/abs/2507.06979; official code
    pakoromilas/Multi-View-CL, NTXent.loss_pwe, NTXent.loss_avg.
    """
    check.choice("mode", mode, get_args(Mode))
    if not callable(loss):
        raise TypeError(f"loss must be a function of two batches or its module, got {type(loss).__name__}")
    x = stacked(views)
    k = x.shape[0]
    if mode == "pairwise":
        values = [loss(x[i], x[j], **options) for i, j in combinations(range(k), 2)]
    else:
        others = [torch.cat([upcast(x[:i]), upcast(x[i + 1 :])]).mean(0).to(x.dtype) for i in range(k)]
        values = [loss(x[i], other, **options) for i, other in enumerate(others)]
    return torch.stack(values).mean(0)
