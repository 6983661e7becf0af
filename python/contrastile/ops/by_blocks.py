"""Scores that are formed by blocks of columns, of which only statistics stay: the backward pass forms them again.

For scores that no kernel of the engine has, in plain torch: a block's statistics are a differentiable function of the
rows' tensors and of the columns' own part of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..monoid import stat_dtype
from .autograd import once
from .library import no_autocast


class Block(NamedTuple):
    """Some columns of the scores, and the rows of the columns' tensors that they are made of. No slices: a graph's
    symbols would become numbers in them."""

    start: int
    stop: int
    first: int
    last: int

    def columns(self, x: Tensor) -> Tensor:
        """Of what has one for each column."""
        return x[self.start : self.stop]

    def rows(self, x: Tensor) -> Tensor:
        return x[self.first : self.last]


class Statistics(NamedTuple):
    """Of the scores of N rows with some columns."""

    lse: Tensor  # (N,), finite: log-sum-exp over the columns
    sums: Tensor  # (N, S): sums over the columns
    cols: Tensor  # (M, C): what each column has of its own


# (block, tensors of rows, the columns' tensors cut to the block)
OfBlock = Callable[[Block, Sequence[Tensor], Sequence[Tensor]], Statistics]


def by_blocks(
    of_block: OfBlock, blocks: Sequence[Block], held: bool, whole: Sequence[Tensor], cut: Sequence[Tensor]
) -> Statistics:
    """The statistics over all blocks, which are one after the other and have each column once.

    whole: tensors that every block needs; cut: those whose rows belong to columns. Both may require gradients, nothing
    else that `of_block` uses. held: one block, as plain autograd has it; else no block's scores outlive it, and
    derivatives are once.
    """
    if held:
        return of_block(blocks[0], whole, [blocks[0].rows(x) for x in cut])
    found = ByBlocks.apply(of_block, blocks, len(whole), *whole, *cut)  # type: ignore[no-untyped-call]
    return Statistics(*found)


class ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, of_block: OfBlock, blocks: Sequence[Block], count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        whole, cut = tensors[:count], tensors[count:]
        every = []
        with no_autocast(tensors[0]):
            for block in blocks:
                every.append(of_block(block, whole, [block.rows(x) for x in cut]))
        lse = torch.stack([x.lse for x in every]).logsumexp(0)
        ctx.of_block, ctx.blocks, ctx.count = of_block, blocks, count
        ctx.save_for_backward(lse, *tensors)
        return lse, torch.stack([x.sums for x in every]).sum(0), torch.cat([x.cols for x in every])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[3:])
        function = partial(gradients, ctx.of_block, ctx.blocks, ctx.count, needs)
        found = iter(once(function, *grads, *ctx.saved_tensors))
        return (None, None, None, *(next(found) if need else None for need in needs))


def gradients(
    of_block: OfBlock, blocks: Sequence[Block], count: int, needs: Sequence[bool], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Of the tensors that need one."""
    of_lse, of_sums, of_cols, lse, *inputs = tensors
    # what every block adds to is rounded once
    kinds = [stat_dtype(x.dtype) if place < count else x.dtype for place, x in enumerate(inputs)]
    totals = [
        torch.zeros_like(x, dtype=kind) if need else None for x, kind, need in zip(inputs, kinds, needs, strict=True)
    ]
    for block in blocks:
        parts = [x if place < count else block.rows(x) for place, x in enumerate(inputs)]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(parts, needs, strict=True)]
        with torch.enable_grad(), no_autocast(inputs[0]):
            found = of_block(block, leaves[:count], leaves[count:])
        share = of_lse * (found.lse.detach() - lse).exp()
        pairs = [
            (x, g) for x, g in zip(found, (share, of_sums, block.columns(of_cols)), strict=True) if x.requires_grad
        ]
        wanted = [(total, leaf, place) for place, (total, leaf) in enumerate(zip(totals, leaves, strict=True))
                  if total is not None]  # fmt: skip
        if pairs:
            given = torch.autograd.grad([x for x, _ in pairs], [leaf for _, leaf, _ in wanted], [g for _, g in pairs],
                                        allow_unused=True)  # fmt: skip
            for (total, _, place), grad in zip(wanted, given, strict=True):
                if grad is not None:
                    (total if place < count else block.rows(total)).add_(grad)
    return tuple(total.to(x.dtype) for total, x in zip(totals, inputs, strict=True) if total is not None)


def equal_blocks(columns: int, each: int | None, rows: int = 1) -> list[Block]:
    """Blocks of `each` columns, every one of which has `rows` rows of the columns' tensors; None, or no columns: one
    block."""
    if each is None or not columns:  # the order of these does not bind a graph to sizes
        return [Block(0, columns, 0, columns * rows)]
    spans = [(start, min(start + each, columns)) for start in range(0, columns, each)]
    return [Block(start, end, start * rows, end * rows) for start, end in spans]
