"""Dot products of rows with rows of a bank that an index names, without a copy of those: some are gathered at a time,
in the backward pass again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .autograd import forward_only, once, run
from .library import LIB, TAGS, no_autocast, register

# numbers of the bank that are gathered at a time: what a core's cache holds; elsewhere, what keeps a device busy
GATHERED_CPU, GATHERED = 1 << 18, 1 << 24

LIB.define("gathered_dots(Tensor rows, Tensor bank, Tensor index) -> Tensor", tags=TAGS)
LIB.define(
    "gathered_dots_backward(Tensor rows, Tensor bank, Tensor index, Tensor grad, bool[] needs) -> Tensor[]", tags=TAGS
)


def gathered_dots(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """(N, K): <rows_i, bank_{index_ik}>; 0, without gradient, where index leaves the bank.

    rows: (N, D), in whose type the products are; bank: (B, D) of any type, converted as it is gathered. index: (N, K),
    integers. Differentiable once; the gradient of the bank is added up in a fixed order.
    """
    values: Tensor = GatheredDots.apply(rows, bank, index)  # type: ignore[no-untyped-call]
    return values


class GatheredDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(rows, bank, index)
        return run("gathered_dots", forward_dots, rows, rows, bank, index)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[:2])
        found = iter(once(partial(gradients, needs), grad, *ctx.saved_tensors))
        return (*(next(found) if need else None for need in needs), None)


def gradients(needs: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
    grad, rows, bank, index = tensors
    return tuple(torch.ops.contrastile.gathered_dots_backward.default(rows, bank, index, grad, needs))


# ---- implementations ------------------------------------------------------------------------------------------------


def blocks(index: Tensor, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of index: whole rows where one fits."""
    n, k = index.shape
    size = GATHERED_CPU if index.device.type == "cpu" else GATHERED
    columns = max(min(size // max(width, 1), k), 1)
    rows = max(size // max(width * k, 1), 1)
    for first in range(0, n, rows):
        for start in range(0, k, columns):
            yield slice(first, first + rows), slice(start, start + columns)


def places(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where the index leaves the bank, and one that does not."""
    missing = (index < 0) | (index >= size)
    return missing, index.long().masked_fill(missing, 0)


def gathered(bank: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, k, D) rows of the bank, zeros where there are none."""
    missing, inside = places(index, bank.shape[0])
    found = bank.index_select(0, inside.flatten()).to(dtype).view(*index.shape, bank.shape[1])
    if missing.device.type != "cpu" or missing.any():  # to look would wait for a device
        found.masked_fill_(missing.unsqueeze(2), 0.0)
    return found


def forward_dots(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    values = rows.new_zeros(index.shape)
    if bank.shape[0]:
        with no_autocast(rows):
            for own, columns in blocks(index, rows.shape[1]):
                found = gathered(bank, index[own, columns], rows.dtype)
                values[own, columns] = torch.bmm(found, rows[own].unsqueeze(2)).squeeze(2)
    return values


def backward_dots(rows: Tensor, bank: Tensor, index: Tensor, grad: Tensor, needs: Sequence[bool]) -> list[Tensor]:
    of_rows = torch.zeros_like(rows, memory_format=torch.contiguous_format) if needs[0] else None
    of_bank = bank.new_zeros(bank.shape, dtype=rows.dtype) if needs[1] else None
    if bank.shape[0]:
        with no_autocast(rows):
            for own, columns in blocks(index, rows.shape[1]):
                part, part_grad = index[own, columns], grad[own, columns]
                if of_rows is not None:
                    found = gathered(bank, part, rows.dtype)
                    of_rows[own] += torch.bmm(part_grad.unsqueeze(1), found).squeeze(1)
                    del found
                if of_bank is not None:
                    add_rows(of_bank, part, part_grad, rows[own])
    return [x.to(like.dtype) for x, like in ((of_rows, rows), (of_bank, bank)) if x is not None]


def add_rows(total: Tensor, index: Tensor, grad: Tensor, rows: Tensor) -> None:
    """total[index_ik] += grad_ik rows_i."""
    missing, index = places(index, total.shape[0])
    grad = grad.masked_fill(missing, 0.0)
    more = torch.mul(grad.unsqueeze(2), rows.unsqueeze(1)).flatten(0, 1)
    if total.device.type == "cpu":
        total.index_add_(0, index.flatten(), more)
    else:  # there index_add_ adds in any order; this sorts
        total.index_put_((index.flatten(),), more, accumulate=True)


# ---- registration ---------------------------------------------------------------------------------------------------


def fake_dots(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    return rows.new_empty(index.shape)


def fake_backward(rows: Tensor, bank: Tensor, index: Tensor, grad: Tensor, needs: Sequence[bool]) -> list[Tensor]:
    pairs = zip((rows, bank), needs, strict=True)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x, need in pairs if need]


for name, implementation, fake in (
    ("gathered_dots", forward_dots, fake_dots),
    ("gathered_dots_backward", backward_dots, fake_backward),
):
    register(name, implementation, fake)
forward_only("gathered_dots")
