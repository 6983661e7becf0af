"""Tensors that belong to a module's state and are no buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class KeptTensors(nn.Module):
    """Tensors by name that are in the state_dict and follow the module to a device (one number stays on the host), and
    nothing else.

    DistributedDataParallel sends all buffers of rank 0 to the others in every step. These are large, and every rank
    makes the same of them anyway. module.half() and the like leave their types alone.
    """

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeptTensors:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, x in self.tensors.items():
            if x.dim() == 0:
                continue
            device = fn(x.new_empty(0, dtype=torch.float32)).device
            self.tensors[name] = torch.empty_like(x, device=device) if x.is_meta else x.to(device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: x for name, x in self.tensors.items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """All of them or none."""
        found, wrong = {}, []
        for name, x in self.tensors.items():
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
            elif (shape := tuple(state_dict[key].shape)) != tuple(x.shape):
                wrong.append(f"{key} must have shape {tuple(x.shape)}, got {shape}")
            else:
                found[name] = state_dict[key]
        known = {prefix + name for name in self.tensors}
        if strict:
            unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in known]
        error_msgs += wrong
        if len(found) == len(self.tensors):
            for name, value in found.items():
                self.tensors[name].copy_(value)
