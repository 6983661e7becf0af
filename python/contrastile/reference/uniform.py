"""Alignment and uniformity on the hypersphere."""

import math

import torch
from torch import Tensor

from ._dense import Scalar, of_present, reduce_rows, unit


def uniformity(
    x: Tensor, y: Tensor | None = None, *, t: Scalar = 2.0, present: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """Logarithm of the mean Gaussian potential between different rows; lower is more uniform.

        log mean_{i < j} e^{-t |x_i - x_j|^2},   with y: log mean_{i != j} e^{-t |x_i - y_j|^2}

    Rows are normalised only if asked. 0 if there is no pair.

    Source: Wang & Isola 2020 (arXiv 2005.10242), L_uniform, Sec. 4.1; official code
    SsnL/align_uniform @e256d47, `uniform_loss`; with y: abrar-fahim/contrastive-gap @8c1a17b,
    clips/hf_clip.py, cross uniformity.
    """
    x, y = of_present(x, present), of_present(y, present)
    x, y = unit(x, normalize), None if y is None else unit(y, normalize)
    other = x if y is None else y
    pair = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    i, j = (pair.triu() if y is None else pair).nonzero(as_tuple=True)
    if len(i) == 0:
        return x[:0].sum() + other[:0].sum()  # 0 with zero gradients
    squared_distance = (x[i] - other[j]).square().sum(dim=1)
    # log mean exp, as a logsumexp: far rows would underflow every exp
    return (-t * squared_distance).logsumexp(dim=0) - math.log(len(i))


def alignment(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float = 2.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Mean distance of matched rows to the power alpha.

        1/N sum_i |x_i - y_i|^alpha

    "sum": not divided by N; "none": (N,).

    Source: Wang & Isola 2020 (arXiv 2005.10242), L_align, Sec. 4.1; official code
    SsnL/align_uniform @e256d47, `align_loss`.
    """
    x, y = of_present(x, present), of_present(y, present)
    distance = torch.linalg.vector_norm(unit(x, normalize) - unit(y, normalize), dim=1)
    return reduce_rows(distance.pow(alpha), reduction, weights, present)


def joint_entropy(
    x: Tensor,
    *,
    t: Scalar = 1.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the points of the logarithm of the mean Gaussian kernel to all points, themselves too.

        1/N sum_i log( 1/N sum_j e^{-t |x_i - x_j|^2} )

    Source: Louiset et al. 2024 (arXiv 2402.11928), k-JEM; official code neurospin-projects/2024_rlouiset_sep_clr
    @0e40bff, losses.py `joint_entropy_loss`, of the concatenated parts.
    """
    x = unit(of_present(x, present), normalize)
    square = (x[:, None] - x[None, :]).square().sum(dim=2)
    rows = (-t * square).logsumexp(dim=1) - math.log(max(len(x), 1))
    return reduce_rows(rows, reduction, weights, present)
