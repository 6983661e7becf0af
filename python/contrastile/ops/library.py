"""The engine's torch.library operators: schemas, implementations, fakes. Their autograd is in autograd.py.

pair_stats returns the statistics, pair_stats_backward recomputes the scores and returns gradients; pair_loss returns a
weighted sum of the statistics with its gradients, formed in the forward sweep. Scale and biases are tensors, so values
never cause a recompilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import driver
from ..backends import select
from ..backends.base import Backend, SmallExtras, SmallLoss, SmallWeights
from ..monoid import NUMBERS, stat_dtype, upstream
from ..spec import READERS, PairCall, Side, Upstream, Weights
from .record import COUNT, SCHEMA, Arguments, flat_gradients, needed, wanted_inputs

LIB = torch.library.Library("contrastile", "DEF")
NO_EXTRAS = SmallExtras()
TAGS = (torch.Tag.pt2_compliant_tag,)

LIB.define(
    f"pair_stats({SCHEMA}, SymInt budget) -> "
    "(Tensor row_parts, Tensor col_parts, Tensor row_positive, Tensor col_positive, Tensor row_positive_parts, "
    "Tensor col_positive_parts, Tensor row_integers, Tensor col_integers, Tensor scores)",
    tags=TAGS,
)
LIB.define(
    f"pair_stats_backward({SCHEMA}, Tensor row_parts, Tensor col_parts, Tensor row_positive_parts, "
    "Tensor col_positive_parts, Tensor scores, Tensor row_weight, Tensor col_weight, Tensor row_positive_weight, "
    "Tensor col_positive_weight, Tensor? row_positive_stat_weight, Tensor? col_positive_stat_weight, bool[] needs) "
    "-> Tensor[]",
    tags=TAGS,
)
LIB.define(
    f"pair_loss({SCHEMA}, Tensor row_weight, Tensor? row_positive_weight, Tensor? col_weight, "
    "Tensor? col_positive_weight, SymInt budget, bool[] needs) -> (Tensor, Tensor[])",
    tags=TAGS,
)


# ---- from operator arguments to a call of the driver ----------------------------------------------------------------


def build_call(args: Arguments) -> tuple[PairCall, Backend]:
    a, compute = args.a, args.compute
    chosen = select(args.backend, a.device, compute, args.n * args.m)
    kind, stat = chosen.compute_dtype(compute, a.device), stat_dtype(a.dtype)

    def vector(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(stat).contiguous()

    row = {name: getattr(args, f"row_{name}") for name in READERS}
    rows = Side(
        converted(a, compute, kind), scale=args.scale.to(stat).expand(args.n).contiguous(), bias=vector(args.row_bias),
        low=vector(args.row_low), high=vector(args.row_high), partner=args.partner, share=vector(args.share), **row,
    )  # fmt: skip
    spec = args.spec
    if args.square:
        # the rows' scale already multiplies the score; as columns they bring the rest
        col = replace(rows, scale=None)
        return PairCall(spec, rows, [col], None), chosen
    blocks = [converted(block, compute, kind) for block in args.blocks]
    cols = Side(
        blocks[0], scale=vector(args.col_scale), bias=vector(args.col_bias), on=args.cols,
        low=vector(args.col_low), high=vector(args.col_high),
        **{name: x if (own := getattr(args, f"col_{name}")) is None else own for name, x in row.items()},
    )  # fmt: skip
    sides, start = [], 0
    for index, block in enumerate(blocks):
        stop = start + block.shape[-2]
        sides.append(without(cols.part(block, start, stop) if len(blocks) > 1 else cols, args, index))
        start = stop
    return PairCall(spec, rows, sides, None if args.mask is None else args.mask.contiguous()), chosen


def without(side: Side, args: Arguments, index: int) -> Side:
    """Takes from a new column block the operands that it does not have."""
    flags = {"ids": args.without_ids, "groups": args.without_groups, "labels": args.without_labels}
    for name, blocks in flags.items():
        if blocks >> index & 1:
            setattr(side, name, None)
    return side


def converted(features: Tensor, compute: torch.dtype, kind: torch.dtype) -> Tensor:
    """Features rounded to the type asked for, in the type (as wide or wider) the backend multiplies."""
    return features.to(compute).to(kind).contiguous()


# ---- implementations ------------------------------------------------------------------------------------------------


def stats(args: Arguments, budget: int) -> tuple[Tensor, ...]:
    with no_autocast(args.a):
        call, backend = build_call(args)
        plan = driver.Plan(call, backend)
        buffer = plan.scores_within(budget)
        store = driver.ScoreStore(buffer)
        sides = driver.statistics(plan, store)
        if buffer is not None:
            buffer[store.used :].zero_()  # an output holds no uninitialised memory
        outputs = outputs_of(driver.finished(sides), args.a)
        scores = args.a.new_empty(0, dtype=stat_dtype(args.a.dtype)) if buffer is None else buffer
        return *outputs, scores


def outputs_of(done: driver.Statistics, like: Tensor) -> list[Tensor]:
    """Of rows and columns in turn."""
    sides = side_outputs(done.row, like), side_outputs(done.col, like)
    return [x for both in zip(*sides, strict=True) for x in both]


def side_outputs(done: driver.Finished | None, like: Tensor) -> tuple[Tensor, ...]:
    """A side's statistics in parts, sums over positives, statistics of kept positives in parts, and integers one after
    the other, (count, n); empty: absent."""
    dtype = stat_dtype(like.dtype)
    none = like.new_empty(0, 2, dtype=dtype)
    if done is None:
        return none, like.new_empty(0, dtype=dtype), none.clone(), like.new_empty(0, 0, dtype=torch.int64)
    integers = [x for name, x in done.numbers.present().items() if NUMBERS[name].integer]
    stacked = torch.stack(integers) if integers else like.new_empty(0, len(done.stat), dtype=torch.int64)
    positive = done.numbers.positive
    assert positive is not None
    return done.stat, positive, none if done.positive_stat is None else done.positive_stat, stacked


def stats_backward(
    args: Arguments, row_parts: Tensor, col_parts: Tensor, row_positive_parts: Tensor, col_positive_parts: Tensor,
    scores: Tensor, row_weight: Tensor, col_weight: Tensor, row_positive: Tensor, col_positive: Tensor,
    row_positive_stat: Tensor | None, col_positive_stat: Tensor | None, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    with no_autocast(args.a):
        call, backend = build_call(args)
        rows = upstream_of(args, row_parts, row_weight, row_positive, row_positive_parts, row_positive_stat)
        cols = upstream_of(args, col_parts, col_weight, col_positive, col_positive_parts, col_positive_stat)
        driver.attach(call, rows, cols)
        store = driver.ScoreStore(scores if len(scores) else None)
        grads = driver.gradients(driver.Plan(call, backend), needed(args, needs), store)
        return [g.to(x.dtype) for g, x in zip(flat_gradients(args, grads), wanted_inputs(args, needs), strict=True)]


def upstream_of(
    args: Arguments, parts: Tensor, weight: Tensor, positive: Tensor, positive_parts: Tensor,
    positive_stat: Tensor | None,
) -> Upstream:  # fmt: skip
    """A side's statistics and what came back of them."""
    own = positive.to(parts.dtype).contiguous() if args.positives else None
    if positive_stat is None:
        return Upstream(parts, upstream(parts, weight), own)
    return Upstream(parts, upstream(parts, weight), own, positive_parts, upstream(positive_parts, positive_stat))


def loss(
    args: Arguments, row: Weight, row_positive: Weight | None, col: Weight | None, col_positive: Weight | None,
    budget: int, needs: Sequence[bool],
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    weights = row, row_positive, col, col_positive
    with no_autocast(args.a):
        if (run := small_loss(args, weights, needs)) is not None:
            return run()
        call, backend = build_call(args)
        tensors = contiguous_weights(args, row, row_positive, col, col_positive)
        value, grads = driver.scalar(call, backend, tensors, needed(args, needs), budget)
        return value, [] if grads is None else flat_gradients(args, grads)


def small_loss(
    args: Arguments, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras = NO_EXTRAS
) -> SmallLoss | None:
    """What does a small call at once, see Backend.small_loss."""
    backend = select(args.backend, args.a.device, args.compute, args.n * args.m)
    return backend.small_loss(args, weights, needs, extras)


Weight = float | Tensor  # of all items, or one for each
# the weights of rows, of their sums over positives, of columns and of theirs, and a budget
Sum = tuple[Weight, Weight | None, Weight | None, Weight | None, int]


def contiguous_weights(
    args: Arguments, row: Weight, row_positive: Weight | None, col: Weight | None, col_positive: Weight | None
) -> Weights:
    found = weight_tensors(args, row, row_positive, col, col_positive)
    one, *rest = (None if x is None else x.contiguous() for x in found)
    assert one is not None
    return Weights(one, rest[0], rest[1], rest[2], args.cross_entropy, args.share is not None)


def weight_tensors(
    args: Arguments, row: Weight, row_positive: Weight | None, col: Weight | None, col_positive: Weight | None
) -> list[Tensor | None]:
    """A number for each item, as operators take them."""
    like, kind, n, m = args.a, stat_dtype(args.a.dtype), args.n, args.m
    return [
        x if x is None or isinstance(x, Tensor) else torch.full((size,), x, dtype=kind, device=like.device)
        for x, size in ((row, n), (row_positive, n), (col, m), (col_positive, m))
    ]


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """The engine computes in its inputs' type; autocast around the call must not reach into it."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


# ---- fakes ----------------------------------------------------------------------------------------------------------


def fake_stats(args: Arguments, budget: int) -> tuple[Tensor, ...]:
    a, blocks, n, m = args.a, args.blocks, args.n, args.m
    dtype = stat_dtype(a.dtype)
    col_n = m if args.cols else 0
    integers = sum(NUMBERS[name].integer for name in args.spec.numbers)
    col_split, row_split = (col_n, n) if args.split else (0, 0)

    def empty(*size: Any, kind: torch.dtype = dtype) -> Tensor:
        out: Tensor = a.new_empty(size, dtype=kind)
        return out

    backend = select(args.backend, a.device, args.compute, n * m)
    width = n + backend.padding if args.square else m + backend.padding * len(blocks)
    width = width * (blocks[0].shape[0] if blocks and blocks[0].dim() == 3 else 1)
    size = torch.sym_min(budget // dtype.itemsize, n * width) if budget > 0 and backend.saves_scores else 0
    return (
        empty(n, 2), empty(col_n, 2), empty(n), empty(col_n), empty(row_split, 2), empty(col_split, 2),
        empty(integers, n, kind=torch.int64), empty(integers if args.cols else 0, col_n, kind=torch.int64), empty(size),
    )  # fmt: skip


def fake_stats_backward(args: Arguments, *others: Any) -> list[Tensor]:
    needs = others[-1]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in wanted_inputs(args, needs)]


def fake_loss(args: Arguments, *others: Any) -> tuple[Tensor, list[Tensor]]:
    needs = others[-1]
    # a named backend that cannot run says so here too
    select(args.backend, args.a.device, args.compute, args.n * args.m)
    dtype = stat_dtype(args.a.dtype)
    grads = [args.a.new_empty(x.shape, dtype=dtype) for x in wanted_inputs(args, needs)]
    return args.a.new_empty((), dtype=dtype), grads


# ---- the operators, which take the fields of a record one by one ----------------------------------------------------


def operator(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers both; returns what the operator runs."""

    def spread(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: function(Arguments(*given[:COUNT]), *given[COUNT:])

    implementation = spread(function)
    LIB.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"contrastile::{name}", spread(fake), lib=LIB)
    return implementation


pair_stats = operator("pair_stats", stats, fake_stats)
pair_stats_backward = operator("pair_stats_backward", stats_backward, fake_stats_backward)
pair_loss = operator("pair_loss", loss, fake_loss)
