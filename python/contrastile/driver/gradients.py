"""The second sweep: score gradients of every block, and their products with the features of both sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..backends.base import FusedGradients
from ..monoid import stat_dtype
from ..spec import Gradients, Needs, PairBlock, PairCall, ScoreGradients, Side
from .plan import Plan, ScoreStore, Step, columns_before
from .scaling import scaled
from .weights import given_weights

ROW_SUMS, COL_SUMS = ("row_scale", "row_bias", "second_scale"), ("col_scale", "col_bias")
SUMS = (*ROW_SUMS, *COL_SUMS)
OF_ROWS = ("a", "second_a", *ROW_SUMS)


def gradients(plan: Plan, needs: Needs, store: ScoreStore) -> Gradients:
    """Sides carry stat, weight and positive_weight. Kept scores are read in the order in which stats wrote them."""
    call, fused = plan.call, plan.backend.gradients(plan.call)
    grads = new_gradients(call, needs, fresh=fused is None)
    with scaled(call, plan.backend, given_weights(call), grads):
        if fused is not None:
            add_fused(plan, fused, grads)
        else:
            for step in plan.steps():
                add_block(plan, step, grads, plan.block(step, store.next(plan, step)), needs)
    return grads


def new_gradients(call: PairCall, needs: Needs, fresh: bool = False) -> Gradients:
    """fresh: every block of a plan will add its share."""
    features, n, m = call.rows.features, len(call.rows), sum(len(block) for block in call.blocks)
    kind: dict[str, Any] = {"dtype": stat_dtype(features.dtype), "device": features.device}
    fresh = fresh and n > 0 and m > 0  # else there is no block

    def new(*shape: int) -> Tensor:
        return torch.zeros(shape, **kind)

    def product(*shape: int) -> Tensor:
        return torch.empty(shape, **kind) if fresh else new(*shape)

    return Gradients(
        a=product(*features.shape) if needs.a else None,
        blocks=[
            product(*block.features.shape) if need else None
            for block, need in zip(call.blocks, needs.blocks or [False], strict=True)
        ],
        row_scale=new(n) if needs.row_scale else None,
        col_scale=new(m) if needs.col_scale else None,
        row_bias=new(n) if needs.row_bias else None,
        col_bias=new(m) if needs.col_bias else None,
        second_a=product(n, width(call.rows)) if needs.second_a else None,
        second_blocks=[
            product(len(block), width(block)) if need else None
            for block, need in zip(call.blocks, needs.second_blocks or [False] * len(call.blocks), strict=True)
        ],
        second_scale=new(n) if needs.second_scale else None,
        fresh=fresh,
    )


def width(side: Side) -> int:
    """Of the second operand."""
    assert side.second is not None
    return side.second.shape[1]


def add_block(plan: Plan, step: Step, grads: Gradients, block: PairBlock, needs: Needs) -> ScoreGradients:
    """Adds one block's share to every accumulator."""
    part = plan.backend.score_grad(block, needs)
    add_part(plan, step, grads, block, part)
    return part


def add_part(plan: Plan, step: Step, grads: Gradients, block: PairBlock, part: ScoreGradients) -> None:
    backend = plan.backend
    directions = len(block.col.directions)
    targets = targets_of(plan, step, grads, directions)
    products = enumerate(zip(part.grad, block.operands, targets, strict=False))
    for place, (grad, (row, col), (to_row, to_col)) in products:
        first = place in (0, directions)  # of several directions, which add to the same rows, or of second operands
        if to_row is not None:
            add = backend.put if grads.fresh and step.new_rows and first else backend.accumulate
            add(to_row[step.start : step.stop], grad, col)
        if to_col is not None:
            add = backend.put if grads.fresh and step.new_cols else backend.accumulate
            add(to_col[step.first : step.last], grad.T, row)
    before = columns_before(plan.call, step.index)
    rows, cols = slice(step.start, step.stop), slice(before + step.first, before + step.last)
    for name in SUMS:
        here = cols if name in COL_SUMS else rows
        target, value = getattr(grads, name), getattr(part, name)
        if target is not None:
            assert value is not None, f"{backend.name}: score_grad was asked for {name} and returned none"
            target[here].add_(value)


def targets_of(
    plan: Plan, step: Step, grads: Gradients, directions: int
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Where the products' gradients go, in the order of PairBlock.operands."""
    to_col = grads.a if plan.call.spec.square else grads.blocks[step.index]
    for tile in range(directions):
        yield grads.a, to_col[tile] if to_col is not None and to_col.dim() == 3 else to_col
    if plan.call.spec.second:
        yield grads.second_a, grads.second_blocks[step.index]


def add_fused(plan: Plan, fused: FusedGradients, grads: Gradients) -> None:
    """All gradients without score gradients in memory: no reason to cut the blocks of columns any further."""
    call = plan.call
    for index, side in enumerate(call.blocks):
        here = slice(before := columns_before(call, index), before + len(side))
        col_scale, col_bias = (None if x is None else x[here] for x in (grads.col_scale, grads.col_bias))
        part = replace(grads, blocks=grads.blocks[index : index + 1], col_scale=col_scale, col_bias=col_bias)
        fused(plan.block(Step(0, len(call.rows), index, 0, len(side))), part)


def slice_gradients(grads: Gradients, start: int, stop: int) -> Gradients:
    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[start:stop]

    return replace(grads, **{name: rows(getattr(grads, name)) for name in OF_ROWS})  # type: ignore[arg-type]
