"""The engine's torch.library operators, and the autograd functions over them.

pair_stats returns the statistics (differentiable; its backward recomputes the scores), pair_loss a weighted sum of them
whose gradients are formed in the forward sweep. Scale and biases are tensors, so values never cause a recompilation.
Autograd is torch.autograd.Function over the raw operators, not register_autograd: the latter walks every argument as a
tree once an operator takes a list of tensors, which costs more than a whole small loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

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
        sides.append(Side(features, start, on=cols, **parts))
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
        driver.prepare(call, backend)
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
        driver.prepare(call, backend)
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


@torch.no_grad()
def pair_loss(*args: Any) -> tuple[Tensor, list[Tensor]]:
    row, row_positive, col, col_positive, budget, needs = args[CALL_ARGS:]
    with no_autocast(args[0]):
        call, backend = build_call(*args[:CALL_ARGS])
        weights = driver.Weights(row, row_positive, col, col_positive)
        value, grads = driver.scalar(call, backend, weights, needed(needs), budget)
        return value, [] if grads is None else flat_gradients(grads, args[2])


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """The engine computes in its inputs' type; autocast around the call must not reach into it."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


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


def _register() -> None:
    for name, implementation, fake in (
        ("pair_stats", pair_stats, fake_stats),
        ("pair_stats_backward", pair_stats_backward, fake_stats_backward),
        ("pair_loss", pair_loss, fake_loss),
    ):
        LIB.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)


_register()

# ---- autograd -------------------------------------------------------------------------------------------------------
# Functions take (statics, TENSORS optional tensors, *blocks): autograd sees every tensor as an argument of its own.

TENSORS = 10  # a, scale .. mask: the tensor arguments of CALL but for the blocks


def operator_args(statics: Sequence[Any], tensors: Sequence[Tensor | None]) -> list[Any]:
    """The arguments of CALL from a Function's own."""
    a, *rest = tensors[:TENSORS]
    return [a, list(tensors[TENSORS:]), *rest, *statics]


def by_input(grads: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Spreads flat gradients (order of `needed`) over a Function's tensor arguments."""
    flat = iter(grads)
    a, scale, col_scale, row_bias, col_bias, *blocks = (next(flat) if need else None for need in needs)
    return (a, scale, col_scale, row_bias, col_bias, *(None,) * (TENSORS - 5), *blocks)


def tensor_needs(tensor_flags: Sequence[bool]) -> list[bool]:
    return [*tensor_flags[:5], *tensor_flags[TENSORS:]]


class StatsFunction(torch.autograd.Function):
    """Vector mode: forward returns the outputs of pair_stats."""

    @staticmethod
    def forward(ctx: Any, statics: tuple[Any, ...], budget: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        output = torch.ops.contrastile.pair_stats.default(*operator_args(statics, tensors), budget)
        row_stat, col_stat, _, _, row_arg, col_arg, scores = output
        ctx.mark_non_differentiable(row_arg, col_arg, scores)
        ctx.statics = statics
        ctx.save_for_backward(*tensors, row_stat, col_stat, scores)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> tuple[Any, ...]:
        *tensors, row_stat, col_stat, scores = ctx.saved_tensors
        needs = tensor_needs(ctx.needs_input_grad[2:])
        grads = StatsBackward.apply(ctx.statics, needs, *gouts[:4], row_stat, col_stat, scores, *tensors)
        return (None, None, *by_input(grads, needs))


class StatsBackward(torch.autograd.Function):
    """A function of its own so that differentiating it raises; it would be silently wrong otherwise."""

    @staticmethod
    def forward(ctx: Any, statics: tuple[Any, ...], needs: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
        row, col, row_positive, col_positive, row_stat, col_stat, scores, *inputs = tensors
        grads = torch.ops.contrastile.pair_stats_backward.default(
            *operator_args(statics, inputs), row_stat, col_stat, scores, row, col, row_positive, col_positive, needs
        )
        return tuple(grads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_DOUBLE_BACKWARD)


class LossFunction(torch.autograd.Function):
    """Scalar mode: forward forms the loss and its gradients, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, statics: tuple[Any, ...], needs: list[bool], more: tuple[Any, ...], *tensors: Tensor | None
    ) -> Tensor:
        args = operator_args(statics, tensors)
        loss, grads = run_loss(args, more, needs)
        ctx.needs, ctx.dtypes = needs, [x.dtype for x in wanted_inputs(args, needs)]
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Any, ...]:
        scale = ScaleGradients.apply if torch.is_grad_enabled() else scaled  # grad mode is on for create_graph=True
        return (None, None, None, *by_input(scale(gout, ctx.dtypes, *ctx.saved_tensors), ctx.needs))


def scaled(gout: Tensor, dtypes: list[torch.dtype], *grads: Tensor) -> tuple[Tensor, ...]:
    """gout * gradients in float32, then the cast: a loss scaler's factor arrives before float16 can underflow."""
    return tuple((g * gout).to(dtype) for g, dtype in zip(grads, dtypes, strict=True))


class ScaleGradients(torch.autograd.Function):
    """`scaled`, refusing to be differentiated."""

    @staticmethod
    def forward(ctx: Any, gout: Tensor, dtypes: list[torch.dtype], *grads: Tensor) -> tuple[Tensor, ...]:
        return scaled(gout, dtypes, *grads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_DOUBLE_BACKWARD)


NO_DOUBLE_BACKWARD = (
    "contrastile: double backward (create_graph=True) is not supported; contrastile.reference has the same losses "
    "in plain torch, differentiable any number of times"
)


def stats(args: Sequence[Any], budget: int) -> tuple[Tensor, ...]:
    """Differentiable pair_stats for the arguments of CALL."""
    a, blocks, *rest = args
    return StatsFunction.apply(tuple(rest[TENSORS - 1 :]), budget, a, *rest[: TENSORS - 1], *blocks)  # type: ignore[no-any-return]


def loss(args: Sequence[Any], more: tuple[Any, ...], needs: list[bool]) -> Tensor:
    """Differentiable pair_loss for the arguments of CALL."""
    if not any(needs):
        return run_loss(args, more, needs)[0]
    a, blocks, *rest = args
    return LossFunction.apply(tuple(rest[TENSORS - 1 :]), needs, more, a, *rest[: TENSORS - 1], *blocks)  # type: ignore[no-any-return]


def run_loss(args: Sequence[Any], more: tuple[Any, ...], needs: list[bool]) -> tuple[Tensor, list[Tensor]]:
    """The operator, or its implementation at once where nobody watches operators: small losses feel the difference."""
    if not torch.compiler.is_compiling() and type(args[0]) in PLAIN and _get_current_dispatch_mode() is None:
        return pair_loss(*args, *more, needs)
    return torch.ops.contrastile.pair_loss.default(*args, *more, needs)  # type: ignore[no-any-return]


PLAIN = (Tensor, torch.nn.Parameter)
