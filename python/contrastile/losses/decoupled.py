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
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator. It can be negative.

        L_i = log sum_{j: other instance} e^{<x_i, x_j> / temperature} - <x_i, x_p(i)> / temperature,    x = [z1; z2]

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
            reduction="mean" adds the mean over z1 and the mean over z2 (the paper's sum). "rows": z1 only. "cols": z2
            only.
        detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A instance with a missing view (False) takes no part and is no candidate; its features may
            hold anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. Fewer than two instances leave the denominator empty and give
    0.
    Cost: 4 (2N)^2 D FLOP forward and backward.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = dcl(z1, z2, temperature=0.1, normalize=True)

    Source: Yeh et al. 2022, https://arxiv.org/abs/2110.06848, L_DC.
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
    """DCLW: DCL with the positive weighted by a von Mises-Fisher term that favors hard positives.

        w_i = 2 - N softmax_i( <z1_i, z2_i> / sigma ),      L_i = log sum_{j: other instance} e^{z_ij} - w_i z_ip(i)
        z_ij = <x_i, x_j> / temperature,    x = [z1; z2]

    Gradient flows through w.

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        sigma: > 0, a number: the temperature of the softmax in w.
        direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
            reduction="mean" adds the mean over z1 and the mean over z2. "rows": z1 only. "cols": z2 only. It does not
            change w.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w. It does not change w.
        present: (N,) bool. An instance with a missing view (False) takes no part and is not a candidate; N and the
            softmax of w cover the instances that are present.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. Fewer than two instances give 0.
    Cost: 4 (2N)^2 D FLOP forward and backward.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = dclw(z1, z2, temperature=0.1, sigma=0.5, normalize=True)

    Source: Yeh et al. 2022, https://arxiv.org/abs/2110.06848, L_DCW.
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
    """Decoupled hyperspherical energy: positives attract; instances repel each other within each view only.

        L_i = log sum_{j != i} e^{s(a_i, a_j)} + log sum_{j != i} e^{s(b_i, b_j)} - s(a_i, b_i),
        s(x, y) = <x, y> / temperature,      a = z1, b = z2

    Args:
        z1, z2: Anchors and their positives (augmentations), (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        include_augs: False drops the second sum, so that the positives do not repel each other.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the N pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats; can be negative. Fewer than two pairs leave the sums empty
    and give 0.
    Cost: 8 N^2 D FLOP forward and backward (4 without the second sum); a quarter less where the scores fit
    memory_budget.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = dhel(z1, z2, temperature=0.3, normalize=True)

    Source: Koromilas et al. 2024, https://arxiv.org/abs/2405.18045; official code pakoromilas/DHEL-KCL, DHEL, which
    forms e^s.
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
