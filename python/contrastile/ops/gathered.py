"""Dot products of rows with rows of a bank that an index names, without a copy of those.

torch's embedding_bag makes weighted sums over the lists of an index in one pass over what they name. The gradient of a
row is such a sum of rows of the bank; that of a row of the bank is one of rows, by the index turned round; and the
products are the gradient of a sum's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import forward_only, once, run
from .library import LIB, TAGS, no_autocast, register

# entries of the index at a time, about 40 bytes each; of a bank in another type, numbers that are converted at a time:
# what a core's cache holds; elsewhere, what keeps a device busy
AT_A_TIME_CPU, AT_A_TIME = 1 << 18, 1 << 24

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


def parts(index: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of index that are worked on together, about `size` entries: whole rows where one fits."""
    n, k = index.shape
    columns, rows = max(min(size, k), 1), max(size // max(k, 1), 1)
    for first in range(0, n, rows):
        for start in range(0, k, columns):
            yield slice(first, first + rows), slice(start, start + columns)


def at_a_time(x: Tensor) -> int:
    return AT_A_TIME_CPU if x.device.type == "cpu" else AT_A_TIME


def places(index: Tensor, size: int) -> tuple[Tensor | None, Tensor]:
    """Where the index leaves a bank of `size` rows (None: nowhere), and one that does not, for weights of 0: it names
    another row of the same list there, so that one which no list names is not read, whatever it holds."""
    missing = (index < 0) | (index >= size)
    if index.device.type == "cpu" and not missing.any():  # to look would wait for a device
        return None, index.long()
    other = index.masked_fill(missing, 0).amax(1, keepdim=True)
    return missing, torch.where(missing, other, index).long()


def cleared(x: Tensor, missing: Tensor | None) -> Tensor:
    return x if missing is None else x.masked_fill(missing, 0.0)


def converted(bank: Tensor, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A bank of that type and an index into it: the bank itself, or those of its rows that are named."""
    if bank.dtype == dtype:
        return bank, index
    found = bank.index_select(0, index.flatten()).to(dtype)
    return found, torch.arange(len(found), device=index.device).view(index.shape)


def parts_of(
    rows: Tensor, bank: Tensor, index: Tensor
) -> Iterator[tuple[tuple[slice, slice], Tensor | None, Tensor, Tensor]]:
    """For `parts`: which they are, where there is nothing, the bank in the type of rows, and the index into it."""
    width = 1 if bank.dtype == rows.dtype else max(bank.shape[1], 1)
    for part in parts(index, at_a_time(index) // width):
        missing, inside = places(index[part], bank.shape[0])
        yield part, missing, *converted(bank, inside, rows.dtype)


def forward_dots(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    values = rows.new_zeros(index.shape)
    if bank.shape[0]:
        with no_autocast(rows):
            for part, missing, features, inside in parts_of(rows, bank, index):
                values[part] = cleared(dots(rows[part[0]], features, inside), missing)
    return values


def dots(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """<rows_i, bank_{index_ik}>: the gradient of the weights of sums over bank_{index_ik} whose gradients are rows."""
    n, k = index.shape
    starts = torch.arange(0, n * k, k, device=index.device)
    owners = torch.arange(n, device=index.device).repeat_interleave(k)
    of_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward.default
    found: Tensor = of_weights(rows, bank, index.flatten(), starts, owners, 0)
    return found.view(n, k)


def backward_dots(rows: Tensor, bank: Tensor, index: Tensor, grad: Tensor, needs: Sequence[bool]) -> list[Tensor]:
    of_rows = torch.zeros_like(rows, memory_format=torch.contiguous_format) if needs[0] else None
    of_bank = bank.new_zeros(bank.shape, dtype=rows.dtype) if needs[1] else None
    if bank.shape[0]:
        with no_autocast(rows):
            if of_rows is not None:
                add_of_rows(of_rows, rows, bank, index, grad)
            if of_bank is not None:
                add_of_bank(of_bank, rows, index, grad)
    return [x.to(like.dtype) for x, like in ((of_rows, rows), (of_bank, bank)) if x is not None]


def add_of_rows(total: Tensor, rows: Tensor, bank: Tensor, index: Tensor, grad: Tensor) -> None:
    """total_i += sum_k grad_ik bank_{index_ik}."""
    for part, missing, features, inside in parts_of(rows, bank, index):
        weights = cleared(grad[part], missing)
        more = F.embedding_bag(inside, features, per_sample_weights=weights, mode="sum")
        total[part[0]] += more if missing is None else cleared(more, missing.all(1, keepdim=True))


def add_of_bank(total: Tensor, rows: Tensor, index: Tensor, grad: Tensor) -> None:
    """total_b += sum of grad_ik rows_i over index_ik = b, in the order of the index. Parts hold less than total does,
    as each of them passes over all of it."""
    size = total.shape[0]
    every = torch.arange(size, device=index.device)
    for part in parts(index, max(at_a_time(index), total.numel() // 16)):
        missing, inside = places(index[part], size)
        weights, (inside, order) = cleared(grad[part], missing).flatten(), inside.flatten().sort(stable=True)
        owners, starts = order // index[part].shape[1] + part[0].start, torch.searchsorted(inside, every)
        total += F.embedding_bag(owners, rows, starts, per_sample_weights=weights[order], mode="sum")


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
