"""Decoupled contrastive losses: the positive is not in the denominator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective
from .common import cleaned, engine_options, feature_pair, inverse, paired_dot, reduced_empty, upcast
from .two_views import two_views
from .weights import NOWHERE, Counted, keep_present


@collective
def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    direction: Direction = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Decoupled contrastive loss: NT-Xent with the positive removed from the denominator. Can be negative.

        L_i = log sum_{j: other instance} e^{<x_i, x_j> / temperature} - <x_i, x_p(i)> / temperature,    x = [z1; z2]

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows expected, or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        direction, detach_keys, weights, present: As in nt_xent. Fewer than two instances that are present: 0.
        reduction: "mean" | "sum" over the 2N rows (the paper's sum of both directions is direction="sum"), or "none":
            (2N,), z1's rows first; with one direction (N,). N = 1 leaves the denominator empty: value 0.

    Returns: float32 (float64 for float64 features), nats. Cost: 4 (2N)^2 D FLOP forward and backward.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DC.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    views = two_views(z1, z2, normalize, engine, weights, present, direction, detach_keys)
    scale = inverse(temperature, views.x)
    if views.batch.total <= 1:
        return reduced_empty(views.size, reduction, views.x, scale)
    return views.loss(scale, reduction, decoupled=True)


@collective
def dclw(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """DCLW: DCL with the positive weighted by a von Mises-Fisher term that favours hard positives.

        w_i = 2 - N softmax_i( <z1_i, z2_i> / sigma ),      L_i = log sum_{j: other instance} e^{z_ij} - w_i z_ip(i)

    Gradient flows through w. Arguments and reductions as in dcl; sigma > 0. With present, N and the softmax of w are
    over the instances that are; weights and direction do not change w.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DCW.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    views = two_views(z1, z2, normalize, engine, weights, present, direction)
    x, batch = views.x, views.batch
    scale, inverse_sigma, n = inverse(temperature, x), inverse(sigma, x, name="sigma"), batch.n
    if batch.total <= 1:
        return reduced_empty(views.size, reduction, x, scale, inverse_sigma)
    # the gradient through w meets the engine's in float32 and is rounded once
    engine.compute_dtype, views.x = x.dtype, upcast(x)
    similar = cleaned(paired_dot(views.x[:n], views.x[n:]) * inverse_sigma, views.counted.present, NOWHERE)
    weight = 2.0 - views.counted.count(batch) * torch.exp(similar - batch.logsumexp(similar))
    stats = pair_stats(views.pairs(scale), engine)
    assert stats.row_positives is not None
    return views.reduced(stats.rows - weight.repeat(views.views) * stats.row_positives, reduction, least=2)


@collective
def dhel(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.3,
    include_augs: bool = True,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Decoupled hyperspherical energy: positives attract, instances repel each other within each view only.

        L_i = log sum_{j != i} e^{s(a_i, a_j)} + log sum_{j != i} e^{s(b_i, b_j)} - s(a_i, b_i),
        s(x, y) = <x, y> / temperature,      a = z1, b = z2

    Args:
        z1, z2: Anchors and their positives (augmentations), (N, D), unit rows expected, or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        include_augs: False drops the second sum, so that the positives do not repel each other.
        weights, present: (N,), of pairs, as in info_nce. Fewer than two that are present: 0.
        reduction: "mean" | "sum" over the N pairs, or "none": (N,). N = 1 leaves the sums empty: value 0.

    Returns: float32 (float64 for float64 features), nats; may be negative.
    Cost: 8 N^2 D FLOP forward and backward (4 without the second sum), a quarter less where the
    scores fit memory_budget.

    Source: Koromilas et al. 2024, arXiv 2405.18045; official code pakoromilas/DHEL-KCL, DHEL, which forms e^s.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    if not isinstance(include_augs, bool):
        raise TypeError(f"include_augs must be a bool, got {type(include_augs).__name__}")
    counted = Counted.of(weights, present, check.features("z1", z1))
    z1, z2 = feature_pair("z1", z1, "z2", z2, normalize, counted.present)
    scale, batch = inverse(temperature, z1), GlobalBatch.of(engine.ranks, z1.shape[0], facts=counted.facts)
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, z1, z2, scale)
    engine.compute_dtype, z1, z2 = z1.dtype, upcast(z1), upcast(z2)
    views = (z1, z2) if include_augs else (z1,)
    present = None if counted.present is None else counted.present.expand(len(views), batch.n)
    energy = view_energy(views, scale, reduction, batch, engine, counted, present)
    return energy - counted.reduced(batch, scale * paired_dot(z1, z2), reduction, least=2)


def view_energy(
    views: Sequence[Tensor],
    scale: float | Tensor,
    reduction: Reduction,
    batch: GlobalBatch,
    engine: EngineOptions,
    counted: Counted,
    present: Tensor | None = None,
) -> Tensor:
    """The sum over views of log sum_{j != i} e^{s(x_i, x_j)}, reduced over i. present: (k, N) bool, the views that are
    there; one that no other instance has adds nothing."""
    found, weight = [], 1.0 if reduction == "none" else counted.weight(batch, reduction, views[0], least=2)
    for index, x in enumerate(views):
        pairs, here = Pairs(x, scale=scale, keep="other_index"), None if present is None else present[index]
        keep_present(pairs, here)
        if reduction == "none":
            rows = pair_stats(pairs, engine).rows
            found.append(rows if here is None else torch.where(here & (rows != -torch.inf), rows, 0.0))
        else:
            own = weight if here is None else torch.where(here, weight, 0.0)
            found.append(weighted_sum(pairs, Weights(own), engine))
    total = torch.stack(found).sum(0)
    return counted.reduced(batch, total, reduction, least=2) if reduction == "none" else total
