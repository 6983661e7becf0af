"""float16 score gradients times a power of two: float16 ends at 2^16, and below 2^-24 it is 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..backends.base import Backend
from ..spec import Gradients, PairCall


@contextmanager
def scaled(call: PairCall, backend: Backend, weights: Sequence[Tensor | None], grads: Gradients) -> Iterator[None]:
    """Inside, score gradients are wanted times call.factor; the sums they were added to are divided by it again."""
    if not backend.narrow(call):
        yield
        return
    call.factor = factor = power_of_two(bound_of(call, weights))
    try:
        yield
    finally:
        call.factor = None
    for grad in (grads.a, *grads.blocks):
        if grad is not None:
            grad.div_(factor)


def bound_of(call: PairCall, weights: Sequence[Tensor | None]) -> Tensor:
    """No slope is above 1, so no score gradient is above the sum of the largest weights, times the scales. One bound
    for the whole call, because blocks add up. Nothing is read back: it stays on the device."""
    bound = call.rows.features.new_zeros((), dtype=torch.float32)
    for weight in weights:
        bound = bound if weight is None or not len(weight) else bound + weight.abs().amax()
    for sides in ([call.rows], call.blocks):
        scales = [side.scale.abs().amax() for side in sides if side.scale is not None and len(side)]
        bound = bound * torch.stack(scales).amax() if scales else bound
    return bound


def power_of_two(bound: Tensor) -> Tensor:
    """What brings the bound near 2^14; 1 where there is none."""
    exponent = (14.0 - torch.frexp(bound).exponent).clamp(-100.0, 100.0)
    usable = (bound > 0) & (bound < torch.inf)
    return torch.exp2(torch.where(usable, exponent, 0.0))
