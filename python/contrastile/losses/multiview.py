"""Losses over any number of views of the same instances: MV-InfoNCE, MV-DHEL, poly-view contrast, view pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, matmul, no_autocast, pair_stats
from ..ranks import GlobalBatch, Group, collective
from .common import engine_options, feature_batches, inverse, reduced_empty, unit, upcast
from .decoupled import view_energy

Denominator: TypeAlias = Literal["all", "cross_view"]
Aggregation: TypeAlias = Literal["geometric", "arithmetic"]
Mode: TypeAlias = Literal["pairwise", "average"]

Views = Tensor | Sequence[Tensor]


def stacked(views: Views, normalize: bool = False, name: str = "views", least: int = 2) -> Tensor:
    """Views as one (k, N, D) tensor, k >= least, checked; a list is promoted to one type."""
    if isinstance(views, (list, tuple)):
        batches = feature_batches(name, views, normalize, least)
        with no_autocast(batches[0]):  # in a float16 region, torch.stack refuses bfloat16
            return torch.stack(batches)
    x = check.tensor(name, views, "a torch.Tensor (k, N, D) or a list of (N, D)")
    if x.dim() != 3:
        raise ValueError(f"{name} must have shape (k, N, D), got {tuple(x.shape)}")
    if check.features(name, x, ndim=3).shape[0] < least:
        raise ValueError(f"{name} must be at least {'two' if least == 2 else 'one'}, got {x.shape[0]}")
    return unit(x, normalize)


@collective
def mv_infonce(
    views: Views,
    *,
    temperature: float | Tensor = 0.5,
    negatives: Denominator = "all",
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """MV-InfoNCE: one softmax per instance, all pairs of its views against all pairs with other instances.

        L_i = log(P_i + R_i) - log P_i,      s(x, y) = <x, y> / temperature
        P_i = sum_{l != m} e^{s(u_li, u_mi)},      R_i = sum_l sum_m sum_{j != i} e^{s(u_li, u_mj)}

    Everything is evaluated in logs. Positives meet the negatives as one logistic function, so that neither a loss
    near 0 nor its gradient is the difference of two large numbers.

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D), unit rows expected, or
            normalize=True. Types of a list promote like torch.
        temperature: > 0, float or 0-dim tensor. Published runs use 0.5 (ImageNet-1k 0.1).
        negatives: "all": m runs over all views, as the official code computes it; "cross_view": m != l, the formula
            of the paper and of the code's README.
        reduction: "mean" | "sum" over the N instances, or "none": (N,). N = 1 has no negative: loss 0.

    Returns: float32 (float64 for float64 features), nats, >= 0.
    Cost: "all" 4 (kN)^2 D FLOP forward and backward (each unordered pair once), "cross_view" 4 k (k - 1) N^2 D.
    The official code forms e^s and overflows in float32 below a temperature of 1/88.

    Source: Koromilas et al. 2025, arXiv 2507.06979; official code pakoromilas/Multi-View-CL, MVINFONCE.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("negatives", negatives, get_args(Denominator))
    x = stacked(views, normalize)
    scale, batch = (
        inverse(temperature, x),
        GlobalBatch.of(engine.ranks, x.shape[1], facts=lambda: dict(views=x.shape[0])),
    )
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, x, scale)
    # the gradients of positives and of negatives meet in float32 and are rounded once
    engine.compute_dtype, x = x.dtype, upcast(x)
    others = (other_instances if negatives == "all" else other_instances_across)(x, scale, batch, engine)
    positive = view_pairs(x, scale).logsumexp((1, 2))
    return batch.reduced(-F.logsigmoid(positive - others.logsumexp(0)), reduction)


def other_instances(x: Tensor, scale: float | Tensor, batch: GlobalBatch, engine: EngineOptions) -> Tensor:
    """log sum over all views of all other instances, for every view, (k, N)."""
    k, n, _ = x.shape
    ids = batch.index(x.device).repeat(k)
    pairs = Pairs(x.flatten(0, 1), scale=scale, keep="other_id", row_ids=ids)
    return pair_stats(pairs, engine).rows.view(k, n)


def other_instances_across(x: Tensor, scale: float | Tensor, batch: GlobalBatch, engine: EngineOptions) -> Tensor:
    """Log-sums per instance over the other instances in other views, in parts, (k - 1 + k (k - 1) / 2, N).

    Each view against all later ones, both directions from one pass: no pair within a view is computed.
    """
    k, n, _ = x.shape
    ids, parts = batch.index(x.device), []
    for index in range(k - 1):
        later = k - 1 - index
        pairs = Pairs(
            x[index], x[index + 1 :].flatten(0, 1), scale, keep="other_id", row_ids=ids, col_ids=ids.repeat(later),
            cols=True,
        )  # fmt: skip
        stats = pair_stats(pairs, engine)
        assert stats.cols is not None
        parts += [stats.rows.unsqueeze(0), stats.cols.view(later, n)]
    return torch.cat(parts)


def view_pairs(x: Tensor, scale: float | Tensor, *, once: bool = False) -> Tensor:
    """Scores between the views of every instance, (N, k, k), -inf on the diagonal; once: also below it."""
    rows = x.transpose(0, 1)
    gram = matmul(rows, rows.mT) * scale
    view = torch.arange(x.shape[0], device=x.device)
    dropped = view[:, None] >= view if once else view[:, None] == view
    return gram.masked_fill(dropped, -torch.inf)


@collective
def mv_dhel(
    views: Views,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """MV-DHEL: the views of an instance attract each other, the instances repel each other within every view.

        L_i = sum_l log sum_{j != i} e^{s(u_li, u_lj)} - log sum_{l < m} e^{s(u_li, u_mi)}
        s(x, y) = <x, y> / temperature

    Args:
        views, temperature: As in mv_infonce. The official class defaults to a temperature of 0.2.
        reduction: "mean" | "sum" over the N instances, or "none": (N,). N = 1 leaves the first sum empty: loss 0.

    Returns: float32 (float64 for float64 features), nats; may be negative.
    Cost: 4 k N^2 D FLOP forward and backward: k separate N x N problems, each unordered pair once, 3 where the
    scores fit memory_budget.
    The official code multiplies the k sums of e^s, which overflows with many views or a low temperature.

    Source: Koromilas et al. 2025, arXiv 2507.06979; official code pakoromilas/Multi-View-CL, MVDHEL (its README sums
    over l != m, which is log 2 less, and over all j, where the code drops j = i).
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    x = stacked(views, normalize)
    scale, k = inverse(temperature, x), x.shape[0]
    batch = GlobalBatch.of(engine.ranks, x.shape[1], facts=lambda: dict(views=k))
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, x, scale)
    engine.compute_dtype, x = x.dtype, upcast(x)
    energy = view_energy(x.unbind(), scale, reduction, batch, engine)
    return energy - batch.reduced(view_pairs(x, scale, once=True).logsumexp((1, 2)), reduction)


@collective
def pvc(
    views: Views,
    *,
    temperature: float | Tensor = 0.2,
    aggregation: Aggregation = "geometric",
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

    A positive stands against the negatives only, never against the other positives. With two views both are the same.

    Args:
        views, temperature: As in mv_infonce.
        aggregation: "geometric" | "arithmetic": where the mean over the other views is taken.
        reduction: "mean" | "sum" over the N instances, or "none": (N,). N = 1 has no negative: loss 0.

    Returns: float32 (float64 for float64 features), nats, >= 0. Cost: 4 (kN)^2 D FLOP forward and backward.

    Source: Shidani et al. 2024, arXiv 2403.05490; official code of Multi-View-CL (pakoromilas), PVCLoss. The
    "arithmetic" branch of that code is not the paper's: it takes the log-sum-exp of the losses -log p, already averaged
    over the batch, so that it raises where the paper's form falls, and subtracts the logarithm of the batch size.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("aggregation", aggregation, get_args(Aggregation))
    x = stacked(views, normalize)
    scale, k = inverse(temperature, x), x.shape[0]
    batch = GlobalBatch.of(engine.ranks, x.shape[1], facts=lambda: dict(views=k))
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, x, scale)
    engine.compute_dtype, x = x.dtype, upcast(x)
    others = other_instances(x, scale, batch, engine)
    log_p = F.logsigmoid(view_pairs(x, scale) - others.t().unsqueeze(2))  # -inf on the diagonal
    own = torch.eye(k, dtype=torch.bool, device=x.device)
    if aggregation == "arithmetic":
        over_views = log_mean(log_p, own)
    else:
        over_views = log_p.masked_fill(own, 0.0).sum(2) / (k - 1)
    return batch.reduced(-over_views.mean(1), reduction)


def log_mean(log_p: Tensor, dropped: Tensor) -> Tensor:
    """log of the mean of e^log_p over the last dimension less one dropped element, exact also where log_p is near 0."""
    top = log_p.detach().amax(-1, keepdim=True)  # any constant will do; this one keeps log1p away from -1
    excess = torch.expm1(log_p - top).masked_fill(dropped, 0.0).sum(-1) / (log_p.shape[-1] - 1)
    return top.squeeze(-1) + excess.log1p()


def pairwise_aggregate(views: Views, loss: Callable[..., Tensor], *, mode: Mode = "pairwise", **options: Any) -> Tensor:
    """A two-view loss extended to k views by its mean over pairs of views.

        "pairwise":  L = mean_{l < m} loss(view_l, view_m)
        "average":   L = mean_l loss(view_l, mean_{m != l} view_m)

    Args:
        views: As in mv_infonce; normalise them beforehand. The mean of views is formed in float32, rounded to the
            views' type, and not normalised again, as in the official NTXent; the official MVDHEL normalises it, which
            is normalize=True among the options.
        loss: A function of two (N, D) batches or its module, e.g. contrastile.nt_xent, contrastile.dhel; the order of
            arguments counts for losses with one direction.
        mode: "pairwise": k (k - 1) / 2 calls ("PWE"); "average": k calls ("AVG").
        options: Passed to loss. With reduction="none" rows of the same index are averaged.

    Returns: What loss returns. Two views: "pairwise" is loss(view_0, view_1).

    Source: Baselines of Koromilas et al. 2025, arXiv 2507.06979; official code pakoromilas/Multi-View-CL,
    NTXent.loss_pwe, NTXent.loss_avg.
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
