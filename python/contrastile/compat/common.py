"""What the drop-ins share: the refusal of several processes, one-element scales, features under autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def refuse_ranks(what: str, ranks: int) -> None:
    """Losses over several processes are not there yet. `what` names the argument that asks for them."""
    if ranks > 1:
        raise NotImplementedError(f"{what} asks for the features of {ranks} processes: only one is supported yet")


def group_size() -> int:
    """Processes of torch.distributed's default group; 1 without one."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


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
