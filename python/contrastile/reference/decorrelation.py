"""Cross-correlations of features, and consistency of similarities."""

import torch
from torch import Tensor

from ._dense import Scalar, of_present, unit


def cross_correlation(x: Tensor, y: Tensor, *, standardize: bool = True, present: Tensor | None = None) -> Tensor:
    """Correlations of the features of x with those of y, (D, D).

        C = U^T V / N,   U, V = batch_norm(x), batch_norm(y) without scale and shift, or x and y

    Source: Zbontar et al. 2021 (arXiv 2103.03230), Eq. 2; official code facebookresearch/barlowtwins,
    main.py `BarlowTwins.forward`.
    """
    x, y = of_present(x, present), of_present(y, present)
    if standardize:
        x, y = _batch_norm(x), _batch_norm(y)
    return x.T @ y / max(len(x), 1)


def barlow_twins_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    off_diagonal_weight: Scalar = 0.005,
    standardize: bool = True,
    present: Tensor | None = None,
) -> Tensor:
    """Distance of the cross-correlation of two views from the identity, less of it off the diagonal.

        sum_a (C_aa - 1)^2 + off_diagonal_weight sum_{a != b} C_ab^2

    Source: Zbontar et al. 2021 (arXiv 2103.03230), Eq. 1; without batch norm: facebookresearch/clip-rocket @ebd9e58,
    losses.py `BarLIPLoss.barlip_loss`, there times 0.025.
    """
    matrix = cross_correlation(z1, z2, standardize=standardize, present=present)
    if len(of_present(z1, present)) == 0:
        return matrix.sum() * off_diagonal_weight
    identity = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    squares = (matrix - identity.to(matrix)).square()
    return torch.where(identity, squares, off_diagonal_weight * squares).sum()


def in_modal_consistency(x: Tensor, y: Tensor, *, present: Tensor | None = None, normalize: bool = False) -> Tensor:
    """1/N sum_ij ( <x_i, x_j> - <y_i, y_j> )^2

    Source: Goel et al. 2022 (arXiv 2205.14459), L_I-Cyclic; official code goel-shashank/CyCLIP, src/train.py.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (x, y))
    return (x @ x.T - y @ y.T).square().sum() / max(len(x), 1)


def cross_modal_consistency(x: Tensor, y: Tensor, *, present: Tensor | None = None, normalize: bool = False) -> Tensor:
    """1/N sum_ij ( <x_i, y_j> - <x_j, y_i> )^2

    Source: Goel et al. 2022 (arXiv 2205.14459), L_C-Cyclic; official code as above.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (x, y))
    similarity = x @ y.T
    return (similarity - similarity.T).square().sum() / max(len(x), 1)


def _batch_norm(x: Tensor) -> Tensor:
    if len(x) == 0:
        return x
    return (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt()
