"""The engine's torch.library operators: schemas, implementations, fakes. Their autograd is in autograd.py.

pair_stats returns the statistics, pair_stats_backward recomputes the scores and returns gradients; pair_loss returns a
weighted sum of the statistics with its gradients, formed in the forward sweep. Scale and biases are tensors, so values
never cause a recompilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .. import driver
from ..backends import select
from ..backends.base import Backend
from ..monoid import stat_dtype
from ..spec import Gradients, Keep, Needs, PairCall, PairSpec, Positives, Reduce, Score, Side, Weights

LIB = torch.library.Library("contrastile", "DEF")
TAGS = (torch.Tag.pt2_compliant_tag,)

CALL = (
    "Tensor a, Tensor[] blocks, Tensor scale, Tensor? col_scale, Tensor? row_bias, Tensor? col_bias, "
    "Tensor? row_ids, Tensor? col_ids, Tensor? row_threshold, Tensor? col_threshold, Tensor? mask, "
    "int reduce, int keep, int positives, bool keep_positives, bool cols, bool same, bool square, "
    "int score, bool offset, ScalarType compute, str backend"
)
# compute: the type features are multiplied in. same: b is a. square: the same, and z symmetric: blocks is empty and
# row_bias acts on both sides.
# row_ids without col_ids: columns have the rows' ids. (A tensor given twice could not be traced by torch.compile.)
NAMES = [argument.split()[-1] for argument in CALL.split(", ")]
CALL_ARGS = len(NAMES)  # each operator below adds its own arguments after these
LIB.define(
    f"pair_stats({CALL}, SymInt budget) -> "
    "(Tensor row_parts, Tensor col_parts, Tensor row_positive, Tensor col_positive, Tensor row_arg, Tensor col_arg, "
    "Tensor scores)",
    tags=TAGS,
)
LIB.define(
    f"pair_stats_backward({CALL}, Tensor row_parts, Tensor col_parts, Tensor scores, Tensor row_weight, "
    "Tensor col_weight, Tensor row_positive_weight, Tensor col_positive_weight, bool[] needs) -> Tensor[]",
    tags=TAGS,
)
LIB.define(
    f"pair_loss({CALL}, Tensor row_weight, Tensor? row_positive_weight, Tensor? col_weight, "
    "Tensor? col_positive_weight, SymInt budget, bool[] needs) -> (Tensor, Tensor[])",
    tags=TAGS,
)


def arg(args: Sequence[Any], name: str) -> Any:
    """The argument of CALL with this name."""
    return args[NAMES.index(name)]


# ---- from operator arguments to a call of the driver ----------------------------------------------------------------


def build_call(
    a: Tensor,
    blocks: Sequence[Tensor],
    scale: Tensor,
    col_scale: Tensor | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
    row_ids: Tensor | None,
    col_ids: Tensor | None,
    row_threshold: Tensor | None,
    col_threshold: Tensor | None,
    mask: Tensor | None,
    reduce: int,
    keep: int,
    positives: int,
    keep_positives: bool,
    cols: bool,
    same: bool,
    square: bool,
    score: int,
    offset: bool,
    compute: torch.dtype,
    backend: str,
) -> tuple[PairCall, Backend]:
    pairs = a.shape[0] * (a.shape[0] if square else sum(block.shape[-2] for block in blocks))
    chosen = select(backend, a.device, compute, pairs)
    kind, stat = chosen.compute_dtype(compute, a.device), stat_dtype(a.dtype)

    def vector(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(stat).contiguous()

    rows = Side(
        converted(a, compute, kind),
        scale=scale.to(stat).expand(a.shape[0]).contiguous(),
        bias=vector(row_bias),
        ids=None if row_ids is None else row_ids.contiguous(),
        threshold=vector(row_threshold),
    )
    if col_ids is None:
        col_ids = rows.ids
    spec = PairSpec(
        Reduce(reduce), Keep(keep), Positives(positives), keep_positives, cols, same, square, Score(score), offset
    )
    if square:
        # the rows' scale already multiplies the score; as columns they bring bias, ids and threshold only
        col = Side(rows.features, bias=rows.bias, ids=rows.ids, threshold=rows.threshold)
        return PairCall(spec, rows, [col], None), chosen
    sides, start = [], 0
    whole = Side(
        a, scale=vector(col_scale), bias=vector(col_bias), threshold=vector(col_threshold), on=cols,
        ids=None if col_ids is None else col_ids.contiguous(),
    )  # fmt: skip
    for block in blocks:
        stop = start + block.shape[-2]
        features = converted(block, compute, kind)
        parts = {
            name: None if (x := getattr(whole, name)) is None else x[start:stop]
            for name in ("scale", "bias", "ids", "threshold")
        }
        sides.append(Side(features, start, on=cols, **parts))
        start = stop
    return PairCall(spec, rows, sides, None if mask is None else mask.contiguous()), chosen


def converted(features: Tensor, compute: torch.dtype, kind: torch.dtype) -> Tensor:
    """Features rounded to the type asked for, in the type (as wide or wider) the backend multiplies."""
    return features.to(compute).to(kind).contiguous()


def joined(running: list[driver.Running], name: str, like: Tensor) -> Tensor:
    values = [getattr(r.result(), name) for r in running]
    return torch.cat([like.new_empty(0) if v is None else v for v in values]) if values else like.new_empty(0)


def needed(needs: Sequence[bool], square: bool) -> Needs:
    """Order: a, scale, col_scale, row_bias, col_bias, then the blocks."""
    a, row_scale, col_scale, row_bias, col_bias, *blocks = needs
    return Needs(a, list(blocks), row_scale, col_scale, row_bias, row_bias if square else col_bias)


def flat_gradients(grads: Gradients, scale: Tensor, square: bool) -> list[Tensor]:
    """The wanted gradients in the order of `needed`, scale summed to its own shape."""
    row_scale, row_bias, col_bias = grads.row_scale, grads.row_bias, grads.col_bias
    if square and row_bias is not None and col_bias is not None:
        row_bias, col_bias = row_bias + col_bias, None
    if row_scale is not None and scale.dim() == 0:
        row_scale = row_scale.sum()
    every = [grads.a, row_scale, grads.col_scale, row_bias, col_bias, *grads.blocks]
    return [x for x in every if x is not None]


def wanted_inputs(args: Sequence[Any], needs: Sequence[bool]) -> list[Tensor]:
    """The tensors whose gradients flat_gradients returns, same order."""
    a, blocks, scale, col_scale, row_bias, col_bias = args[:6]
    every = [a, scale, col_scale, row_bias, col_bias, *blocks]
    return [x for x, need in zip(every, needs, strict=True) if need]


# ---- implementations ------------------------------------------------------------------------------------------------


def pair_stats(*args: Any) -> tuple[Tensor, ...]:
    budget = args[CALL_ARGS]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        plan = driver.Plan(call, backend)
        buffer = plan.scores_within(budget)
        store = driver.ScoreStore(buffer)
        sides = driver.statistics(plan, store)
        if buffer is not None:
            buffer[store.used :].zero_()  # an output holds no uninitialised memory
        row, done = sides.rows.result(), driver.finished(sides)
        none = done.row.new_empty(0)
        none_arg = done.row.new_empty(0, dtype=torch.int64)
        row_arg = none_arg if row.arg is None else row.arg
        col_arg = none_arg if row.arg is None or not call.spec.cols else joined(sides.cols, "arg", none_arg)
        positive = none if done.row_positive is None else done.row_positive
        col = done.row.new_empty(0, 2) if done.col is None else done.col
        col_positive = none if done.col_positive is None else done.col_positive
        scores = none.clone() if buffer is None else buffer
        return done.row, col.clone(), positive, col_positive.clone(), row_arg, col_arg.clone(), scores


def pair_stats_backward(*args: Any) -> list[Tensor]:
    row_parts, col_parts, scores, row_weight, col_weight, row_positive, col_positive, needs = args[CALL_ARGS:]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        some = call.spec.positives != Positives.NONE
        row_weights = (row_weight.contiguous(), row_positive.contiguous() if some else None)
        call.rows = driver.with_weights(call.rows, row_parts, *row_weights)
        if call.spec.square:
            weighted = driver.with_weights(call.blocks[0], row_parts, *row_weights)
            call.blocks = [weighted]
        elif call.spec.cols:
            driver.attach_columns(call, col_parts, col_weight.contiguous(), col_positive.contiguous() if some else None)
        store = driver.ScoreStore(scores if len(scores) else None)
        grads = driver.gradients(driver.Plan(call, backend), needed(needs, call.spec.square), store)
        flat = flat_gradients(grads, arg(args, "scale"), call.spec.square)
        return [g.to(x.dtype) for g, x in zip(flat, wanted_inputs(args, needs), strict=True)]


def pair_loss(*args: Any) -> tuple[Tensor, list[Tensor]]:
    row, row_positive, col, col_positive, budget, needs = args[CALL_ARGS:]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        rest = (None if w is None else w.contiguous() for w in (row_positive, col, col_positive))
        weights = Weights(row.contiguous(), *rest)
        value, grads = driver.scalar(call, backend, weights, needed(needs, call.spec.square), budget)
        return value, [] if grads is None else flat_gradients(grads, arg(args, "scale"), call.spec.square)


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """The engine computes in its inputs' type; autocast around the call must not reach into it."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


# ---- fakes ----------------------------------------------------------------------------------------------------------


def fake_sizes(args: Sequence[Any]) -> tuple[Any, Any]:
    a, blocks = args[:2]
    return a.shape[0], a.shape[0] if arg(args, "square") else sum(block.shape[-2] for block in blocks)


def fake_stats(*args: Any) -> tuple[Tensor, ...]:
    a, blocks, budget = args[0], args[1], args[CALL_ARGS]
    n, m = fake_sizes(args)
    dtype = stat_dtype(a.dtype)
    col_n = m if arg(args, "cols") else 0
    is_max = Reduce(arg(args, "reduce")).traits.arg

    def empty(size: Any, kind: torch.dtype = dtype) -> Tensor:
        out: Tensor = a.new_empty((size,), dtype=kind)
        return out

    backend = select(arg(args, "backend"), a.device, arg(args, "compute"), n * m)
    width = n + backend.padding if arg(args, "square") else m + backend.padding * len(blocks)
    width = width * (blocks[0].shape[0] if blocks and blocks[0].dim() == 3 else 1)
    size = torch.sym_min(budget // dtype.itemsize, n * width) if budget > 0 and backend.keeps_scores else 0
    return (
        a.new_empty((n, 2), dtype=dtype), a.new_empty((col_n, 2), dtype=dtype), empty(n), empty(col_n),
        empty(n if is_max else 0, torch.int64), empty(col_n if is_max else 0, torch.int64), empty(size),
    )  # fmt: skip


def fake_stats_backward(*args: Any) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in wanted_inputs(args, args[-1])]


def fake_loss(*args: Any) -> tuple[Tensor, list[Tensor]]:
    a, needs = args[0], args[-1]
    n, m = fake_sizes(args)
    select(
        arg(args, "backend"), a.device, arg(args, "compute"), n * m
    )  # a named backend that cannot run says so here too
    dtype = stat_dtype(a.dtype)
    grads = [a.new_empty(x.shape, dtype=dtype) for x in wanted_inputs(args, needs)]
    return a.new_empty((), dtype=dtype), grads


def _register() -> None:
    for name, implementation, fake in (
        ("pair_stats", pair_stats, fake_stats),
        ("pair_stats_backward", pair_stats_backward, fake_stats_backward),
        ("pair_loss", pair_loss, fake_loss),
    ):
        LIB.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)


_register()
