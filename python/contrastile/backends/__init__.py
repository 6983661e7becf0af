"""The backends in order of preference, and which of them can run what."""

from __future__ import annotations

import torch

from .base import Backend, BackendUnsupported
from .cpu import CpuBackend
from .cuda import CudaBackend
from .torch_tiles import TorchBackend
from .triton import TritonBackend

__all__ = ["Backend", "BackendUnsupported", "available_backends", "backend_names", "cuda_kernels", "select"]

BACKENDS: tuple[Backend, ...] = (
    CpuBackend(),
    TorchBackend(),
    TritonBackend(),  # after torch, so that "auto" does not take what has never run on hardware
    CudaBackend(),
)


def backend_names() -> tuple[str, ...]:
    return tuple(backend.name for backend in BACKENDS)


def available_backends() -> dict[str, str | None]:
    """Every backend with None if it can run on this machine, else the reason why not."""
    return {backend.name: backend.unavailable() for backend in BACKENDS}


def reason(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    # in this order, so that features on the CPU never make a GPU backend start its driver
    return backend.why_not(device, dtype) or backend.unavailable()


def select(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The named backend, or for "auto" the first that can run; a named one that cannot raises BackendUnsupported."""
    for backend in BACKENDS:
        if name in ("auto", backend.name) and reason(backend, device, dtype) is None:
            return backend
    reasons = "; ".join(f"{b.name}: {reason(b, device, dtype) or 'usable'}" for b in BACKENDS)
    raise BackendUnsupported(f"backend {name!r} cannot run features of dtype {dtype} on {device}. Backends: {reasons}")


def cuda_kernels(device: torch.device) -> CudaBackend | None:
    """The backend of the per-sample kernels in CUDA C++, which serve whatever backend serves the pairs; None: no such
    kernel can run on the device. They take every type of features."""
    for backend in BACKENDS:
        if isinstance(backend, CudaBackend) and reason(backend, device, torch.float32) is None:
            return backend
    return None
