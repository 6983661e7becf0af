"""The engine's torch.library operators: schemas, implementations, fakes. Their autograd is in autograd.py.

pair_stats returns the statistics, pair_stats_backward recomputes the scores and returns gradients; pair_loss returns a
weighted sum of the statistics with its gradients, formed in the forward sweep. Scale and biases are tensors, so values
never cause a recompilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import driver
from ..backends import select
from ..backends.base import Backend, SmallExtras, SmallLoss, SmallStats, SmallWeights
from ..monoid import NUMBERS, TARGET_PARTS, TargetStats, stat_dtype, target_slopes, upstream
from ..spec import READERS, TRAITS, PairCall, Side, Target, Upstream, Weights
from .check import as_type
from .record import COUNT, SCHEMA, Arguments, flat_gradients, needed, wanted_inputs

LIB = torch.library.Library("contrastile", "DEF")
NO_EXTRAS = SmallExtras()
TAGS = (torch.Tag.pt2_compliant_tag,)

LIB.define(
    f"pair_stats({SCHEMA}, SymInt budget) -> "
    "(Tensor row_parts, Tensor col_parts, Tensor row_positive, Tensor col_positive, Tensor row_positive_parts, "
    "Tensor col_positive_parts, Tensor row_target, Tensor col_target, Tensor row_integers, Tensor col_integers, "
    "Tensor scores)",
    tags=TAGS,
)
LIB.define(
    f"pair_stats_backward({SCHEMA}, Tensor row_parts, Tensor col_parts, Tensor row_positive_parts, "
    "Tensor col_positive_parts, Tensor row_target, Tensor col_target, Tensor scores, Tensor?[] row_gradients, "
    "Tensor?[] col_gradients, bool[] needs) -> Tensor[]",
    tags=TAGS,
)
LIB.define(
    f"pair_loss({SCHEMA}, Tensor?[] weights, SymInt budget, bool[] needs) -> "
    "(Tensor, Tensor[] gradients, Tensor[] reports)",
    tags=TAGS,
)


# ---- from operator arguments to a call of the driver ----------------------------------------------------------------


def build_call(args: Arguments) -> tuple[PairCall, Backend]:
    a, compute = args.a, args.compute
    chosen = select(args.backend, a.device, compute, args.n * args.m, args.second)
    kind, stat = chosen.compute_dtype(compute, a.device), stat_dtype(a.dtype)

    def vector(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(stat).contiguous()

    row = {name: getattr(args, f"row_{name}") for name in READERS}
    rows = Side(
        converted(a, compute, kind), scale=args.scale.to(stat).expand(args.n).contiguous(), bias=vector(args.row_bias),
        low=vector(args.row_low), high=vector(args.row_high), partner=args.partner, share=vector(args.share), **row,
    )  # fmt: skip
    if args.second_a is not None:
        rows.second = converted(args.second_a, compute, kind)
        rows.second_scale, rows.second_bias = (
            None if x is None else x.to(stat).expand(args.n).contiguous() for x in (args.second_scale, args.second_bias)
        )
    spec = args.spec
    if args.square:
        # the rows' scale already multiplies the score; as columns they bring the rest, and their norms of a prefix
        col = replace(rows, scale=vector(args.col_scale))
        return PairCall(spec, rows, [col], None), chosen
    blocks = [converted(block, compute, kind) for block in args.blocks]
    cols = Side(
        blocks[0], scale=vector(args.col_scale), bias=vector(args.col_bias), on=args.cols,
        low=vector(args.col_low), high=vector(args.col_high),
        **{name: x if (own := getattr(args, f"col_{name}")) is None else own for name, x in row.items()},
    )  # fmt: skip
    sides, start = [], 0
    for index, (block, second) in enumerate(zip(blocks, second_blocks(args, blocks, kind), strict=True)):
        stop = start + block.shape[-2]
        sides.append(without(cols.part(block, second, start, stop), args, index))
        start = stop
    return PairCall(spec, rows, sides, None if args.mask is None else args.mask.contiguous()), chosen


def second_blocks(args: Arguments, blocks: Sequence[Tensor], kind: torch.dtype) -> list[Tensor | None]:
    """Of each block; the block itself where its keys serve both products."""
    if not args.second_blocks:
        return [None] * len(blocks)
    pairs = zip(args.blocks, blocks, args.second_blocks, strict=True)
    return [block if same_memory(given, own) else converted(given, args.compute, kind) for own, block, given in pairs]


def same_memory(x: Tensor, y: Tensor) -> bool:
    """Whether both are the same numbers, one perhaps detached."""
    return x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride()


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
        if (small := small_stats(args)) is not None:
            return small.stats(args, budget)
        call, backend = build_call(args)
        plan = driver.Plan(call, backend)
        buffer = plan.scores_within(budget if backend.saves_scores else 0)
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
    """A side's statistics in parts, sums over positives, statistics of kept positives in parts, what its targets are,
    and integers one after the other, (count, n); empty: absent."""
    dtype = stat_dtype(like.dtype)
    none, untargeted = like.new_empty(0, 2, dtype=dtype), like.new_empty(0, TARGET_PARTS, dtype=dtype)
    if done is None:
        none_int = like.new_empty(0, 0, dtype=torch.int64)
        return none, like.new_empty(0, dtype=dtype), none.clone(), untargeted, none_int
    integers = [x for name, x in done.numbers.present().items() if NUMBERS[name].integer]
    stacked = torch.stack(integers) if integers else like.new_empty(0, len(done.stat), dtype=torch.int64)
    positive = done.numbers.positive
    assert positive is not None
    positive_parts = none if done.positive_stat is None else done.positive_stat
    return done.stat, positive, positive_parts, untargeted if done.target is None else done.target.parts(), stacked


def stats_backward(
    args: Arguments, row_parts: Tensor, col_parts: Tensor, row_positive_parts: Tensor, col_positive_parts: Tensor,
    row_target: Tensor, col_target: Tensor, scores: Tensor, row_gradients: Sequence[Tensor | None],
    col_gradients: Sequence[Tensor | None], needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    with no_autocast(args.a):
        if (small := small_stats(args)) is not None:
            known = row_parts, col_parts, row_positive_parts, col_positive_parts
            found = small.gradients(args, known, scores, row_gradients, col_gradients, needs)
        else:
            call, backend = build_call(args)
            rows = upstream_of(args, row_parts, row_positive_parts, row_target, row_gradients)
            cols = upstream_of(args, col_parts, col_positive_parts, col_target, col_gradients)
            driver.attach(call, rows, cols)
            store = driver.ScoreStore(scores if len(scores) else None)
            grads = driver.gradients(driver.Plan(call, backend), needed(args, needs), store)
            found = flat_gradients(args, grads)
        return [as_type(g, x.dtype) for g, x in zip(found, wanted_inputs(args, needs), strict=True)]


def small_stats(args: Arguments) -> SmallStats | None:
    """What does a small call at once, forward and backward alike, see Backend.small_stats."""
    if args.second_a is not None or TRAITS[args.reduce].arg:
        return None
    return select(args.backend, args.a.device, args.compute, args.n * args.m).small_stats(args)


def upstream_of(
    args: Arguments, parts: Tensor, positive_parts: Tensor, target: Tensor, gradients: Sequence[Tensor | None]
) -> Upstream:
    """A side's statistics and what came back of them: gradients of the statistic, of the sum over positives, of the
    statistic of kept positives, and of TargetStats.outputs; None: there is no such number."""
    weight, positive, positive_stat, mean, entropy, total, loss = gradients
    assert weight is not None and positive is not None
    up = Upstream(parts, upstream(parts, weight), positive.to(parts.dtype).contiguous() if args.positives else None)
    if positive_stat is not None:
        up.positive_stat, up.positive_stat_weight = positive_parts, upstream(positive_parts, positive_stat)
    if args.target and mean is not None and loss is not None:
        known = TargetStats.of(target)
        slopes = target_slopes(known, args.target == Target.AFFINE, mean - loss, entropy, total)
        of_loss = upstream(parts, torch.where(known.given, loss, 0.0))
        up = replace(up, target_stat=known.stat, weight=upstream(parts, weight) + of_loss, **slopes._asdict())
    return up


def loss(args: Arguments, weights: Sequence[Weight | None], budget: int, needs: Sequence[bool]) -> Loss:
    if (run := small_loss(args, weights, needs)) is not None:
        with no_autocast(args.a):
            return (*run(args, weights[:4], NO_EXTRAS), [])
    return whole_loss(budget, needs, args, weights)


def whole_loss(
    budget: int, needs: Sequence[bool], args: Arguments, weights: Sequence[Weight | None],
    extras: SmallExtras = NO_EXTRAS,
) -> Loss:  # fmt: skip
    """`loss` of any size, in blocks. It has no extras."""
    with no_autocast(args.a):
        if args.prefixes:
            return prefix_loss(args, weights, budget, needs)
        call, backend = build_call(args)
        given = contiguous_weights(args, weights)
        value, grads = driver.scalar(call, backend, given, needed(args, needs), budget)
        return value, [] if grads is None else flat_gradients(args, grads), reports(args, given)


def reports(args: Arguments, weights: Weights) -> list[Tensor]:
    """Of rows and of columns, if they have statistics, (n, 3): the largest z, the log-sum-exp, the sum over positives;
    nothing where nobody asked."""
    if weights.seen is None:
        return []
    done: list[driver.Statistics] = weights.seen
    none = args.a.new_empty(0, 3, dtype=stat_dtype(args.a.dtype))  # a rank without rows may meet no column
    rows = torch.cat([none, *(side_report(x.row) for x in done)])
    return [rows, torch.cat([none, *(side_report(x.col) for x in done if x.col is not None)])] if args.cols else [rows]


def side_report(done: driver.Finished) -> Tensor:
    assert done.numbers.positive is not None
    return torch.stack([done.stat[:, 0], done.stat.sum(1), done.numbers.positive], 1)


def prefix_loss(args: Arguments, weights: Sequence[Weight | None], budget: int, needs: Sequence[bool]) -> Loss:
    built = [build_call(part) for part in slices(args)]
    calls, backend = [call for call, _ in built], built[0][1]
    whole = contiguous_weights(args, weights)
    each = [whole.times(weight) for weight in args.prefix_weights]
    value, grads = driver.prefix_sum(calls, backend, each, needed(args, needs), budget, args.a.shape[1])
    return value, [] if grads is None else flat_gradients(args, grads), []


def slices(args: Arguments) -> Iterator[Arguments]:
    """A record for each prefix, whose features are those that the prefix before does not have."""
    start = 0
    for index, stop in enumerate(args.prefixes):
        yield replace(
            args, a=args.a[:, start:stop], blocks=[block[:, start:stop] for block in args.blocks],
            scale=args.scale[index], col_scale=None if args.col_scale is None else args.col_scale[index], prefixes=[],
        )  # fmt: skip
        start = stop


def small_loss(
    args: Arguments, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras = NO_EXTRAS
) -> SmallLoss | None:
    """What does a small call, and others of its kind; see Backend.small_loss. It keeps its statistics to itself."""
    sets = args.split and args.cross_entropy and extras.sets == 1  # no backend has the cross entropy of sets at once
    if args.second_a is not None or args.report or args.prefixes or sets:
        return None
    backend = select(args.backend, args.a.device, args.compute, args.n * args.m)
    return backend.small_loss(args, weights[:4], needs, extras)


Loss = tuple[Tensor, list[Tensor], list[Tensor]]  # the weighted sum, its gradients, `reports`
Weight = float | Tensor  # of all items, or one for each
# of rows, of their sums over positives, of columns and of theirs, of the means of rows and columns under their targets
LossWeights = tuple[Weight, Weight | None, Weight | None, Weight | None, Weight | None, Weight | None]
WEIGHT_NAMES = ("row", "row_positive", "col", "col_positive", "row_mean", "col_mean")  # fields of spec.Weights


def contiguous_weights(args: Arguments, weights: Sequence[Weight | None]) -> Weights:
    found = {
        n: None if x is None else x.contiguous()
        for n, x in zip(WEIGHT_NAMES, weight_tensors(args, weights), strict=True)
    }
    seen: list[Any] | None = [] if args.report else None
    return Weights(**found, cross_entropy=args.cross_entropy, shares=args.share is not None, seen=seen)  # type: ignore[arg-type]


def weight_tensors(args: Arguments, weights: Sequence[Weight | None]) -> list[Tensor | None]:
    """A number for each item, as operators take them."""
    like, kind = args.a, stat_dtype(args.a.dtype)
    sizes = [args.m if name.startswith("col") else args.n for name in WEIGHT_NAMES]
    return [
        x if x is None or isinstance(x, Tensor) else torch.full((size,), x, dtype=kind, device=like.device)
        for x, size in zip(weights, sizes, strict=True)
    ]


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """The engine computes in its inputs' type; autocast around the call must not reach into it."""
    if not torch._C._is_any_autocast_enabled() or x.is_meta or not torch.is_autocast_enabled(kind := x.device.type):
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

    backend = select(args.backend, a.device, args.compute, n * m, args.second)
    width = n + backend.padding if args.square else m + backend.padding * len(blocks)
    width = width * (len(args.second_blocks) > 0) + width * (
        blocks[0].shape[0] if blocks and blocks[0].dim() == 3 else 1
    )
    size = torch.sym_min(budget // dtype.itemsize, n * width) if budget > 0 and backend.saves_scores else 0
    return (
        empty(n, 2), empty(col_n, 2), empty(n), empty(col_n), empty(row_split, 2), empty(col_split, 2),
        empty(n if args.target else 0, TARGET_PARTS), empty(col_n if args.target else 0, TARGET_PARTS),
        empty(integers, n, kind=torch.int64), empty(integers if args.cols else 0, col_n, kind=torch.int64), empty(size),
    )  # fmt: skip


def fake_stats_backward(args: Arguments, *others: Any) -> list[Tensor]:
    needs = others[-1]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in wanted_inputs(args, needs)]


def fake_loss(args: Arguments, *others: Any) -> Loss:
    needs = others[-1]
    # a named backend that cannot run says so here too
    select(args.backend, args.a.device, args.compute, args.n * args.m, args.second)
    dtype = stat_dtype(args.a.dtype)
    grads = [args.a.new_empty(x.shape, dtype=dtype) for x in wanted_inputs(args, needs)]
    sides = [args.n, *([args.m] if args.cols else [])] if args.report else []
    return args.a.new_empty((), dtype=dtype), grads, [args.a.new_empty((size, 3), dtype=dtype) for size in sides]


# ---- the operators, which take the fields of a record one by one ----------------------------------------------------


def register(name: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """What an operator of LIB runs, and what it is to those that only want shapes."""
    LIB.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)


def operator(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers both; returns what the operator runs."""

    def spread(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: function(Arguments(*given[:COUNT]), *given[COUNT:])

    implementation = spread(function)
    register(name, implementation, spread(fake))
    return implementation


pair_stats = operator("pair_stats", stats, fake_stats)
pair_stats_backward = operator("pair_stats_backward", stats_backward, fake_stats_backward)
pair_loss = operator("pair_loss", loss, fake_loss)
