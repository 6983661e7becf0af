"""Sums over blocks of rows, whose gradients are formed in the forward pass: no block waits for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..ops.autograd import once, scaled

MIN_ROWS = 128


class BlockSums(torch.autograd.Function):
    """The sum of function(start, stop, *tensors) over blocks of rows; forward forms the gradients, backward scales."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], blocks: Iterator[tuple[int, int]], *tensors: Tensor
    ) -> Tensor:
        needs = ctx.needs_input_grad[2:]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(tensors, needs, strict=True)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        total = tensors[0].new_zeros(())
        for start, stop in blocks:
            with torch.enable_grad():
                value = function(start, stop, *leaves)
            torch.autograd.backward(value, inputs=wanted)
            total = total + value.detach()
        ctx.save_for_backward(*(leaf.grad for leaf in wanted), *(x for x in tensors if x.requires_grad))
        ctx.needs = needs
        return total

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> Any:
        grads = iter(once(scaled, gout, *ctx.saved_tensors))
        return None, None, *(next(grads) if need else None for need in ctx.needs)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a backward pass within a forward pass cannot be traced
def sum_of_blocks(function: Callable[..., Tensor], n: int, rows: int, *tensors: Tensor) -> Tensor:
    """The sum of function(start, stop, *tensors) over blocks of so many of n rows. A scalar, differentiable once."""
    blocks = row_blocks(n, rows)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        value: Tensor = BlockSums.apply(function, blocks, *tensors)  # type: ignore[no-untyped-call]
        return value
    return torch.stack([function(start, stop, *tensors) for start, stop in blocks]).sum()


def row_blocks(n: int, rows: int) -> Iterator[tuple[int, int]]:
    rows = max(rows, MIN_ROWS)
    return ((start, min(start + rows, n)) for start in range(0, max(n, 1), rows))  # an empty one has gradients, too
