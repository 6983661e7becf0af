"""What Triton can do on a device: whether it runs there, tiles, how features are multiplied and copied."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import measured

OLDEST_TRITON = (3, 4)
OLDEST_CAPABILITY = (8, 0)  # what Triton supports, and the first with bfloat16 products


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@cache
def missing_triton() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"the package triton cannot be imported ({error})"
    version = str(triton.__version__)
    if tuple(int(x) for x in version.split(".")[:2]) < OLDEST_TRITON:
        return f"it needs Triton {'.'.join(map(str, OLDEST_TRITON))} or newer, found {version}"
    return None


@cache
def old_device(device: torch.device) -> str | None:
    """Why the GPU is too old; ROCm devices have no such number."""
    if torch.version.hip is not None:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"it needs compute capability {OLDEST_CAPABILITY[0]}.0 or newer, {device} has {capability}"
    return None


@cache
def architecture(device: torch.device) -> str | None:
    """The entry of the tile table; None in the interpreter."""
    from ..triton_kernels import config

    if device.type == "cpu":
        return None
    return "gfx942" if torch.version.hip else config.architecture(torch.cuda.get_device_capability(device))


def tile_for(device: torch.device, kind: str, weight: int) -> Any:
    """weight: of the epilogue, as in triton_kernels/config.py."""
    from ..triton_kernels import config

    arch = architecture(device)
    if arch is None:
        return config.INTERPRETER
    fastest = measured.fastest_tile(device, kind, weight)
    return config.Tile(*fastest) if fastest else config.tile(arch, kind, weight)


def precision(features: Tensor) -> str:
    """How float32 is multiplied: as it is, unless torch's own switch allows TF32. Products of halves are exact."""
    possible = features.dtype == torch.float32 and features.is_cuda and torch.version.hip is None
    return "tf32" if possible and tf32_allowed() else "ieee"


def kind_of(features: Tensor) -> str:
    """The kind of product in the tile table."""
    return precision(features) if features.dtype == torch.float32 else "half"


def tf32_allowed() -> bool:
    """torch's switch. From 2.9 on it has two names, and reading the old one raises once the new one was set."""
    switch = torch.backends.cuda.matmul
    found = getattr(switch, "fp32_precision", None)
    return bool(switch.allow_tf32) if found is None else bool(found == "tf32")


@cache
def copies_tensors(device: torch.device, kind: str) -> bool:
    from ..triton_kernels import config

    arch = architecture(device)
    return arch is not None and config.has_tma(arch, kind)


def copyable(x: Tensor) -> bool:
    """What a tensor descriptor demands: something to copy, rows and matrices that begin at multiples of 16 bytes."""
    return (
        x.numel() > 0
        and x.stride(-1) == 1
        and all(offset % 16 == 0 for offset in (x.data_ptr(), *(step * x.itemsize for step in x.stride()[:-1])))
    )


def described(x: Tensor, *block: int) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block))


@cache
def processors(device: torch.device) -> int:
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on torch's current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
