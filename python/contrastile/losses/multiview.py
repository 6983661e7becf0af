"""Losses over any number of views of the same instances: MV-InfoNCE, MV-DHEL, poly-view contrast, view pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, matmul, no_autocast, pair_stats
from ..ranks import GlobalBatch, Group, collective
from .common import cleaned, engine_options, feature_batches, inverse, reduced_empty, unit, upcast
from .decoupled import view_energy
from .weights import EVERY, Counted, keep_present

Denominator: TypeAlias = Literal["all", "cross_view"]
Aggregation: TypeAlias = Literal["geometric", "arithmetic"]
Mode: TypeAlias = Literal["pairwise", "average"]

Views = Tensor | Sequence[Tensor]


def stacked(views: Views, name: str = "views", least: int = 2) -> Tensor:
    """Views as one (k, N, D) tensor, k >= least, checked; a list is promoted to one type."""
    if isinstance(views, (list, tuple)):
        batches = feature_batches(name, views, least=least)
        with no_autocast(batches[0]):  # in a float16 region, torch.stack refuses bfloat16
            return torch.stack(batches)
    x = check.tensor(name, views, "a torch.Tensor (k, N, D) or a list of (N, D)")
    if x.dim() != 3:
        raise ValueError(f"{name} must have shape (k, N, D), got {tuple(x.shape)}")
    if check.features(name, x, ndim=3).shape[0] < least:
        raise ValueError(f"{name} must be at least {'two' if least == 2 else 'one'}, got {x.shape[0]}")
    return x


@dataclass
class ViewBatch:
    """Views of a batch of instances, of which some may be missing."""

    x: Tensor  # (k, N, D), zeros where missing
    batch: GlobalBatch
    counted: Counted = EVERY  # an instance takes part if it has two views, and another one has
    present: Tensor | None = None  # (k, N) bool, views of instances that take part; None: all

    @staticmethod
    def of(
        views: Views, weights: Tensor | None, present: Tensor | None, normalize: bool, engine: EngineOptions
    ) -> ViewBatch:
        x = stacked(views)
        k, n, _ = x.shape
        part = None
        if present is not None:
            present = check.bool_mask("present", present, (k, n), x.device)
            part = present.sum(0) >= 2
            present = present & part
        counted = Counted.weighted(weights, part, x[0], n)
        x = unit(cleaned(x, present), normalize)
        batch = GlobalBatch.of(engine.ranks, n, facts=lambda: dict(**counted.facts(), views=k))
        if part is not None and present is not None:
            part = part & (counted.count(batch) >= 2)
            counted, present = replace(counted, present=part), present & part
        return ViewBatch(x, batch, counted, present)

    def there(self, x: Tensor) -> Tensor:
        """Numbers of views as terms of a log-sum-exp over those of an instance: none for a view that is missing. An
        instance that takes no part keeps finite ones, for the sake of its gradient, which is 0."""
        if self.present is None:
            return x
        assert self.counted.present is not None
        return torch.where(self.present, x, torch.where(self.counted.present, -torch.inf, 0.0))

    def pairs(self, scale: float | Tensor, *, once: bool = False) -> Tensor:
        """Scores between the views of every instance, (N, k, k), -inf on the diagonal and of views that are missing;
        once: also below the diagonal."""
        rows = self.x.transpose(0, 1)
        gram = matmul(rows, rows.mT) * scale
        view = torch.arange(self.x.shape[0], device=self.x.device)
        dropped = view[:, None] >= view if once else view[:, None] == view
        return gram.masked_fill(dropped if self.present is None else dropped | self.missing(), -torch.inf)

    def missing(self) -> Tensor:
        """(N, k, k): pairs of views of which one is missing, of instances that take part."""
        assert self.present is not None and self.counted.present is not None
        here = self.present.t()
        return ~(here[:, :, None] & here[:, None]) & self.counted.present[:, None, None]


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

    Everything is evaluated in logs. Positives meet the negatives as one logistic function, so that neither a loss
    near 0 nor its gradient is the difference of two large numbers.

    Args:
        views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D), unit rows expected, or
            normalize=True. Types of a list promote like torch.
        temperature: > 0, float or 0-dim tensor. Published runs use 0.5 (ImageNet-1k 0.1).
        negatives: "all": m runs over all views, as the official code computes it; "cross_view": m != l, the formula
            of the paper and of the code's README.
        weights: (N,), of instances, as in info_nce.
        present: (k, N) bool, the views that each instance has: all sums are over these. Instances with fewer than two
            take no part. Missing features may hold anything and get the gradient 0.
        reduction: "mean" | "sum" over the N instances that take part, or "none": (N,), 0 for the others. One instance
            has no negative: loss 0.

    Returns: float32 (float64 for float64 features), nats, >= 0.
    Cost: "all" 4 (kN)^2 D FLOP forward and backward (each unordered pair once), "cross_view" 4 k (k - 1) N^2 D.
    The official code forms e^s and overflows in float32 below a temperature of 1/88.

    Source: Koromilas et al. 2025, arXiv 2507.06979; official code pakoromilas/Multi-View-CL, MVINFONCE.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("negatives", negatives, get_args(Denominator))
    every = ViewBatch.of(views, weights, present, normalize, engine)
    scale, batch = inverse(temperature, every.x), every.batch
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, every.x, scale)
    # the gradients of positives and of negatives meet in float32 and are rounded once
    engine.compute_dtype, every.x = every.x.dtype, upcast(every.x)
    others = (other_instances if negatives == "all" else other_instances_across)(every, scale, engine)
    positive = every.pairs(scale).logsumexp((1, 2))
    return every.counted.reduced(batch, -F.logsigmoid(positive - others.logsumexp(0)), reduction)


def other_instances(every: ViewBatch, scale: float | Tensor, engine: EngineOptions) -> Tensor:
    """log sum over all views of all other instances, for every view, (k, N)."""
    x = every.x
    k, n, _ = x.shape
    pairs = Pairs(x.flatten(0, 1), scale=scale, keep="other_id", row_ids=every.batch.index(x.device).repeat(k))
    keep_present(pairs, None if every.present is None else every.present.flatten())
    return every.there(pair_stats(pairs, engine).rows.view(k, n))


def other_instances_across(every: ViewBatch, scale: float | Tensor, engine: EngineOptions) -> Tensor:
    """Log-sums per instance over the other instances in other views, in parts, (k - 1 + k (k - 1) / 2, N).

    Each view against all later ones, both directions from one pass: no pair within a view is computed.
    """
    x, present = every.x, every.present
    k, n, _ = x.shape
    ids, parts = every.batch.index(x.device), []
    for index in range(k - 1):
        later = k - 1 - index
        pairs = Pairs(
            x[index], x[index + 1 :].flatten(0, 1), scale, keep="other_id", row_ids=ids, col_ids=ids.repeat(later),
            cols=True,
        )  # fmt: skip
        if present is not None:
            keep_present(pairs, present[index], [present[index + 1 :].flatten()])
        stats = pair_stats(pairs, engine)
        assert stats.cols is not None
        both = torch.cat([stats.rows.unsqueeze(0), stats.cols.view(later, n)])
        parts.append(replace(every, present=None if present is None else present[index:]).there(both))
    return torch.cat(parts)


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
    """MV-DHEL: the views of an instance attract each other, the instances repel each other within every view.

        L_i = sum_l log sum_{j != i} e^{s(u_li, u_lj)} - log sum_{l < m} e^{s(u_li, u_mi)}
        s(x, y) = <x, y> / temperature

    Args:
        views, temperature: As in mv_infonce. The official class defaults to a temperature of 0.2.
        weights, present: As in mv_infonce. A view that no other instance has adds nothing to the first sum.
        reduction: "mean" | "sum" over the N instances that take part, or "none": (N,), 0 for the others. One instance
            leaves the first sum empty: loss 0.

    Returns: float32 (float64 for float64 features), nats; may be negative.
    Cost: 4 k N^2 D FLOP forward and backward: k separate N x N problems, each unordered pair once, 3 where the
    scores fit memory_budget.
    The official code multiplies the k sums of e^s, which overflows with many views or a low temperature.

    Source: Koromilas et al. 2025, arXiv 2507.06979; official code pakoromilas/Multi-View-CL, MVDHEL (its README sums
    over l != m, which is log 2 less, and over all j, where the code drops j = i).
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

    A positive stands against the negatives only, never against the other positives. With two views both are the same.

    Args:
        views, temperature: As in mv_infonce.
        aggregation: "geometric" | "arithmetic": where the mean over the other views is taken.
        weights, present: As in mv_infonce; the means over l and m are over the views that there are.
        reduction: "mean" | "sum" over the N instances that take part, or "none": (N,), 0 for the others. One instance
            has no negative: loss 0.

    Returns: float32 (float64 for float64 features), nats, >= 0. Cost: 4 (kN)^2 D FLOP forward and backward.

    Source: Shidani et al. 2024, arXiv 2403.05490; official code of Multi-View-CL (pakoromilas), PVCLoss. The
    "arithmetic" branch of that code is not the paper's: it takes the log-sum-exp of the losses -log p, already averaged
    over the batch, so that it raises where the paper's form falls, and subtracts the logarithm of the batch size.
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
