"""Points between others on the sphere."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ..ops import check
from .common import feature_pair, like_statistics, paired_dot, upcast

Share: TypeAlias = float | Tensor  # of one of two items: a number, or one for each row
NEAR = 0.01  # sin^2 of half an angle below which the sines' ratio is a series
TERMS = 8  # of that series


def slerp(x: Tensor, y: Tensor, share: Share) -> Tensor:
    """Points on the shortest arcs from y to x, row by row.

        m_i = [ sin(share a) x_i + sin((1 - share) a) y_i ] / sin a,      a = arccos <x_i, y_i>

    Args:
        x, y: (N, D), unit rows.
        share: The share of x, in [0, 1]: a float, a 0-dim tensor, or (N,). 1 gives x. No gradient.

    Returns: (N, D) in the features' type, unit rows. Equal points map to themselves. Opposite points (1 + <x_i, y_i>
    below twice the square root of the type's precision) have no shortest arc; the line share x + (1 - share) y joins
    them. Gradients are finite everywhere.

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> mixed = slerp(x, x.flip(0), 0.7)

    Source: Shoemake 1985; Oh et al. 2023 (geodesic multi-modal mixup), https://arxiv.org/abs/2203.03897.
    """
    x, y = feature_pair("x", x, "y", y, False)
    return between(upcast(x), upcast(y), own_share(share, x)).to(x.dtype)


def between(x: Tensor, y: Tensor, share: Share) -> Tensor:
    """`slerp` of wide rows and a checked share."""
    half = 0.5 - 0.5 * paired_dot(x, y)  # sin^2 of half the angle
    near, far = half < NEAR, half > 1.0 - torch.finfo(half.dtype).eps ** 0.5
    angle = torch.acos(1.0 - 2.0 * torch.where(near | far, 0.5, half))
    parts = []
    for part in (share, 1.0 - share):
        apart = torch.where(far, part, torch.sin(part * angle) / torch.sin(angle))
        parts.append(torch.where(near, sine_ratio(part, torch.where(near, half, 0.0)), apart).unsqueeze(1))
    return parts[0] * x + parts[1] * y


def sine_ratio(part: Share, half: Tensor) -> Tensor:
    """sin(part a) / sin a for small half = sin^2(a / 2): part 2F1(1 - part, 1 + part; 3/2; half)."""
    total = term = torch.ones_like(half)
    for k in range(1, TERMS + 1):
        term = term * half * ((k * k - part * part) / (k * (k + 0.5)))
        total = total + term
    return part * total


def own_share(share: Share, like: Tensor) -> Share:
    """Checked, in the type of the statistics: a number, or one for each row of `like`."""
    n, device = like.shape[0], like.device
    if check.is_vector("share", share, n):
        value: Share = check.vector("share", share, n, device)
    else:
        value = check.scalar("share", share, device=device)
    check.share("share", value)
    return like_statistics(value, like) if isinstance(value, Tensor) else value
