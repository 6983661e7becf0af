"""Bases of small sets of vectors by CUDA C++: one kernel per direction instead of dozens per chunk of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .native_struct import new

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # Element in csrc/cuda/api.h


class Launcher(Protocol):
    """The cuda backend: its module, and where kernels are launched."""

    module: Any

    def place(self, device: torch.device) -> tuple[int, int]: ...


def takes(backend: Launcher, vectors: Sequence[Tensor]) -> bool:
    if not hasattr(backend.module, "basis"):  # built without, see setup.py
        return False
    fits = len(vectors) <= backend.module.largest_set and vectors[0].shape[1] <= backend.module.largest_width
    return fits and vectors[0].dtype in TYPES


def forward(backend: Launcher, vectors: Sequence[Tensor], directions: Tensor, lengths: Tensor) -> None:
    """Writes the first directions (count, M, D) and all lengths (t, M), contiguous, in the type basis() returns."""
    run(backend, backend.module.basis, vectors, directions, lengths, None)


def backward(
    backend: Launcher, vectors: Sequence[Tensor], grad_directions: Tensor, grad_lengths: Tensor, grads: Sequence[Tensor]
) -> None:
    """Writes the gradients of the vectors (M, D), contiguous, in their type."""
    upstream = grad_directions.contiguous(), grad_lengths.contiguous()
    run(backend, backend.module.basis_backward, vectors, *upstream, grads)


def run(
    backend: Launcher, function: Any, vectors: Sequence[Tensor], directions: Tensor, lengths: Tensor,
    grads: Sequence[Tensor] | None,
) -> None:  # fmt: skip
    """Copies made for the kernel may be freed while it runs: torch hands their memory on in the order of the stream."""
    rows = [x if x.stride(1) == 1 else x.contiguous() for x in vectors]
    sets = new(backend.module, "VectorSets")
    sets.type, sets.size, sets.count = TYPES[rows[0].dtype], len(rows), len(directions)
    for s, x in enumerate(rows):
        sets.vector[s], sets.stride[s] = x.data_ptr(), x.stride(0)
        if grads is not None:
            sets.grad[s] = grads[s].data_ptr()
    sets.samples, sets.width = rows[0].shape
    sets.directions, sets.lengths = directions.data_ptr(), lengths.data_ptr()
    sets.device, sets.stream = backend.place(rows[0].device)
    function(sets)
