"""Scores of images or tokens against a list of texts or tokens: is it known, how alike are two sets."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..losses.common import unit, upcast
from ..ops import check, pair_reduce, row_lse

SetReduce: TypeAlias = Literal["max_mean", "mean", "max", "min"]


def mcm_score(
    image_features: Tensor, text_features: Tensor, *, temperature: float = 1.0, normalize: bool = False
) -> Tensor:
    """Maximum concept matching: an image's largest probability among the known classes. A low score: none fits.

        max_c softmax_c(<x_i, y_c> / temperature)

    Args:
        image_features: (N, D); unit rows in the paper, or set normalize=True.
        text_features: (C, D), one row per class.
        temperature: > 0; 1 in the paper.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.

    Returns: (N,), with gradient, float32 (float64 for float64 features); NaN without classes.
    Cost: 4 N C D FLOP, O((N + C) D) memory.

    Example:
        >>> mcm_score(torch.randn(3, 16), torch.randn(5, 16), normalize=True).shape
        torch.Size([3])

    Source: Ming et al. 2022, https://arxiv.org/abs/2211.13445; as CMA, https://arxiv.org/abs/2503.18817, reports it.
    """
    scale = 1.0 / positive("temperature", temperature)
    x, y = of_one_width("image_features", image_features, "text_features", text_features, normalize)
    largest = pair_reduce(x, y, scale=scale, reduce="max").rows
    return (largest - row_lse(x, y, scale=scale)).exp()


def neg_label_score(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    *,
    temperature: float = 0.01,
    normalize: bool = False,
) -> Tensor:
    """NegLabel: the known classes' share of the softmax over these classes and many texts that are none of them.

        sum_{c known} e^{<x_i, y_c> / temperature} / sum_{c known or negative} e^{<x_i, y_c> / temperature}

    Args:
        image_features: (N, D); unit rows in the paper, or set normalize=True.
        text_features: (C, D), of the known classes.
        negative_features: (M, D), of other words; 10,000 in the paper.
        temperature: > 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.

    Returns: (N,), with gradient, float32 (float64 for float64 features). Computed as a sigmoid of the difference of
    both log-sum-exps, so that a share keeps its digits however small it is. 1 without negatives.
    Cost: 2 N (C + M) D FLOP, O((N + C + M) D) memory.

    Example:
        >>> share = neg_label_score(torch.randn(3, 16), torch.randn(5, 16), torch.randn(50, 16), normalize=True)
        >>> bool(((0 <= share) & (share <= 1)).all())
        True

    Source: Jiang et al. 2024, https://arxiv.org/abs/2403.20078, without its groups; as CMA,
    https://arxiv.org/abs/2503.18817, reports it.
    """
    scale = 1.0 / positive("temperature", temperature)
    x, known = of_one_width("image_features", image_features, "text_features", text_features, normalize)
    x, others = of_one_width("image_features", x, "negative_features", negative_features, normalize)
    return torch.sigmoid(row_lse(x, known, scale=scale) - row_lse(x, others, scale=scale))


def set_similarity(x: Tensor, y: Tensor, *, reduce: SetReduce = "max_mean", normalize: bool = True) -> Tensor:
    """How similar two sets of tokens are, from the cosines of all their pairs, which are not held.

        "max_mean"  mean_i max_j <x_i, y_j>, not symmetric        "mean", "max", "min"  over all i and j

    Args:
        x, y: (N, D), (M, D), N, M >= 1: tokens of two samples or modalities, neither matched nor of equal number.
        reduce: One of the four names above.
        normalize: True: cosines. False: dot products.

    Returns: A 0-dim tensor, with gradient, float32 (float64 for float64 features).
    Cost: 2 N M D FLOP, O((N + M) D) memory; "mean" O((N + M) D).

    Example:
        >>> set_similarity(torch.eye(2), torch.tensor([[2.0, 0.0]])).item()
        0.5

    Source: Shukor and Cord 2024 (IMA), https://arxiv.org/abs/2405.16700; official code mshukor/ima-lmms,
    compute_sim.py.
    """
    check.choice("reduce", reduce, get_args(SetReduce))
    x, y = of_one_width("x", x, "y", y, normalize)
    for name, z in (("x", x), ("y", y)):
        if z.shape[0] < 1:
            raise ValueError(f"{name} must have at least 1 row, got 0")
    if reduce == "mean":
        return (upcast(x).mean(0) * upcast(y).mean(0)).sum()
    sign = -1.0 if reduce == "min" else 1.0
    best = pair_reduce(x, y, scale=sign, reduce="max").rows
    return best.mean() if reduce == "max_mean" else sign * best.max()


def of_one_width(name: str, x: Tensor, other: str, y: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Features of one type, unit rows if asked."""
    check.same_width(other, check.features(other, y), name, check.features(name, x))
    check.same_device(other, y, x.device)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return unit(x.to(dtype), normalize), unit(y.to(dtype), normalize)


def positive(name: str, x: float) -> float:
    value = check.scalar(name, x, positive=True)
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number, got a tensor")
    return value
