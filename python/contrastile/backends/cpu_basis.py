"""Orthonormal bases of small sets of vectors on a CPU by the native kernel, which ops/basis.py has in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Bases
from .native_block import threads_for

WORK = 16  # multiply-adds for each number of each vector, about


def cpu_bases(module: Any, vectors: Sequence[Tensor]) -> Bases | None:
    """None: of float64, or of more vectors than the kernel takes."""
    if vectors[0].dtype == torch.float64 or len(vectors) > module.largest_basis:
        return None

    def run(vectors: Sequence[Tensor], grads: Sequence[Tensor], directions: Tensor, lengths: Tensor) -> None:
        wide, (samples, d) = [x.float().contiguous() for x in vectors], vectors[0].shape
        module.basis(
            [x.data_ptr() for x in wide], [x.data_ptr() for x in grads], samples, d,
            vectors[0].dtype == torch.float32, directions.shape[0], directions.data_ptr(), lengths.data_ptr(),
            threads_for(WORK * samples * d * len(vectors)),
        )  # fmt: skip

    def forward(vectors: Sequence[Tensor], directions: Tensor, lengths: Tensor) -> None:
        run(vectors, [], directions, lengths)

    def backward(
        vectors: Sequence[Tensor], grad_directions: Tensor, grad_lengths: Tensor, grads: Sequence[Tensor]
    ) -> None:
        wide = [x if x.dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32) for x in grads]
        run(vectors, wide, grad_directions.float().contiguous(), grad_lengths.float().contiguous())
        for grad, found in zip(grads, wide, strict=True):
            if grad is not found:
                grad.copy_(found)

    return Bases(forward, backward)
