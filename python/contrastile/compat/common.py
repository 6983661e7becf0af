"""What the drop-ins share: scaled gradients, one-element scales, features under autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None]:
        return gout * ctx.factor, None


def gradient_scaled(x: Tensor, factor: float | Tensor) -> Tensor:
    """The identity, with its gradient times a factor."""
    scaled: Tensor = ScaledGradient.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


def one_element(x: Any) -> Any:
    """A number for all logits as a 0-dim tensor: peers that multiply by it also take it as (1,) or (1, 1)."""
    return x.reshape(()) if isinstance(x, Tensor) and x.dim() <= 2 and x.numel() == 1 else x


def autocast_features(*features: Tensor) -> tuple[Tensor, ...]:
    """The features as a matrix product gets them under autocast: in its type, float64 as it is.

    Peers multiply features with torch.matmul, and rows that were normalised under autocast are float32. Without this
    a half-precision training would multiply them at the speed of float32; the logits stay float32 all the same.
    """
    return tuple(autocast_feature(x) for x in features)


def autocast_feature(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        return x  # for the loss to refuse
    device = x.device.type
    if x.dtype == torch.float64 or not x.is_floating_point() or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
