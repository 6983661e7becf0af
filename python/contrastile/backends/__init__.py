"""The backends in order of preference, and which of them can run what."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import cuda_segments, measured, torch_segments, triton_segments
from .base import Backend, BackendUnsupported
from .cpu import CpuBackend
from .cuda import CudaBackend
from .torch_tiles import TorchBackend
from .triton import TritonBackend

__all__ = [
    "Backend",
    "BackendUnsupported",
    "available_backends",
    "backend_names",
    "cuda_kernels",
    "reason",
    "select",
    "select_segments",
]

BACKENDS: tuple[Backend, ...] = (
    CpuBackend(),
    TorchBackend(),
    TritonBackend(),  # after torch, so that "auto" does not take what has never run on hardware
    CudaBackend(),
)
SEGMENT_KERNELS: dict[str, Callable[..., None]] = {
    "torch": torch_segments.segment_max,
    "triton": triton_segments.segment_max,
    "cuda": cuda_segments.segment_max,
}


def backend_names() -> tuple[str, ...]:
    return tuple(backend.name for backend in BACKENDS)


def available_backends() -> dict[str, str | None]:
    """Every backend with None if it can run on this machine, else the reason why not."""
    return {backend.name: backend.unavailable() for backend in BACKENDS}


def reason(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    # in this order, so that features on the CPU never make a GPU backend start its driver
    return backend.why_not(device, dtype) or backend.unavailable()


def select(name: str, device: torch.device, dtype: torch.dtype, pairs: int) -> Backend:
    """The named backend; one that cannot run raises BackendUnsupported.

    "auto" is the backend that was measured to be fastest for so many pairs on this GPU, if it can run, else the first
    in the order of BACKENDS that can.
    """
    fastest = measured.fastest_backend(device, dtype, pairs) if name == "auto" and device.type == "cuda" else None
    for backend in BACKENDS if fastest is None else sorted(BACKENDS, key=lambda b: b.name != fastest):
        if name in ("auto", backend.name) and reason(backend, device, dtype) is None:
            return backend
    reasons = "; ".join(f"{b.name}: {reason(b, device, dtype) or 'usable'}" for b in BACKENDS)
    raise BackendUnsupported(f"backend {name!r} cannot run features of dtype {dtype} on {device}. Backends: {reasons}")


def select_segments(
    name: str, device: torch.device, dtype: torch.dtype, pairs: int
) -> tuple[Backend, Callable[..., None]]:
    """As `select`, among the backends with a kernel for maxima over segments; also that kernel."""
    if name not in ("auto", *SEGMENT_KERNELS):
        raise BackendUnsupported(f"backend {name!r} has no segment_max; {', '.join(SEGMENT_KERNELS)} have")
    backend = select(name, device, dtype, pairs)
    if backend.name not in SEGMENT_KERNELS:
        backend = select("torch", device, dtype, pairs)
    return backend, SEGMENT_KERNELS[backend.name]


def cuda_kernels(device: torch.device) -> CudaBackend | None:
    """The backend of the per-sample kernels in CUDA C++, which serve whatever backend serves the pairs; None: no such
    kernel can run on the device, or it was not measured there to be right and faster than torch's operations. They
    take every type of features."""
    if device.type == "cuda" and measured.fastest_basis(device) != "cuda":
        return None
    for backend in BACKENDS:
        if isinstance(backend, CudaBackend) and reason(backend, device, torch.float32) is None:
            return backend
    return None
