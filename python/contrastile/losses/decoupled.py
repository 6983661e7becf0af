"""Decoupled contrastive losses: the positive is not in the denominator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import pair_reduce
from .common import LossModule, check_options, inverse, paired_dot, reduced, reduced_empty, wide
from .contrastive import positive_pair_loss, two_views


def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = False,
    reduction: str = "mean",
    memory_budget: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Decoupled contrastive loss: NT-Xent with the positive removed from the denominator. Can be negative.

        L_i = log sum_{j: other instance} e^{<x_i, x_j> / temperature} - <x_i, x_p(i)> / temperature,    x = [z1; z2]

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows expected, or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        reduction: "mean" | "sum" over the 2N rows (the paper's sum of both directions is twice the mean), or "none":
            (2N,), z1's rows first. N = 1 leaves the denominator empty: value 0.

    Returns: float32, nats. Cost: 4 (2N)^2 D FLOP forward and backward.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DC.
    """
    check_options(reduction, memory_budget, backend)
    x, instance = two_views(z1, z2, normalize)
    scale = inverse(temperature, x)
    if x.shape[0] <= 2:
        return reduced_empty(x.shape[0], reduction, x, scale)
    return positive_pair_loss(x, instance, scale, "not_same_id", reduction, memory_budget, backend)


def dclw(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    normalize: bool = False,
    reduction: str = "mean",
    memory_budget: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """DCLW: DCL with the positive weighted by a von Mises-Fisher term that favours hard positives.

        w_i = 2 - N softmax_i( <z1_i, z2_i> / sigma ),      L_i = log sum_{j: other instance} e^{z_ij} - w_i z_ip(i)

    Gradient flows through w. Arguments and reductions as in dcl; sigma > 0.

    Source: Yeh et al. 2022, arXiv 2110.06848, L_DCW.
    """
    check_options(reduction, memory_budget, backend)
    x, instance = two_views(z1, z2, normalize)
    scale, inverse_sigma, n = inverse(temperature, x), inverse(sigma, x, name="sigma"), x.shape[0] // 2
    if n <= 1:
        return reduced_empty(2 * n, reduction, x, scale, inverse_sigma)
    compute, x = x.dtype, wide(x)  # the gradient through w meets the engine's in float32 and is rounded once
    weight = 2.0 - n * torch.softmax(paired_dot(x[:n], x[n:]) * inverse_sigma, dim=0)
    stats = pair_reduce(
        x, scale=scale, keep="not_same_id", positives="same_id", row_ids=instance, memory_budget=memory_budget,
        compute_dtype=compute, backend=backend,
    )  # fmt: skip
    assert stats.row_positives is not None
    return reduced(stats.rows - weight.repeat(2) * stats.row_positives, reduction)


class DCL(LossModule):
    """Module twin of dcl; forward(z1, z2)."""

    function = staticmethod(dcl)

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        normalize: bool = False,
        reduction: str = "mean",
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature,
            normalize=normalize,
            reduction=reduction,
            memory_budget=memory_budget,
            backend=backend,
        )


class DCLW(LossModule):
    """Module twin of dclw; forward(z1, z2)."""

    function = staticmethod(dclw)

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        *,
        normalize: bool = False,
        reduction: str = "mean",
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature, sigma=sigma, normalize=normalize, reduction=reduction, memory_budget=memory_budget,
            backend=backend,
        )  # fmt: skip
