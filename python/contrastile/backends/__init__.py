"""The backends in order of preference, and which of them can run what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import measured
from .base import Backend, BackendUnsupported, Bases
from .cpu import CpuBackend
from .cuda import CudaBackend
from .segments import SegmentReduces
from .torch_tiles import TorchBackend
from .triton import TritonBackend

__all__ = [
    "Backend",
    "BackendUnsupported",
    "available_backends",
    "backend_names",
    "reason",
    "select",
    "select_bases",
    "select_segments",
]

BACKENDS: tuple[Backend, ...] = (
    CpuBackend(),
    TorchBackend(),
    TritonBackend(),  # after torch, so that "auto" does not take what has never run on hardware
    CudaBackend(),
)


def backend_names() -> tuple[str, ...]:
    return tuple(backend.name for backend in BACKENDS)


def available_backends() -> dict[str, str | None]:
    """Every backend, with None if it can run on this machine, else the reason why not.

    Example:
        >>> available_backends()["torch"] is None
        True
    """
    return {backend.name: backend.unavailable() for backend in BACKENDS}


def reason(backend: Backend, device: torch.device, dtype: torch.dtype, second: bool = False) -> str | None:
    # in this order, so that features on the CPU never make a GPU backend start its driver
    found = backend.why_not(device, dtype) or backend.unavailable()
    return "it has no second operands" if found is None and second and not backend.takes_second else found


def select(name: str, device: torch.device, dtype: torch.dtype, pairs: int, second: bool = False) -> Backend:
    """The named backend; one that cannot run raises BackendUnsupported. second: pairs have second operands.

    "auto" is the backend that was measured to be fastest for so many pairs on this GPU, if it can run, else the first
    in the order of BACKENDS that can.
    """
    fastest = measured.fastest_backend(device, dtype, pairs) if name == "auto" and device.type == "cuda" else None
    for backend in BACKENDS if fastest is None else sorted(BACKENDS, key=lambda b: b.name != fastest):
        if name in ("auto", backend.name) and reason(backend, device, dtype, second) is None:
            return backend
    reasons = "; ".join(f"{b.name}: {reason(b, device, dtype, second) or 'usable'}" for b in BACKENDS)
    raise BackendUnsupported(f"backend {name!r} cannot run features of dtype {dtype} on {device}. Backends: {reasons}")


def select_segments(name: str, device: torch.device, dtype: torch.dtype, pairs: int) -> tuple[Backend, SegmentReduces]:
    """As `select`, among the backends with reduces over segments; also those."""
    backend = select(name, device, dtype, pairs)
    run = backend.segments()
    if run is None and name == "auto":
        backend = select("torch", device, dtype, pairs)
        run = backend.segments()
    if run is None:
        able = [backend.name for backend in BACKENDS if backend.segments() is not None]
        raise BackendUnsupported(f"backend {name!r} has no segment_reduce; {', '.join(able)} have")
    return backend, run


def select_bases(vectors: Sequence[Tensor]) -> Bases | None:
    """The kernels that make bases of these vectors; None: no kernel can, or it was not measured on the device to be
    right and faster than torch's operations."""
    device = vectors[0].device
    for backend in BACKENDS:
        if device.type == "cuda" and measured.fastest_basis(device) != backend.name:
            continue
        if reason(backend, device, torch.float32) is None and (run := backend.bases(vectors)) is not None:
            return run
    return None
