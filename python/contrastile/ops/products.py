"""Matrix products that autocast does not reach, in no derivative either.

Autograd computes a derivative under the autocast that is on when backward runs, not under that of the forward pass: a
product formed outside of autocast would still get gradients rounded to half precision from a backward pass inside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..replay import as_one_step
from . import check
from .check import plain
from .library import no_autocast


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """x @ y, (.., P, Q) by (.., Q, R) with equal leading dimensions and of one type, in that type; differentiable any
    number of times. Transforms of torch.func and forward-mode AD see plain torch."""
    if check.transformed():
        return multiplied(x, y)
    value: Tensor = as_one_step(Product.apply, x, y, pairs=y.shape[-1] * x.shape[:-1].numel() if plain(x) else 0)
    return value


def multiplied(x: Tensor, y: Tensor) -> Tensor:
    with no_autocast(x):
        return x @ y


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return multiplied(x, y)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad
        return matmul(gout, y.mT) if need_x else None, matmul(x.mT, gout) if need_y else None
