"""Alignment and uniformity on the hypersphere."""

import math

import torch
from torch import Tensor


def uniformity(x: Tensor, y: Tensor | None = None, *, t: float = 2.0) -> Tensor:
    """Logarithm of the mean Gaussian potential between different rows; lower is more uniform.

        log mean_{i < j} e^{-t |x_i - x_j|^2},   with y: log mean_{i != j} e^{-t |x_i - y_j|^2}

    Rows are not normalised. 0 if there is no pair.

    Source: Wang & Isola 2020 (arXiv 2005.10242), L_uniform, Sec. 4.1; official code
    SsnL/align_uniform @e256d47, `uniform_loss`; with y: abrar-fahim/contrastive-gap @8c1a17b,
    clips/hf_clip.py, cross uniformity.
    """
    other = x if y is None else y
    pair = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    i, j = (pair.triu() if y is None else pair).nonzero(as_tuple=True)
    if len(i) == 0:
        return x[:0].sum() + other[:0].sum()  # 0 with zero gradients
    squared_distance = (x[i] - other[j]).square().sum(dim=1)
    # log mean exp, as a logsumexp: far rows would underflow every exp
    return (-t * squared_distance).logsumexp(dim=0) - math.log(len(i))


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Mean distance of matched rows to the power alpha.

        1/N sum_i |x_i - y_i|^alpha

    Source: Wang & Isola 2020 (arXiv 2005.10242), L_align, Sec. 4.1; official code
    SsnL/align_uniform @e256d47, `align_loss`.
    """
    distance: Tensor = torch.linalg.vector_norm(x - y, dim=1)
    return distance.pow(alpha).sum() / max(len(x), 1)
