"""The engine's torch.library operators: schemas, implementations, fakes, autograd.

pair_stats returns the statistics (differentiable; its backward recomputes the scores), pair_loss a weighted sum of them
whose gradients are formed in the forward sweep. Scale and biases are tensors, so values never cause a recompilation.
Backward operators refuse to be differentiated: their second derivative would otherwise be silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import driver
from ..backends import select
from ..backends.base import Backend
from ..spec import Keep, PairCall, PairSpec, Positives, Reduce, Side

LIB = torch.library.Library("contrastile", "DEF")
TAGS = (torch.Tag.pt2_compliant_tag,)

CALL = (
    "Tensor a, Tensor[] blocks, Tensor scale, Tensor? col_scale, Tensor? row_bias, Tensor? col_bias, "
    "Tensor? row_ids, Tensor? col_ids, Tensor? row_threshold, Tensor? col_threshold, Tensor? mask, "
    "int reduce, int keep, int positives, bool keep_positives, bool cols, bool square, ScalarType compute, str backend"
)  # compute: the type features are multiplied in; square: b is a, blocks is empty
CALL_ARGS = 19  # arguments in CALL; each operator below adds its own after them
LIB.define(
    f"pair_stats({CALL}, int budget) -> "
    "(Tensor row_stat, Tensor col_stat, Tensor row_positive, Tensor col_positive, Tensor row_arg, Tensor col_arg, "
    "Tensor scores)",
    tags=TAGS,
)
LIB.define(
    f"pair_stats_backward({CALL}, Tensor row_stat, Tensor col_stat, Tensor scores, Tensor row_weight, "
    "Tensor col_weight, Tensor row_positive_weight, Tensor col_positive_weight, bool[] needs) -> Tensor[]",
    tags=TAGS,
)
LIB.define(
    f"pair_loss({CALL}, Tensor row_weight, Tensor? row_positive_weight, Tensor? col_weight, "
    "Tensor? col_positive_weight, int budget, bool[] needs) -> (Tensor, Tensor[])",
    tags=TAGS,
)
LIB.define("pair_loss_backward(Tensor gout, Tensor[] grads, Tensor[] like) -> Tensor[]", tags=TAGS)


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
    square: bool,
    compute: torch.dtype,
    backend: str,
) -> tuple[PairCall, Backend]:
    chosen = select(backend, a.device, compute)
    kind, stat = chosen.compute_dtype(compute), driver.stat_dtype(a.dtype)

    def vector(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(stat).contiguous()

    rows = Side(
        converted(a, compute, kind),
        scale=scale.to(stat).expand(a.shape[0]).contiguous(),
        bias=vector(row_bias),
        ids=None if row_ids is None else row_ids.contiguous(),
        threshold=vector(row_threshold),
    )
    spec = PairSpec(Reduce(reduce), Keep(keep), Positives(positives), keep_positives, cols, square)
    if square:
        # the rows' scale already multiplies the score; as columns they bring bias, ids and threshold only
        col = Side(rows.features, bias=vector(col_bias), ids=rows.ids, threshold=rows.threshold)
        col.prepared = chosen.prepare(col.features)
        return PairCall(spec, rows, [col], None), chosen
    sides, start = [], 0
    whole = Side(
        a, scale=vector(col_scale), bias=vector(col_bias), threshold=vector(col_threshold), on=cols,
        ids=None if col_ids is None else col_ids.contiguous(),
    )  # fmt: skip
    for block in blocks:
        stop = start + block.shape[0]
        features = converted(block, compute, kind)
        parts = {
            name: None if (x := getattr(whole, name)) is None else x[start:stop]
            for name in ("scale", "bias", "ids", "threshold")
        }
        sides.append(Side(features, start, on=cols, prepared=chosen.prepare(features), **parts))
        start = stop
    return PairCall(spec, rows, sides, None if mask is None else mask.contiguous()), chosen


def converted(features: Tensor, compute: torch.dtype, kind: torch.dtype) -> Tensor:
    """Features rounded to the type asked for, in the type (as wide or wider) the backend multiplies."""
    return features.to(compute).to(kind).contiguous()


def joined(running: list[driver.Running], name: str, like: Tensor) -> Tensor:
    values = [getattr(r.result(), name) for r in running]
    return torch.cat([like.new_empty(0) if v is None else v for v in values]) if values else like.new_empty(0)


def needed(needs: Sequence[bool]) -> driver.Needs:
    """Order: a, scale, col_scale, row_bias, col_bias, then the blocks."""
    a, row_scale, col_scale, row_bias, col_bias, *blocks = needs
    return driver.Needs(a, list(blocks), row_scale, col_scale, row_bias, col_bias)


def flat_gradients(grads: driver.Gradients, scale: Tensor) -> list[Tensor]:
    """The wanted gradients in the order of `needed`, scale summed to its own shape."""
    row_scale = grads.row_scale
    if row_scale is not None and scale.dim() == 0:
        row_scale = row_scale.sum()
    every = [grads.a, row_scale, grads.col_scale, grads.row_bias, grads.col_bias, *grads.blocks]
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
        buffer = driver.score_buffer(call, backend, budget)
        rows, cols = driver.statistics(call, backend, driver.ScoreStore(buffer, backend.padding))
        row = rows.result()
        row_stat = driver.finish(call.spec, row)
        none = row_stat.new_empty(0)
        none_arg = row_stat.new_empty(0, dtype=torch.int64)
        col_stat = col_positive = none
        if call.spec.cols:
            col_stat, col_positive = driver.joined_columns(call, cols)
        row_arg = none_arg if row.arg is None else row.arg
        col_arg = none_arg if row.arg is None or not call.spec.cols else joined(cols, "arg", none_arg)
        positive = none if row.positive is None else row.positive
        scores = none.clone() if buffer is None else buffer
        return row_stat, col_stat.clone(), positive, col_positive.clone(), row_arg, col_arg.clone(), scores


def pair_stats_backward(*args: Any) -> list[Tensor]:
    row_stat, col_stat, scores, row_weight, col_weight, row_positive, col_positive, needs = args[CALL_ARGS:]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        some = call.spec.positives != Positives.NONE
        row_weights = (row_weight.contiguous(), row_positive.contiguous() if some else None)
        call.rows = driver.with_weights(call.rows, row_stat, *row_weights)
        if call.spec.square:
            weighted = driver.with_weights(call.blocks[0], row_stat, *row_weights)
            call.blocks = [weighted]
        elif call.spec.cols:
            driver.attach_columns(
                call, col_stat, col_weight.contiguous(), col_positive.contiguous() if some else None
            )
        store = driver.ScoreStore(scores if len(scores) else None, backend.padding)
        grads = driver.gradients(call, backend, needed(needs), store)
        flat = flat_gradients(grads, args[2])
        return [g.to(x.dtype) for g, x in zip(flat, wanted_inputs(args, needs), strict=True)]


def pair_loss(*args: Any) -> tuple[Tensor, list[Tensor]]:
    row, row_positive, col, col_positive, budget, needs = args[CALL_ARGS:]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        weights = driver.Weights(row, row_positive, col, col_positive)
        value, grads = driver.scalar(call, backend, weights, needed(needs), budget)
        return value, [] if grads is None else flat_gradients(grads, args[2])


def pair_loss_backward(gout: Tensor, grads: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    # scaled in float32 before the cast: a loss scaler's factor reaches float16 gradients before they can underflow
    return [(g * gout).to(x.dtype) for g, x in zip(grads, like, strict=True)]


def no_autocast(x: Tensor) -> Any:
    """The engine computes in its inputs' type; autocast around the call must not reach into it."""
    return torch.autocast(x.device.type, enabled=False)


# ---- fakes ----------------------------------------------------------------------------------------------------------


def fake_sizes(args: Sequence[Any]) -> tuple[Any, Any]:
    a, blocks, square = args[0], args[1], args[16]
    return a.shape[0], a.shape[0] if square else sum(block.shape[0] for block in blocks)


def fake_stats(*args: Any) -> tuple[Tensor, ...]:
    a, blocks, reduce, cols, square, budget = args[0], args[1], args[11], args[15], args[16], args[CALL_ARGS]
    n, m = fake_sizes(args)
    dtype = driver.stat_dtype(a.dtype)
    col_n = m if cols else 0
    is_max = reduce == Reduce.MAX

    def empty(size: Any, kind: torch.dtype = dtype) -> Tensor:
        return a.new_empty((size,), dtype=kind)

    backend = select(args[18], a.device, args[17])
    width = n + backend.padding if square else m + backend.padding * len(blocks)
    size = torch.sym_min(budget // dtype.itemsize, n * width) if budget > 0 and backend.keeps_scores else 0
    return (
        empty(n), empty(col_n), empty(n), empty(col_n),
        empty(n if is_max else 0, torch.int64), empty(col_n if is_max else 0, torch.int64), empty(size),
    )  # fmt: skip


def fake_stats_backward(*args: Any) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in wanted_inputs(args, args[-1])]


def fake_loss(*args: Any) -> tuple[Tensor, list[Tensor]]:
    a, needs = args[0], args[-1]
    dtype = driver.stat_dtype(a.dtype)
    grads = [a.new_empty(x.shape, dtype=dtype) for x in wanted_inputs(args, needs)]
    return a.new_empty((), dtype=dtype), grads


def fake_loss_backward(gout: Tensor, grads: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    return [g.new_empty(g.shape, dtype=x.dtype) for g, x in zip(grads, like, strict=True)]


# ---- autograd -------------------------------------------------------------------------------------------------------


def save_call(ctx: Any, args: Sequence[Any], *more: Tensor) -> None:
    """Saves the tensors of a call; ctx.statics keeps the rest."""
    a, blocks, *optional = args[:11]
    present = [x for x in optional if x is not None]
    ctx.save_for_backward(a, *blocks, *present, *more)
    ctx.shape = len(blocks), [x is not None for x in optional]
    ctx.statics = args[11:CALL_ARGS]


def restore_call(ctx: Any) -> tuple[list[Any], tuple[Tensor, ...]]:
    count, flags = ctx.shape
    a, *rest = ctx.saved_tensors
    blocks, rest = rest[:count], rest[count:]
    present = iter(rest)
    optional = [next(present) if flag else None for flag in flags]
    return [a, list(blocks), *optional, *ctx.statics], tuple(present)


def input_needs(ctx: Any) -> list[bool]:
    a, blocks, scale, col_scale, row_bias, col_bias = ctx.needs_input_grad[:6]
    return [a, scale, col_scale, row_bias, col_bias, *blocks]


def gradients_by_input(grads: Sequence[Tensor], needs: Sequence[bool], total: int) -> tuple[Any, ...]:
    """Spreads flat gradients over an operator's `total` inputs."""
    flat = iter(grads)
    a, scale, col_scale, row_bias, col_bias, *blocks = (next(flat) if need else None for need in needs)
    return (a, blocks, scale, col_scale, row_bias, col_bias) + (None,) * (total - 6)


def setup_stats(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    row_stat, col_stat, _, _, row_arg, col_arg, scores = output
    ctx.mark_non_differentiable(row_arg, col_arg, scores)
    save_call(ctx, inputs, row_stat, col_stat, scores)


def backward_stats(ctx: Any, *gouts: Tensor) -> tuple[Any, ...]:
    call, (row_stat, col_stat, scores) = restore_call(ctx)
    needs = input_needs(ctx)
    row, col, row_positive, col_positive = gouts[:4]
    grads = torch.ops.contrastile.pair_stats_backward.default(
        *call, row_stat, col_stat, scores, row, col, row_positive, col_positive, needs
    )
    return gradients_by_input(grads, needs, CALL_ARGS + 1)


def setup_loss(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, list[Tensor]]) -> None:
    ctx.needs = inputs[-1]
    like = [x.new_empty(0) for x in wanted_inputs(inputs, ctx.needs)]  # carries the dtypes
    ctx.save_for_backward(*output[1], *like)


def backward_loss(ctx: Any, gout: Tensor, _grads: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    half = len(saved) // 2
    grads = torch.ops.contrastile.pair_loss_backward.default(gout, list(saved[:half]), list(saved[half:]))
    return gradients_by_input(grads, ctx.needs, CALL_ARGS + 6)


def refuse_double_backward(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "contrastile: double backward (create_graph=True) is not supported; contrastile.reference has the same losses "
        "in plain torch, differentiable any number of times"
    )


def _register() -> None:
    for name, implementation, fake, backward, setup in (
        ("pair_stats", pair_stats, fake_stats, backward_stats, setup_stats),
        ("pair_stats_backward", pair_stats_backward, fake_stats_backward, refuse_double_backward, None),
        ("pair_loss", pair_loss, fake_loss, backward_loss, setup_loss),
        ("pair_loss_backward", pair_loss_backward, fake_loss_backward, refuse_double_backward, None),
    ):
        LIB.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)
        torch.library.register_autograd(
            f"contrastile::{name}", backward, setup_context=setup or (lambda ctx, inputs, output: None), lib=LIB
        )


_register()
