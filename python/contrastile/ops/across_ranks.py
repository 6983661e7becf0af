"""The engine's two differentiable functions across ranks: what autograd.py is for one process.

Ranks agree on sizes first, which a traced graph could not hold: operators are for calls whose sizes are promised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import select
from ..ranks import Ranks, agree, given, in_graph, one_of, size_of, some_of, sweep, under_way
from ..ranks.agreement import known
from ..ranks.facts import Fact
from ..ranks.global_call import GlobalCall, global_call_of
from ..ranks.group import STRATEGIES
from . import library, record
from .autograd import (
    GRADIENTS,
    SAVED,
    forward_only,
    once,
    public_outputs,
    saved_statistics,
    scaled,
    side_gradients,
    tensors_of,
)
from .check import FEATURE_DTYPES, condition
from .record import FIELDS, GRADS, Arguments, words_of
from .rules import MOST_BLOCKS

FUNCTIONS = ("pair_loss", "pair_reduce")


def agreed(ranks: Ranks, args: Arguments, function: str, needs: Sequence[bool]) -> list[list[int]]:
    """Rows and columns of every rank. What this rank refuses, it refuses before it meets the others."""
    if not torch.compiler.is_compiling():
        ranks.check_device(args.a.device)
        select(args.backend, args.a.device, args.compute, 0, args.second)
    counts = [args.a.shape[0], *(block.shape[-2] for block in args.blocks)]
    sizes = agree(ranks, lambda: facts_of(ranks, args, function, needs), counts)
    if args.mask is not None and args.mask.shape[1] != (total := columns_of_all(ranks, sizes)):
        raise known(ValueError(f"mask must have the columns of all ranks, {total}, got {tuple(args.mask.shape)}"))
    if args.partner is not None:
        total = columns_of_all(ranks, sizes)
        condition(f"partner must lie in [-1, {total}), -1 for none", args.partner < total)
    return sizes


def facts_of(ranks: Ranks, args: Arguments, function: str, needs: Sequence[bool]) -> dict[str, Fact | int]:
    """What all ranks must give."""
    a, blocks = args.a, args.blocks
    differentiable = [*GRADS, *(f"b[{i}]" for i in range(len(blocks)))]
    differentiable += [f"{SECOND}[{i}]" for i in range(len(args.second_blocks))]
    facts: dict[str, Fact | int] = {
        "function": one_of(function, FUNCTIONS),
        "feature dtype": one_of(a.dtype, FEATURE_DTYPES),
        "number of features": a.shape[1],
        "number of column blocks": len(blocks),
        "number of features of second operands": size_of(args.second_a, 1),
        "number of directions": blocks[0].shape[0] if blocks and blocks[0].dim() == 3 else 1,
        "strategy": one_of(ranks.strategy, STRATEGIES),
        "replicated_negatives": ranks.replicated_negatives,
        "compute_dtype": one_of(args.compute, FEATURE_DTYPES),
        "arguments that require gradients": some_of(differentiable, needs, of_arguments=True),
        "number of columns of mask": size_of(args.mask, 1),
    }
    return facts | {title(name): option(name, getattr(args, name)) for name, x in FIELDS.items() if x.agreed}


def columns_of_all(ranks: Ranks, sizes: Sequence[Sequence[int]]) -> int:
    shared = 1 if ranks.replicated_negatives else len(sizes[0]) - 1
    return sum(sum(own[1 : 1 + shared]) for own in sizes) + sum(sizes[ranks.rank][1 + shared :])


SECOND = "columns of targets or gate"
TITLES = {
    "second_a": "rows of targets or gate", "second_scale": "targets.scale", "second_bias": "targets.bias",
    "target": "targets.map", "row_labels": "row_labels (words of 64 labels)",
    "float_order": "type of row_order (floating or not)",
}  # fmt: skip


def title(name: str) -> str:
    """A field in the user's words."""
    if name.startswith("without_"):
        return f"blocks of b without {name.removeprefix('without_')}"
    return TITLES.get(name, name)


def option(name: str, value: Any) -> Fact | int:
    """An option as the user wrote it."""
    names = FIELDS[name].names
    if names is not None:
        words = {int(number): word for word, number in names.items()}
        return one_of(words[value], list(words.values()))
    if FIELDS[name].rule:
        return Fact(value, partial(words_of, empty="all" if name == "keep" else None))
    if name == "row_labels":
        return size_of(value, 1)
    if name.startswith("without_"):
        places = range(value.bit_length())
        return some_of([f"b[{k}]" for k in range(MOST_BLOCKS)], [bool(value >> k & 1) for k in places])
    return value if isinstance(value, (bool, int)) else given(value)


def global_call(ranks: Ranks, args: Arguments, sizes: Sequence[Sequence[int]]) -> GlobalCall:
    call, backend = library.build_call(args)
    return global_call_of(call, backend, ranks, sizes)


class GlobalStats(torch.autograd.Function):
    """Statistics of this rank's rows and columns, see autograd.public_outputs."""

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], exact: bool,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        args = record.restored(statics, tensors)
        found = statistics(ranks, args, sizes)
        ctx.ranks, ctx.sizes, ctx.statics = ranks, sizes, statics
        ctx.save_for_backward(*tensors, *saved_statistics(found))
        return public_outputs(ctx, args, found, exact)

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> tuple[Any, ...]:
        tensors, known = ctx.saved_tensors[:-SAVED], ctx.saved_tensors[-SAVED:]
        needs = record.tensor_needs(ctx.needs_input_grad[4:])
        function = partial(stats_gradients, ctx.ranks, ctx.sizes, ctx.statics, needs)
        row, col = side_gradients(ctx.statics, gouts)
        grads = once(function, *known, *row, *col, *tensors)
        return (None, None, None, None, *record.by_tensor(grads, needs))


def stats_gradients(
    ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], needs: list[bool], *tensors: Any
) -> tuple[Tensor, ...]:
    known, rest = tensors[:SAVED], tensors[SAVED:]
    row, col, inputs = rest[:GRADIENTS], rest[GRADIENTS : 2 * GRADIENTS], rest[2 * GRADIENTS :]
    args = record.restored(statics, inputs)
    grads = run("ranks_pair_stats_backward", sweep_backward, ranks, sizes, args, *known, list(row), list(col), needs)
    return tuple(grads)


def sweep_backward(
    ranks: Ranks, sizes: Sequence[Sequence[int]], args: Arguments, row_parts: Tensor, col_parts: Tensor,
    row_positive_parts: Tensor, col_positive_parts: Tensor, row_target: Tensor, col_target: Tensor,
    row: Sequence[Tensor | None], col: Sequence[Tensor | None], needs: list[bool],
) -> list[Tensor]:  # fmt: skip
    with library.no_autocast(args.a):
        call = global_call(ranks, args, sizes)
        rows = library.upstream_of(args, row_parts, row_positive_parts, row_target, row)
        cols = library.upstream_of(args, col_parts, col_positive_parts, col_target, col)
        grads = sweep.backward(call, rows, cols if args.cols else None, record.needed(args, needs))
        flat = record.flat_gradients(args, grads)
        return [g.to(x.dtype) for g, x in zip(flat, record.wanted_inputs(args, needs), strict=True)]


class GlobalLoss(torch.autograd.Function):
    """This rank's share of the weighted sum, with the gradients formed in the forward sweep."""

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, sizes: Sequence[Sequence[int]], statics: tuple[Any, ...], needs: list[bool],
        more: tuple[Any, ...], *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        args = record.restored(statics, tensors)
        value, grads, reports = run("ranks_pair_loss", sweep_loss, ranks, sizes, args, *more, needs)
        ctx.needs = needs
        ctx.save_for_backward(*grads, *record.wanted_inputs(args, needs))
        ctx.mark_non_differentiable(*reports)
        return (value, *reports)

    @staticmethod
    def backward(ctx: Any, gout: Tensor, *others: Tensor) -> tuple[Any, ...]:
        return (None,) * 5 + record.by_tensor(once(scaled, gout, *ctx.saved_tensors), ctx.needs)


def sweep_loss(
    ranks: Ranks, sizes: Sequence[Sequence[int]], args: Arguments, given_weights: Sequence[library.Weight | None],
    budget: int, needs: Sequence[bool],
) -> library.Loss:  # fmt: skip
    with library.no_autocast(args.a), under_way():
        weights = library.contiguous_weights(args, given_weights)
        value, grads = sweep.scalar(global_call(ranks, args, sizes), weights, record.needed(args, needs), budget)
        flat = [] if grads is None else record.flat_gradients(args, grads)
        return value, flat, library.reports(args, weights)


def statistics(ranks: Ranks, args: Arguments, sizes: Sequence[Sequence[int]]) -> Sequence[Tensor]:
    """What the operator pair_stats returns but for scores, of this rank's rows and columns; indices are global."""
    found: Sequence[Tensor] = run("ranks_pair_stats", sweep_stats, ranks, sizes, args)
    return found


def sweep_stats(ranks: Ranks, sizes: Sequence[Sequence[int]], args: Arguments) -> tuple[Tensor, ...]:
    with library.no_autocast(args.a), under_way():
        outputs = library.outputs_of(sweep.stats(global_call(ranks, args, sizes)), args.a)
        return tuple(x.clone() for x in outputs)  # parts of one tensor


def stats(ranks: Ranks, args: Arguments, needs: list[bool], exact: bool) -> tuple[Tensor, ...]:
    sizes = agreed(ranks, args, "pair_reduce", needs)
    inputs = tensors_of(args)
    outputs: tuple[Tensor, ...] = GlobalStats.apply(ranks, sizes, record.statics(args), exact, *inputs)  # type: ignore[no-untyped-call]
    return outputs


def loss(ranks: Ranks, args: Arguments, weights: library.LossWeights, budget: int, needs: list[bool]) -> Any:
    """As autograd.loss."""
    sizes = agreed(ranks, args, "pair_loss", needs)
    more = (library.weight_tensors(args, weights), budget)
    if any(needs):
        inputs = tensors_of(args)
        value, *reports = GlobalLoss.apply(ranks, sizes, record.statics(args), needs, more, *inputs)  # type: ignore[no-untyped-call]
    else:
        value, _, reports = run("ranks_pair_loss", sweep_loss, ranks, sizes, args, *more, needs)
    return (value, *reports) if args.report else value


# ---- as operators of a graph, which take the fields of a record one by one ------------------------------------------


def run(
    name: str, implementation: Callable[..., Any], ranks: Ranks, sizes: Sequence[Sequence[int]], args: Arguments,
    *others: Any,
) -> Any:  # fmt: skip
    """The implementation; the operator where a graph is made."""
    if not torch.compiler.is_compiling():
        return implementation(ranks, sizes, args, *others)
    return in_graph.run(name, ranks, [size for own in sizes for size in own], *record.packed(args), *others)


def operator(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """fake: of one process's operator, which has the same outputs."""

    def restored(ranks: Ranks, flat: Sequence[int], *given: Any) -> Any:
        args, count = Arguments(*given[: record.COUNT]), len(flat) // ranks.size
        sizes = [list(flat[start : start + count]) for start in range(0, len(flat), count)]
        return implementation(ranks, sizes, args, *given[record.COUNT :])

    def shapes(ranks: Ranks, flat: Sequence[int], *given: Any) -> Any:
        return fake(Arguments(*given[: record.COUNT]), *given[record.COUNT :])

    before, after = schema.split(")", 1)
    in_graph.register(
        name, f"({in_graph.RANKS}, SymInt[] sizes, {record.SCHEMA}{before}){after}",
        in_graph.of_ranks(restored), in_graph.of_ranks(shapes),
    )  # fmt: skip


operator(
    "ranks_pair_stats",
    ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    sweep_stats,
    lambda args: library.fake_stats(args, 0)[:-1],
)
operator(
    "ranks_pair_stats_backward",
    ", Tensor row_parts, Tensor col_parts, Tensor row_positive_parts, Tensor col_positive_parts, Tensor row_target, "
    "Tensor col_target, Tensor?[] row_gradients, Tensor?[] col_gradients, bool[] needs) -> Tensor[]",
    sweep_backward,
    library.fake_stats_backward,
)
operator(
    "ranks_pair_loss",
    ", Tensor?[] weights, SymInt budget, bool[] needs) -> (Tensor, Tensor[] gradients, Tensor[] reports)",
    sweep_loss,
    library.fake_loss,
)
for registered in in_graph.NAMES:
    forward_only(registered)
