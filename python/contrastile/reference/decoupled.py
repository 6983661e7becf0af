"""Decoupled contrastive losses: the positive is not in the denominator."""

import torch
from torch import Tensor

from ._dense import (
    Scalar,
    masked_logsumexp,
    of_present,
    other_instances,
    reduce_rows,
    reduce_views,
    two_view_logits,
    unit,
)  # fmt: skip


def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.1,
    direction: str = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """NT-Xent with the positive removed from the denominator, over the 2N rows [z1; z2].

        loss_i = -z_{i,p(i)} + log sum_{k of other instances} e^{z_ik}

    0 if there is no other instance.

    Source: Yeh et al. 2022 (arXiv 2110.06848), L_DC; re-implementation
    raminnakhli/Decoupled-Contrastive-Learning @0b9b76d, loss/dcl.py `DCL`, whose sum over both
    directions is twice this mean.
    """
    z1, z2 = (unit(of_present(z, present), normalize) for z in (z1, z2))
    rows = _decoupled(z1, z2, temperature, torch.ones_like(z1[:, 0]), detach_keys)
    return reduce_views(rows, direction, reduction, weights, present)


def dclw(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.1,
    sigma: float = 0.5,
    direction: str = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """DCL with its positives weighted by the negative von Mises-Fisher function.

        loss_i = -w_i z_{i,p(i)} + log sum_{k of other instances} e^{z_ik}
        w_i    = 2 - e^{<z1_i,z2_i>/sigma} / mean_j e^{<z1_j,z2_j>/sigma}

    Both views share w_i, and gradient flows through it. 0 if there is no other instance.

    Source: Yeh et al. 2022 (arXiv 2110.06848), L_DCW; code as for `dcl`, `DCLW`.
    """
    z1, z2 = (unit(of_present(z, present), normalize) for z in (z1, z2))
    weight = 2 - len(z1) * ((z1 * z2).sum(dim=1) / sigma).softmax(dim=0)
    return reduce_views(_decoupled(z1, z2, temperature, weight, False), direction, reduction, weights, present)


def dhel(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.3,
    include_augs: bool = True,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Decoupled hyperspherical energy: the denominator of a positive pair holds each view against itself only.

        loss_i = -log [ e^{<a_i,b_i>/temperature} / (A_i B_i) ]
        A_i = sum_{j != i} e^{<a_i,a_j>/temperature},  B_i the same of b, or 1 without include_augs

    0 if there is no other instance.

    Source: Koromilas et al. 2024 (arXiv 2405.18045); official code pakoromilas/DHEL-KCL @dc5a477, losses.py `DHEL`.
    """
    a, b = (unit(of_present(z, present), normalize) for z in (z1, z2))
    other = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    rows = masked_logsumexp(a @ a.T / temperature, other) - (a * b).sum(dim=1) / temperature
    if include_augs:
        rows = rows + masked_logsumexp(b @ b.T / temperature, other)
    rows = torch.where(other.any(dim=1), rows, torch.zeros_like(rows))
    return reduce_rows(rows, reduction, weights, present)


def _decoupled(z1: Tensor, z2: Tensor, temperature: Scalar, weight: Tensor, detach_keys: bool) -> Tensor:
    logits, positive = two_view_logits(z1, z2, temperature, detach_keys)
    negative = other_instances(z1)
    rows = masked_logsumexp(logits, negative) - weight.repeat(2) * positive
    return torch.where(negative.any(dim=1), rows, torch.zeros_like(rows))
