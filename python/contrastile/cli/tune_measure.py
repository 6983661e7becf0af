"""Time and rightness of a kernel on a GPU, for whatever chooses between kernels by them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contrastile.benchmark.clock import CudaClock

LEAST_SAMPLE = 10e-3  # seconds; the device waits some 10 microseconds for the first launch of a sample
AGREEMENT = 1e-3  # relative, for float32; halves are allowed the distance of two neighbours


def seconds_of(call: Callable[[], object], repeats: int = 5) -> float:
    """Median over `repeats` samples of the mean of as many calls in a row as fill LEAST_SAMPLE; the call is warm."""
    clock, inner = CudaClock(), 1

    def sample() -> float:
        return clock.seconds(lambda _: call(), inner, 0)

    took = sample()
    while took * inner < LEAST_SAMPLE:  # again: a single call takes the host's time for its launch
        inner = max(inner + 1, math.ceil(1.1 * LEAST_SAMPLE / took))
        took = sample()
    return statistics.median([took, *(sample() for _ in range(repeats - 1))])


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, torch.empty gives NaN and the largest integers, so that what a kernel leaves out is seen. Without it the
    allocator returns the memory in which the kernel before wrote the right numbers."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill


def agree(found: Sequence[Tensor], truth: Sequence[Tensor]) -> bool:
    """Whether every tensor is finite and no further from its truth than AGREEMENT, or a rounding of its type, times
    the truth's norm."""
    return all(_agrees(x, y) for x, y in zip(found, truth, strict=True))


def _agrees(x: Tensor, y: Tensor) -> bool:
    bound = max(AGREEMENT, torch.finfo(x.dtype).eps)
    distance = (x.float() - y.float()).norm()
    return bool(x.isfinite().all() & y.isfinite().all() & (distance <= bound * y.float().norm()))
