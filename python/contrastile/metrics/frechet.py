"""The distance of two sets as if they were Gaussian, and how it sums up over the layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..losses.common import upcast
from ..ops import check, stat_dtype

FrechetMode: TypeAlias = Literal["exact", "fast"]
DEVIATIONS = 3.0  # of norms, beyond which a token is an outlier


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared Frechet (Wasserstein-2) distance between Gaussian fits of two sets of rows, as in FID.

        |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^{1/2},      C divided by N - 1

    Args:
        x, y: (N, D), (M, D), N, M >= 2, also fewer than D. Not normalized here.

    Returns: A 0-dim tensor, without gradient, >= 0 except for rounding: the trace of the root is the sum of singular
    values of a product of two triangular factors, so no covariance is rounded first. Computed in float64; NaN where a
    feature is NaN or infinite.
    Cost: O((N + M + D) D^2) FLOP, O((N + M) D + D^2) memory.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + 2.0).item(), 4)
        12.0

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500; as MIR, https://arxiv.org/abs/2410.07167, uses it.
    """
    x, y = both(x, y, "x", "y")
    return distance(x.double(), y.double(), "exact").to(stat_dtype(x.dtype))


def modality_integration_rate(
    vision: Sequence[Tensor], text: Sequence[Tensor], *, mode: FrechetMode = "exact"
) -> Tensor:
    """MIR: how far apart the tokens of two modalities are inside a model. Lower is better.

        log10 sum_k FD(vision_k, text_k)

    over layers k, after both sets are divided by the mean norm of the text tokens, and tokens whose norm is more than
    three standard deviations from their set's median norm are replaced by the median of every coordinate.

    Args:
        vision: Hidden states of every layer, (N_k, D_k), tokens of all samples. The official code leaves out the layer
            of embeddings.
        text: The same of the other modality, (M_k, D_k).
        mode: "exact", the Frechet distance. "fast" gives the numbers of the official code's default, whose iteration
            for the root of C_v C_t starts at its fixed point, C_v C_t itself, so tr(C_v C_t) stands for the trace of
            the root. The sum can then be negative, and the result NaN.

    Returns: A 0-dim tensor, without gradient, computed in float64.

    Raises: ValueError: no layers, different numbers of layers, layers with fewer than two tokens.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> layers = [torch.randn(30, 4, generator=g) for _ in range(2)]
        >>> far = modality_integration_rate([x + 5.0 for x in layers], layers)
        >>> near = modality_integration_rate([x + 1.0 for x in layers], layers)
        >>> bool(near < far)
        True

    Source: Huang et al. 2024, https://arxiv.org/abs/2410.07167, section 3; official code
    shikiw/Modality-Integration-Rate, mir.py and mir_util.py, replace_outliers_with_median_l2.
    """
    check.choice("mode", mode, get_args(FrechetMode))
    if len(vision) != len(text) or not len(vision):
        raise ValueError(f"vision and text must have as many layers, at least one; got {len(vision)} and {len(text)}")
    total, kind = None, torch.float32
    for index, (v, t) in enumerate(zip(vision, text, strict=True)):
        v, t = both(v, t, f"vision[{index}]", f"text[{index}]")
        kind, (v, t) = stat_dtype(v.dtype), (v.double(), t.double())
        length = torch.linalg.vector_norm(t, dim=1).mean()
        found = distance(without_outliers(v / length), without_outliers(t / length), mode)
        total = found if total is None else total + found
    assert total is not None
    return total.log10().to(kind)


def both(x: Tensor, y: Tensor, name: str, other: str) -> tuple[Tensor, Tensor]:
    """Two sets of rows of one width, without gradient."""
    check.features(name, x)
    check.same_device(other, check.features(other, y), x.device)
    check.same_width(other, y, name, x)
    for key, z in ((name, x), (other, y)):
        if z.shape[0] < 2:
            raise ValueError(f"{key} must have at least 2 rows, got {z.shape[0]}")
    return upcast(x.detach()), upcast(y.detach())


def without_outliers(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=1)
    outlier = (norms - norms.median()).abs() > DEVIATIONS * norms.std()
    return torch.where(outlier.unsqueeze(1), x.median(0).values, x)


def distance(x: Tensor, y: Tensor, mode: FrechetMode) -> Tensor:
    means = x.mean(0), y.mean(0)
    x, y = ((z - mean) / (len(z) - 1) ** 0.5 for z, mean in zip((x, y), means, strict=True))
    apart = (means[0] - means[1]).square().sum() + x.square().sum() + y.square().sum()
    if not apart.isfinite():  # the solver refuses it
        return apart * torch.nan
    if mode == "fast":
        return apart - 2.0 * ((x.T @ x) * (y.T @ y)).sum()  # tr(C_x C_y)
    first, second = (torch.linalg.qr(z, mode="r").R for z in (x, y))
    root: Tensor = torch.linalg.svdvals(first @ second.T).sum()
    return apart - 2.0 * root
