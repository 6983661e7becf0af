"""The engine's two differentiable functions across ranks: what autograd.py is for one process.

Plain autograd.Functions, no operators: ranks agree on sizes first, which a traced graph could not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import select
from ..ranks import Ranks, agree, given, one_of, some_of, sweep, under_way
from ..ranks.facts import Fact
from ..ranks.group import STRATEGIES
from ..ranks.joint import Joint, joint_of
from ..spec import Positives, Weights
from . import arguments, library
from .autograd import TENSORS, by_input, function_args, once, operator_args, scaled, tensor_needs
from .check import FEATURE_DTYPES

STATICS = library.NAMES[1 + TENSORS :]
AGREED = STATICS[: STATICS.index("compute")]


RULES: dict[str, Mapping[Any, int]] = {
    "reduce": arguments.REDUCES, "keep": arguments.KEEPS, "positives": arguments.POSITIVES, "score": arguments.SCORES,
}  # fmt: skip
OPTIONAL = ("col_scale", "row_bias", "col_bias", "row_ids", "row_threshold", "col_threshold")
FUNCTIONS = ("pair_loss", "pair_reduce")


def agreed(ranks: Ranks, args: Sequence[Any], function: str, needs: Sequence[bool]) -> list[list[int]]:
    """Rows and columns of every rank. What this rank refuses, it refuses before it meets the others."""
    a, blocks = args[:2]
    ranks.check_device(a.device)
    select(library.arg(args, "backend"), a.device, library.arg(args, "compute"), 0)
    differentiable = ["a", "scale", "col_scale", "row_bias", "col_bias", *(f"b[{i}]" for i in range(len(blocks)))]
    facts = {
        "function": one_of(function, FUNCTIONS),
        "feature dtype": one_of(a.dtype, FEATURE_DTYPES),
        "number of features": a.shape[1],
        "number of column blocks": len(blocks),
        "number of tiles": blocks[0].shape[0] if blocks and blocks[0].dim() == 3 else 1,
        "strategy": one_of(ranks.strategy, STRATEGIES),
        "replicated_negatives": ranks.replicated_negatives,
        "compute_dtype": one_of(library.arg(args, "compute"), FEATURE_DTYPES),
        "arguments that require gradients": some_of(differentiable, needs, of_arguments=True),
    }
    facts |= {name: given(library.arg(args, name)) for name in OPTIONAL}
    facts |= {name: rule(name, library.arg(args, name)) for name in AGREED}
    return agree(ranks, facts, [a.shape[0], *(block.shape[-2] for block in blocks)])


def rule(name: str, value: Any) -> Fact | int:
    """An option as the user wrote it."""
    if name not in RULES:
        return bool(value)
    names = {int(number): word for word, number in RULES[name].items()}
    return one_of(names[int(value)], list(names.values()))


def joint(ranks: Ranks, args: Sequence[Any], sizes: Sequence[Sequence[int]]) -> Joint:
    call, backend = library.build_call(*args)
    return joint_of(call, backend, ranks, sizes)


class JointStats(torch.autograd.Function):
    """Row and column statistics, row and column sums over positives, of this rank's rows and columns."""

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        args = operator_args(statics, tensors)
        with library.no_autocast(args[0]), under_way():
            done = sweep.stats(joint(ranks, args, sizes))
        none = done.row.new_empty(0)
        col = done.row.new_empty(0, 2) if done.col is None else done.col
        ctx.ranks, ctx.sizes, ctx.statics = ranks, sizes, statics
        ctx.save_for_backward(*tensors, done.row, col)
        positives = [none if x is None else x.clone() for x in (done.row_positive, done.col_positive)]
        return done.row.sum(1), col.sum(1), *positives

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> tuple[Any, ...]:
        *tensors, row_parts, col_parts = ctx.saved_tensors
        needs = tensor_needs(ctx.needs_input_grad[3:])
        function = partial(stats_gradients, ctx.ranks, ctx.sizes, ctx.statics, needs)
        grads = once(function, *gouts, row_parts, col_parts, *tensors)
        return (None, None, None, *by_input(grads, needs))


def stats_gradients(
    ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], needs: list[bool], *tensors: Tensor
) -> tuple[Tensor, ...]:
    row, col, row_positive, col_positive, row_parts, col_parts, *inputs = tensors
    args = operator_args(statics, inputs)
    with library.no_autocast(args[0]):
        whole = joint(ranks, args, sizes)
        spec = whole.call.spec
        some = spec.positives != Positives.NONE
        rows = (row_parts, row.contiguous(), row_positive.contiguous() if some else None)
        cols = (col_parts, col.contiguous(), col_positive.contiguous() if some else None)
        grads = sweep.backward(whole, rows, cols if spec.cols else (None,) * 3, library.needed(needs, spec.square))
        flat = library.flat_gradients(grads, library.arg(args, "scale"), spec.square)
        return tuple(g.to(x.dtype) for g, x in zip(flat, library.wanted_inputs(args, needs), strict=True))


class JointLoss(torch.autograd.Function):
    """This rank's share of the weighted sum, with the gradients formed in the forward sweep."""

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], needs: list[bool],
        more: tuple[Any, ...], *tensors: Tensor | None,
    ) -> Tensor:  # fmt: skip
        args = operator_args(statics, tensors)
        value, grads = run_loss(ranks, sizes, args, more, needs)
        ctx.needs = needs
        ctx.save_for_backward(*grads, *library.wanted_inputs(args, needs))
        return value

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Any, ...]:
        return (None,) * 5 + by_input(once(scaled, gout, *ctx.saved_tensors), ctx.needs)


def run_loss(
    ranks: Ranks, sizes: Sequence[Sequence[int]], args: Sequence[Any], more: tuple[Any, ...], needs: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    row, row_positive, col, col_positive, budget = more
    with library.no_autocast(args[0]), under_way():
        whole = joint(ranks, args, sizes)
        weights = Weights(*(None if w is None else w.contiguous() for w in (row, row_positive, col, col_positive)))  # type: ignore[arg-type]
        square = whole.call.spec.square
        value, grads = sweep.scalar(whole, weights, library.needed(needs, square), budget)
        return value, [] if grads is None else library.flat_gradients(grads, library.arg(args, "scale"), square)


def stats(ranks: Ranks, args: Sequence[Any], needs: list[bool]) -> tuple[Tensor, ...]:
    sizes = agreed(ranks, args, "pair_reduce", needs)
    statics, tensors = function_args(args)
    outputs: tuple[Tensor, ...] = JointStats.apply(ranks, sizes, statics, *tensors)  # type: ignore[no-untyped-call]
    return outputs


def loss(ranks: Ranks, args: Sequence[Any], more: tuple[Any, ...], needs: list[bool]) -> Tensor:
    sizes = agreed(ranks, args, "pair_loss", needs)
    if not any(needs):
        return run_loss(ranks, sizes, args, more, needs)[0]
    statics, tensors = function_args(args)
    value: Tensor = JointLoss.apply(ranks, sizes, statics, needs, more, *tensors)  # type: ignore[no-untyped-call]
    return value
