"""A step of `clip_loss` over its matrix products alone, in torch: what statistics, slopes and packing cost beside them.

CPU time of one thread, both in turn. Goal: 1.15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch

import contrastile
import lines
from bench_small import DTYPES, in_turn, one_thread, unit_rows  # noqa: F401

GOAL = 1.15


@dataclass(frozen=True)
class Products:
    """Matrix products as a step without a gradient: backward finds them done."""

    multiply: Callable[[], object]

    def __call__(self) -> Products:
        self.multiply()
        return self

    def backward(self) -> None: ...


def clip_products(x: torch.Tensor, y: torch.Tensor) -> Products:
    """The three products of N x N score gradients, 6 N^2 D operations."""
    x, y = x.detach(), y.detach()
    grad = x @ y.T
    return Products(lambda: (x @ y.T, grad @ y, grad.T @ x))


@pytest.mark.parametrize("n", [1024, 2048, 4096])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def bench_products(benchmark, settings, one_thread, n: int, dtype: torch.dtype) -> None:  # noqa: F811
    x, y = (unit_rows(n, 512, dtype=dtype) for _ in range(2))
    ours, products = partial(contrastile.clip_loss, x, y, 20.0), clip_products(x, y)
    one, other = in_turn(ours, products, [x, y], rounds=10, repeats=1)
    figures = dict(ours=round(one), products=round(other), ratio=round(one / other, 3), goal=GOAL)
    lines.append(settings.out, "products", n=n, d=512, dtype=str(dtype)[6:], **figures)
    print(f"{n:>5} {str(dtype)[6:]:<9}{one / 1e3:>9.1f}{other / 1e3:>9.1f} ms  {one / other:.2f} (goal {GOAL})")
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
