"""Losses on the singular values of matched tuples: PMRL."""

import torch
from torch import Tensor

from ._dense import Scalar, reduce_rows, unit


def pmrl_loss(
    *modalities: Tensor,
    singular_temperature: Scalar = 0.05,
    instance_temperature: Scalar = 0.1,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each sample's matrix of modalities shall have rank one, along a direction of its own.

        Z_i = [m_1i .. m_ki] = U_i diag(s_i) W_i^T   (D x k),     u_i = first column of U_i
        loss_i = CE( s_i / singular_temperature, class 1 ) + CE( row i of u u^T / instance_temperature, class i )

    The sign of u_i is the one with <u_i, sum_m m_mi> >= 0, or where that is 0 within 1e-4 s_i1, with <u_i, m_1i> >= 0.

    Source: PMRL (arXiv 2507.17343), L_intra and L_inter; official code Xiaohao-Liu/PMRL @c3997e9,
    utils/eigen.py and model/pmrl.py `forward_ret`, which leaves the sign as the solver returns it.
    """
    z = torch.stack([unit(x, normalize) for x in modalities], dim=2)
    u, singular, _ = torch.linalg.svd(z, full_matrices=False)
    leading = u[:, :, 0]
    total, first = (leading * z.sum(dim=2)).sum(dim=1), (leading * z[:, :, 0]).sum(dim=1)
    side = torch.where(total.abs() > 1e-4 * singular[:, 0], total, first)
    leading = torch.where(side[:, None] < 0, -leading, leading)
    intra = -(singular / singular_temperature).log_softmax(dim=1)[:, 0]
    inter = -(leading @ leading.T / instance_temperature).log_softmax(dim=1).diagonal()
    return reduce_rows(intra + inter, reduction, weights)


def singular_alignment(*modalities: Tensor, normalize: bool = False) -> Tensor:
    """Mean of the samples' largest singular values: 1 (orthogonal) to sqrt(k) (equal) for k unit vectors.

        1/N sum_i s_i1

    0 for an empty batch. Source: PMRL (arXiv 2507.17343), the quantity that L_intra maximises.
    """
    z = torch.stack([unit(x, normalize) for x in modalities], dim=2)
    largest: Tensor = torch.linalg.svdvals(z)[:, 0]
    return largest.sum() / max(len(z), 1)
