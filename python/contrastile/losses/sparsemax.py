"""Sparsemax: the projection of scores onto the simplex, a softmax of which most entries are 0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check
from .common import upcast


def sparsemax(x: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """The probabilities nearest to the scores of each row: most are exactly 0.

        p = argmin_{p >= 0, sum p = 1} |p - x|^2 = max(x - t, 0),   t so that they add up to 1

    Args:
        x: (..., K), float32 | bfloat16 | float16 | float64; computed in float32 (float64 for float64).
        mask: bool, of x's shape, True = keep. Dropped entries are 0 whatever x holds there, even NaN.

    Returns: x's shape and type, differentiable any number of times: on the support (p > 0) the gradient is that of p
    minus its mean over the support, elsewhere 0. Scores of -inf are 0. A row with scores of +inf splits 1 among them,
    without gradient; a row with NaN is NaN. A row with no score above -inf (all dropped, K = 0) is zeros.
    Cost: one sort per row; nothing waits for a GPU.

    Example:
        >>> sparsemax(torch.tensor([[1.0, 0.8, -3.0]]))
        tensor([[0.6000, 0.4000, 0.0000]])

    Source: Martins and Astudillo 2016, https://arxiv.org/abs/1602.02068, algorithm 1.
    """
    if check.tensor("x", x).dim() == 0:
        raise ValueError("x must have shape (..., K), got ()")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if mask is not None:
        x = x.masked_fill(~check.bool_mask("mask", mask, tuple(x.shape), x.device), -torch.inf)
    if x.shape[-1] == 0:
        return x.clone()
    scores = upcast(x)
    with torch.no_grad():
        top = scores.amax(-1, keepdim=True)
        infinite = (top == torch.inf) & (scores == torch.inf)
        shift = torch.where(top.isinf(), 0.0, top)  # differences from the largest: small numbers are exact
        support = supported(scores - shift) & ~infinite & (top != torch.inf)
        share = infinite / infinite.sum(-1, keepdim=True).clamp_min(1)
    kept = torch.where(support, scores - shift, 0.0)
    threshold = (kept.sum(-1, keepdim=True) - 1.0) / support.sum(-1, keepdim=True).clamp_min(1)
    found = torch.where(support, kept - threshold, share.to(kept.dtype))
    return torch.where(top.isnan(), torch.nan, found).to(x.dtype)


def supported(z: Tensor) -> Tensor:
    """Which scores, of which the largest is 0, are above the threshold of their row."""
    ordered = z.sort(-1, descending=True).values
    places = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    # only scores above -1 can be; in float64, where there is one, as sums of 16,000 scores lose the digits of one
    wide = ordered.clamp_min(-1.0).to(torch.float64 if z.device.type != "mps" else z.dtype)
    count = ((1.0 + places * ordered > wide.cumsum(-1)) & (ordered > -1.0)).sum(-1, keepdim=True)
    last = ordered.gather(-1, (count - 1).clamp_min(0))
    return (z >= last) & (count > 0)
