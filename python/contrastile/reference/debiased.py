"""Debiased contrastive losses: a denominator corrected for negatives of the anchor's own class."""

import torch
from torch import Tensor

from ._dense import Scalar, of_present, other_instances, reduce_rows, reduce_views, two_view_logits, unit


def debiased_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scalar = 0.5,
    tau_plus: float = 0.1,
    hardness: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE whose negatives k_j, j != i, are corrected for a share tau_plus of false negatives.

        loss_i = -log( e^{z_ii} / (e^{z_ii} + g_i) ),   z_ij = <q_i, k_j> / temperature,   K = N-1
        g_i    = max( (sum_{j != i} e^{z_ij} - K tau_plus e^{z_ii}) / (1 - tau_plus),
                      K e^{-1/temperature} )

    With hardness b each e^{z_ij} counts e^{b z_ij} / (mean of e^{b z_ij} over j != i) times.

    Source: Chuang et al. 2020 (arXiv 2007.00224), Eq. 8, one positive, in-batch negatives; hardness: Robinson et al.
    2021 (arXiv 2010.04592).
    """
    query, key = (unit(of_present(x, present), normalize) for x in (query, key))
    logits = query @ key.T / temperature
    negative = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    rows = _debiased(logits, logits.diagonal(), negative, len(logits) - 1, temperature, tau_plus, hardness)
    return reduce_rows(rows, reduction, weights, present)


def debiased_nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.5,
    tau_plus: float = 0.1,
    hardness: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`debiased_info_nce` over the 2N rows [z1; z2], against both views of the other instances.

        loss_i = -log( e^{z_ip} / (e^{z_ip} + g_i) ),   p = the other view of row i,   K = 2N-2
        g_i    = max( (sum_{k of other instances} e^{z_ik} - K tau_plus e^{z_ip}) / (1 - tau_plus),
                      K e^{-1/temperature} )

    Source: Chuang et al. 2020 (arXiv 2007.00224), Eq. 8; official code chingyaoc/DCL @7d6345f,
    main.py `train`; hardness as above: joshr17/HCL, image/main.py `criterion`.
    """
    z1, z2 = (unit(of_present(z, present), normalize) for z in (z1, z2))
    logits, positive = two_view_logits(z1, z2, temperature)
    count = len(logits) - 2
    rows = _debiased(logits, positive, other_instances(z1), count, temperature, tau_plus, hardness)
    return reduce_views(rows, "mean", reduction, weights, present)


def _debiased(
    logits: Tensor,
    positive: Tensor,
    negative: Tensor,
    count: int,
    temperature: Scalar,
    tau_plus: float,
    hardness: float,
) -> Tensor:
    """log(1 + g_i / e^{z_ip}) per row; g is divided by e^{z_ip} inside, to keep exp in range."""
    relative = (logits - positive[:, None]).masked_fill(~negative, -torch.inf).exp()
    if hardness and count:
        share = (hardness * logits).masked_fill(~negative, -torch.inf).softmax(dim=1)
        relative = count * share * relative
    relative = relative.sum(dim=1)
    estimate = (relative - count * tau_plus) / (1 - tau_plus)
    floor = count * torch.exp(-1 / temperature - positive)
    return torch.log1p(torch.maximum(estimate, floor))
