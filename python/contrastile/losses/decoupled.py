"""Decoupled contrastive losses: the positive is not in the denominator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, Weights, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective
from .common import engine_options, feature_pair, inverse, paired_dot, reduced_empty, upcast
from .contrastive import other_view_loss, two_views


@collective
def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
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
        reduction: "mean" | "sum" over the 2N rows (the paper's sum of both directions is twice the mean), or "none":
            (2N,), z1's rows first. N = 1 leaves the denominator empty: value 0.

    Returns: float32 (float64 for float64 features), nats. Cost: 4 (2N)^2 D FLOP forward and backward.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DC.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    x, instance, batch = two_views(z1, z2, normalize, engine.ranks)
    scale = inverse(temperature, x)
    if batch.total <= 1:
        return reduced_empty(x.shape[0], reduction, x, scale)
    return other_view_loss(x, instance, scale, reduction, batch, engine, decoupled=True)


@collective
def dclw(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """DCLW: DCL with the positive weighted by a von Mises-Fisher term that favours hard positives.

        w_i = 2 - N softmax_i( <z1_i, z2_i> / sigma ),      L_i = log sum_{j: other instance} e^{z_ij} - w_i z_ip(i)

    Gradient flows through w. Arguments and reductions as in dcl; sigma > 0.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DCW.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    x, instance, batch = two_views(z1, z2, normalize, engine.ranks)
    scale, inverse_sigma, n = inverse(temperature, x), inverse(sigma, x, name="sigma"), batch.n
    if batch.total <= 1:
        return reduced_empty(2 * n, reduction, x, scale, inverse_sigma)
    # the gradient through w meets the engine's in float32 and is rounded once
    engine.compute_dtype, x = x.dtype, upcast(x)
    similar = paired_dot(x[:n], x[n:]) * inverse_sigma
    weight = 2.0 - batch.total * torch.exp(similar - batch.logsumexp(similar))
    pairs = Pairs(x, scale=scale, keep="other_id", positives="same_id", row_ids=instance)
    stats = pair_stats(pairs, engine)
    assert stats.row_positives is not None
    return batch.reduced(stats.rows - weight.repeat(2) * stats.row_positives, reduction)


@collective
def dhel(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.3,
    include_augs: bool = True,
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
        reduction: "mean" | "sum" over the N pairs, or "none": (N,). N = 1 leaves the sums empty: value 0.

    Returns: float32 (float64 for float64 features), nats; may be negative.
    Cost: 8 N^2 D FLOP forward and backward (4 without the second sum), a quarter less where the
    scores fit memory_budget.

    Source: Koromilas et al. 2024, arXiv 2405.18045; official code pakoromilas/DHEL-KCL, DHEL, which forms e^s.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    if not isinstance(include_augs, bool):
        raise TypeError(f"include_augs must be a bool, got {type(include_augs).__name__}")
    z1, z2 = feature_pair("z1", z1, "z2", z2, normalize)
    scale, batch = inverse(temperature, z1), GlobalBatch.of(engine.ranks, z1.shape[0])
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, z1, z2, scale)
    engine.compute_dtype, z1, z2 = z1.dtype, upcast(z1), upcast(z2)
    views = (z1, z2) if include_augs else (z1,)
    energy = view_energy(views, scale, reduction, batch, engine)
    return energy - batch.reduced(scale * paired_dot(z1, z2), reduction)


def view_energy(
    views: Sequence[Tensor],
    scale: float | Tensor,
    reduction: Reduction,
    batch: GlobalBatch,
    engine: EngineOptions,
) -> Tensor:
    """The sum over views of log sum_{j != i} e^{s(x_i, x_j)}, reduced over i."""
    problems = [Pairs(x, scale=scale, keep="other_index") for x in views]
    if reduction == "none":
        return torch.stack([pair_stats(pairs, engine).rows for pairs in problems]).sum(0)
    weights = Weights(batch.weight(reduction))
    return torch.stack([weighted_sum(pairs, weights, engine) for pairs in problems]).sum()
