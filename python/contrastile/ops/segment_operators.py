"""The operators of `segments`: maxima of scores over segments with their columns, and the statistic of soft reduces.

Rows may belong to items: as many to each, one item's after the other's, and segments likewise. A row then meets the
segments of its own item alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import select_segments
from ..backends.segments import SegmentCall, SegmentReduces, SoftmaxUpstream, each_sliced
from ..backends.underflow import power_of_two
from ..monoid import stat_dtype
from . import check
from .autograd import forward_only, once, run
from .library import LIB, TAGS, converted, no_autocast, register

# slope (z - mean) is at most this times what multiplies the mean: p |t - E t| stays below, for up to 2^30 columns
STEEPEST = 7.0

# What both operators take. rows: (items * R, D); offsets: (items * S + 1,); length: that of every segment, or 0.
CALL = "Tensor rows, Tensor cols, Tensor offsets, SymInt length, Tensor? mask, SymInt items, str backend"


class Call(NamedTuple):
    rows: Tensor
    cols: Tensor
    offsets: Tensor
    length: int
    mask: Tensor | None
    items: int
    backend: str

    @property
    def shape(self) -> tuple[int, int]:
        """Of a result: (items * R, S)."""
        return self.rows.shape[0], (self.offsets.shape[0] - 1) // max(self.items, 1)

    @property
    def kind(self) -> torch.dtype:
        """Of the statistics."""
        return stat_dtype(self.rows.dtype)

    def select(self) -> tuple[Any, SegmentReduces]:
        pairs = self.rows.shape[0] * self.cols.shape[0] // max(self.items, 1)
        return select_segments(self.backend, self.rows.device, self.rows.dtype, pairs)


FIELDS = len(Call._fields)
# args: (R, S) int32, the column of each value, -1 = none; without `keep`, empty
LIB.define(f"segment_maxima({CALL}, bool keep) -> (Tensor values, Tensor args)", tags=TAGS)
LIB.define(f"segment_maxima_backward({CALL}, Tensor args, Tensor grad, bool[] needs) -> Tensor[]", tags=TAGS)
# stat: the log-sum-exp of sharpness z; mean: that of z under the softmax of sharpness z
LIB.define(f"segment_softmax({CALL}, Tensor sharpness) -> (Tensor stat, Tensor mean)", tags=TAGS)
LIB.define(
    f"segment_softmax_backward({CALL}, Tensor sharpness, Tensor stat, Tensor mean, Tensor? grad_stat, "
    "Tensor? grad_mean, bool[] needs) -> Tensor[]",
    tags=TAGS,
)


class MaximaFunction(torch.autograd.Function):
    """Takes the fields of a Call, and whether the columns of maxima are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        call = Call(*given[:FIELDS])
        values, args = run("segment_maxima", maxima, call.rows, *given)
        ctx.statics = call.length, call.items, call.backend
        ctx.save_for_backward(call.rows, call.cols, call.offsets, call.mask, args)
        return values  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[:2])
        found = iter(once(partial(maxima_gradients, ctx.statics, needs), grad, *ctx.saved_tensors))
        return (*(next(found) if need else None for need in needs), *[None] * (FIELDS - 1))


def maxima_gradients(statics: tuple[Any, ...], needs: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
    grad, *call, args = tensors
    operator = torch.ops.contrastile.segment_maxima_backward.default
    return tuple(operator(*restored(call, statics), args, grad, needs))


class SoftmaxFunction(torch.autograd.Function):
    """Takes the fields of a Call and the sharpness, in which both parts of the statistic are differentiable, too."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        call = Call(*given[:FIELDS])
        stat, mean = run("segment_softmax", softmax, call.rows, *given)
        ctx.statics = call.length, call.items, call.backend
        ctx.save_for_backward(call.rows, call.cols, call.offsets, call.mask, given[FIELDS], stat, mean)
        ctx.set_materialize_grads(False)
        return stat, mean

    @staticmethod
    def backward(ctx: Any, grad_stat: Tensor | None, grad_mean: Tensor | None) -> tuple[Any, ...]:
        needs = [ctx.needs_input_grad[k] for k in (0, 1, FIELDS)]
        if grad_stat is None and grad_mean is None:
            return (None,) * (FIELDS + 1)
        found = iter(once(partial(softmax_gradients, ctx.statics, needs), grad_stat, grad_mean, *ctx.saved_tensors))
        rows, cols, sharpness = (next(found) if need else None for need in needs)
        return rows, cols, *[None] * (FIELDS - 2), sharpness


def softmax_gradients(statics: tuple[Any, ...], needs: list[bool], *tensors: Any) -> tuple[Tensor, ...]:
    grad_stat, grad_mean, *call, sharpness, stat, mean = tensors
    operator = torch.ops.contrastile.segment_softmax_backward.default
    return tuple(operator(*restored(call, statics), sharpness, stat, mean, grad_stat, grad_mean, needs))


def restored(tensors: Sequence[Any], statics: tuple[Any, ...]) -> Call:
    rows, cols, offsets, mask = tensors
    length, items, backend = statics
    return Call(rows, cols, offsets, length, mask, items, backend)


# ---- implementations ------------------------------------------------------------------------------------------------


def maxima(*given: Any) -> tuple[Tensor, Tensor]:
    call, keep = Call(*given[:FIELDS]), given[FIELDS]
    values = filled(call, -torch.inf)
    args = filled(call, -1, torch.int32)
    with no_autocast(call.rows):
        _, reduces = call.select()
        for item, some in parts(call):
            reduces.maxima(some, values[item], args[item])
    return values, saved(args, keep)


def saved(args: Tensor, keep: bool) -> Tensor:
    """What the backward pass gets of the columns of maxima; nothing: it finds them again."""
    return args if keep else args.new_empty(0, 0)


def maxima_backward(*given: Any) -> list[Tensor]:
    """dA = G B and dB = G^T A. Score gradients have the type that features are multiplied in, float16 ones times a
    power of two against underflow."""
    call, (args, grad, needs) = Call(*given[:FIELDS]), given[FIELDS:]
    if args.shape != grad.shape:
        _, args = maxima(*call, True)
    with no_autocast(call.rows):
        backend, reduces = call.select()
        narrow = backend.compute_dtype(call.rows.dtype, call.rows.device) == torch.float16
        factor = power_of_two(torch.where(args < 0, 0.0, grad).abs().amax()) if narrow and grad.numel() else None
        grad = (grad if factor is None else grad * factor).contiguous()
        sums = accumulators(call, needs)
        for (item, some), (rows, cols) in zip(parts(call), sums_of_parts(call, sums), strict=True):
            reduces.add_max_gradients(some, args[item], grad[item], rows, cols)
        return finished(call, sums, factor)


def softmax(*given: Any) -> tuple[Tensor, Tensor]:
    call, sharpness = Call(*given[:FIELDS]), given[FIELDS]
    stat, mean = filled(call, -torch.inf), filled(call, -torch.inf)
    with no_autocast(call.rows):
        _, reduces = call.select()
        for item, some in parts(call):
            reduces.softmax(some, sharpness, stat[item], mean[item])
    return stat, mean


def softmax_backward(*given: Any) -> list[Tensor]:
    """The gradient of the stat in z is sharpness p and that of the mean p (1 + sharpness (z - mean)); in the sharpness
    they have the mean and the variance."""
    call, (sharpness, stat, mean, grad_stat, grad_mean, needs) = Call(*given[:FIELDS]), given[FIELDS:]
    with no_autocast(call.rows):
        backend, reduces = call.select()
        constant = sharpness * (torch.zeros_like(stat) if grad_stat is None else grad_stat)
        slope = variance = factor = None
        if grad_mean is not None:
            constant, slope = constant + grad_mean, sharpness * grad_mean
            variance = torch.zeros_like(stat) if needs[2] else None
        if backend.compute_dtype(call.rows.dtype, call.rows.device) == torch.float16 and constant.numel():
            bound = constant.abs() if grad_mean is None else constant.abs() + STEEPEST * grad_mean.abs()
            factor = power_of_two(torch.where(stat == -torch.inf, 0.0, bound).amax())
            constant, slope = constant * factor, None if slope is None else slope * factor
        sums = accumulators(call, needs[:2])
        slope = None if slope is None else slope.contiguous()
        up = SoftmaxUpstream(sharpness, stat, mean, constant.contiguous(), slope, variance)
        for (item, some), (rows, cols) in zip(parts(call), sums_of_parts(call, sums), strict=True):
            reduces.add_softmax_gradients(some, each_sliced(up, item), rows, cols)
        found = finished(call, sums, factor)
        return [*found, sharpness_gradient(stat, mean, variance, grad_stat, grad_mean)] if needs[2] else found


def sharpness_gradient(
    stat: Tensor, mean: Tensor, variance: Tensor | None, grad_stat: Tensor | None, grad_mean: Tensor | None
) -> Tensor:
    """Of segments that have a score."""
    each = torch.zeros_like(stat) if grad_stat is None else grad_stat * mean
    if variance is not None and grad_mean is not None:
        each = each + grad_mean * variance
    return each.masked_fill(stat == -torch.inf, 0.0).sum(dtype=torch.float64).to(stat.dtype)


def filled(call: Call, value: float, dtype: torch.dtype | None = None) -> Tensor:
    return torch.full(call.shape, value, dtype=call.kind if dtype is None else dtype, device=call.rows.device)


def parts(call: Call) -> Iterator[tuple[slice, SegmentCall]]:
    """For every item its rows and what is computed of them; nothing where there is nothing to reduce. Places of a
    maximum count an item's own columns."""
    backend, _ = call.select()
    if not call.shape[0] * call.shape[1] or not call.cols.shape[0]:
        return
    kind = backend.compute_dtype(call.rows.dtype, call.rows.device)
    rows, cols = converted(call.rows, call.rows.dtype, kind), converted(kept(call), call.cols.dtype, kind)
    offsets = call.offsets if call.length else ordered("segments", call.offsets, call.cols.shape[0])
    for item, own, of_segments in item_slices(call):
        mask, start = None if call.mask is None else call.mask[own], own.start or 0
        bounds = offsets[of_segments] - start if start else offsets[of_segments]
        yield item, SegmentCall(rows[item], cols[own], bounds, call.length, mask)


def item_slices(call: Call) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, columns and offsets of every item. Only items of ragged segments look at the offsets."""
    if call.items == 1:
        yield slice(None), slice(None), slice(None)
        return
    (height, count), length = call.shape, call.length
    height //= call.items
    bounds = None if length else call.offsets[:: max(count, 1)].tolist()
    for k in range(call.items):
        start, stop = (k * count * length, (k + 1) * count * length) if bounds is None else bounds[k : k + 2]
        yield slice(k * height, (k + 1) * height), slice(start, stop), slice(k * count, (k + 1) * count + 1)


def ordered(name: str, offsets: Tensor, columns: int) -> Tensor:
    """Offsets that do not decrease or leave the columns, whatever came; on a CPU, where reading them is free, others
    are refused."""
    possible = offsets.clamp(0, columns).cummax(0).values

    def message(offsets: Tensor) -> str:
        return f"{name} must be offsets from 0 to {columns} that do not decrease, got {offsets.tolist()}"

    check.condition(message, possible == offsets, offsets)
    return possible


def kept(call: Call) -> Tensor:
    """Columns that are dropped, as zeros: in a product with zeros NaN would stay NaN."""
    return call.cols if call.mask is None else call.cols.masked_fill(~call.mask[:, None], 0.0)


def accumulators(call: Call, needs: Sequence[bool]) -> list[Tensor | None]:
    pairs = zip((call.rows, call.cols), needs, strict=True)
    return [x.new_zeros(x.shape, dtype=call.kind) if need else None for x, need in pairs]


def sums_of_parts(call: Call, sums: Sequence[Tensor | None]) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    rows, cols = sums
    if call.shape[0] * call.shape[1] and call.cols.shape[0]:
        for item, own, _ in item_slices(call):
            yield None if rows is None else rows[item], None if cols is None else cols[own]


def finished(call: Call, sums: Sequence[Tensor | None], factor: Tensor | None) -> list[Tensor]:
    return [(x if factor is None else x.div_(factor)).to(call.rows.dtype) for x in sums if x is not None]


# ---- registration ---------------------------------------------------------------------------------------------------


def fake_maxima(*given: Any) -> tuple[Tensor, Tensor]:
    call, keep = Call(*given[:FIELDS]), given[FIELDS]
    call.select()
    values = call.rows.new_empty(call.shape, dtype=call.kind)
    return values, values.new_empty(call.shape if keep else (0, 0), dtype=torch.int32)


def fake_softmax(*given: Any) -> tuple[Tensor, Tensor]:
    call = Call(*given[:FIELDS])
    call.select()
    stat = call.rows.new_empty(call.shape, dtype=call.kind)
    return stat, torch.empty_like(stat)


def fake_backward(rows: Tensor, cols: Tensor, *rest: Any) -> list[Tensor]:
    needs = rest[-1]
    pairs = zip((rows, cols), needs[:2], strict=True)
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x, need in pairs if need]
    return [*found, rows.new_empty((), dtype=stat_dtype(rows.dtype))] if any(needs[2:]) else found


for name, implementation, fake in (
    ("segment_maxima", maxima, fake_maxima),
    ("segment_maxima_backward", maxima_backward, fake_backward),
    ("segment_softmax", softmax, fake_softmax),
    ("segment_softmax_backward", softmax_backward, fake_backward),
):
    register(name, implementation, fake)
forward_only("segment_maxima")
forward_only("segment_softmax")
