"""A step of `clip_loss` over its matrix products alone, in torch: what statistics, slopes and packing cost beside them.

CPU time of one thread, both in turn. Goal: 1.15.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

import contrastile
import lines
from bench_small import DTYPES, in_turn, one_thread, unit_rows  # noqa: F401

GOAL = 1.15


class Products:
    """The three products of N x N score gradients, 6 N^2 D operations, as a step without a gradient."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x.detach(), y.detach()
        self.grad = self.x @ self.y.T

    def __call__(self) -> Products:
        self.x @ self.y.T, self.grad @ self.y, self.grad.T @ self.x
        return self

    def backward(self) -> None:
        """They are done."""


@pytest.mark.parametrize("n", [1024, 2048, 4096])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def bench_products(benchmark, settings, one_thread, n: int, dtype: torch.dtype) -> None:  # noqa: F811
    x, y = (unit_rows(n, 512, dtype=dtype) for _ in range(2))
    ours, products = partial(contrastile.clip_loss, x, y, 20.0), Products(x, y)
    one, other = in_turn(ours, products, [x, y], rounds=10, repeats=1)
    figures = dict(ours=round(one), products=round(other), ratio=round(one / other, 3), goal=GOAL)
    lines.append(settings.out, "products", n=n, d=512, dtype=str(dtype)[6:], **figures)
    print(f"{n:>5} {str(dtype)[6:]:<9}{one / 1e3:>9.1f}{other / 1e3:>9.1f} ms  {one / other:.2f} (goal {GOAL})")
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
