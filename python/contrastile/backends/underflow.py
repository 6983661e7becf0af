"""float16 score gradients times a power of two: float16 ends at 2^16, and below 2^-24 it is 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bound_of(
    weights: Sequence[Tensor | float | None], rows: Sequence[Tensor | None], cols: Sequence[Tensor | None],
    own_scales: bool, like: Tensor,
) -> Tensor:  # fmt: skip
    """No slope is above 1, so no score gradient is above the sum of the largest weights, times the largest scale of
    each side, or where these are own ones of both. Nothing is read back: it stays on the device of `like`."""
    bound = like.new_zeros((), dtype=torch.float32)
    for weight in weights:
        if isinstance(weight, Tensor):
            bound = bound + weight.abs().amax() if len(weight) else bound
        elif weight is not None:
            bound = bound + abs(weight)
    for side in [[*rows, *cols]] if own_scales else [rows, cols]:
        largest = [scale.abs().amax() for scale in side if scale is not None and scale.numel()]
        bound = bound * torch.stack(largest).amax() if largest else bound
    return bound


def power_of_two(bound: Tensor) -> Tensor:
    """What brings the bound near 2^14; 1 where there is none."""
    exponent = (14.0 - torch.frexp(bound).exponent).clamp(-100.0, 100.0)
    usable = (bound > 0) & (bound < torch.inf)
    return torch.exp2(torch.where(usable, exponent, 0.0))
