"""Score gradients of a call in float16, see backends.underflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ..backends.base import Backend
from ..backends.underflow import bound_of, power_of_two
from ..spec import Gradients, PairCall


@contextmanager
def scaled(call: PairCall, backend: Backend, weights: Sequence[Tensor | None], grads: Gradients) -> Iterator[None]:
    """Inside, score gradients are wanted times call.factor; the sums they were added to are divided by it again."""
    if not backend.narrow(call):
        yield
        return
    rows, cols = [call.rows.scale], [side.scale for side in call.blocks]
    # one bound for the whole call, because blocks add up
    call.factor = factor = power_of_two(bound_of(weights, rows, cols, call.spec.own_scales, call.rows.features))
    try:
        yield
    finally:
        call.factor = None
    for grad in (grads.a, *grads.blocks):
        if grad is not None:
            grad.div_(factor)
