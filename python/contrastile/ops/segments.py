"""Maxima of scores over segments of columns, which late interaction (MaxSim) needs: (rows, segments) numbers.

Backends find values and the columns they come from. The backward pass is the same for all: a row has at most one
score gradient per segment, so those of some rows are laid out in a block of zeros, and two products follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import select_segments
from ..backends.base import CPU_LIMITS, GPU_LIMITS, row_chunks
from ..backends.underflow import power_of_two
from ..literals import BackendName
from ..monoid import stat_dtype
from . import check
from .autograd import forward_only, once, run
from .library import LIB, TAGS, converted, no_autocast, register

MOST_COLUMNS = 2**30  # columns are counted in 32 bits
LANE = 8  # rows of score gradients start at multiples of 16 bytes

# length: that of every segment, or 0. values: (R, S); args: (R, S) int32, the column of each value, -1 = none.
SEGMENTS = "Tensor offsets, SymInt length, Tensor? mask"
LIB.define(
    f"segment_max(Tensor rows, Tensor cols, {SEGMENTS}, str backend) -> (Tensor values, Tensor args)",
    tags=TAGS,
)
LIB.define(
    "segment_max_backward(Tensor rows, Tensor cols, Tensor? mask, str backend, Tensor args, Tensor grad, "
    "bool[] needs) -> Tensor[]",
    tags=TAGS,
)


def segment_max(
    rows: Tensor, cols: Tensor, segments: int | Tensor, *, mask: Tensor | None = None, backend: BackendName = "auto"
) -> Tensor:
    """The largest score of every row in every segment of columns, without the matrix of scores.

        values_is = max { <rows_i, cols_j> : segments_s <= j < segments_{s+1}, mask_j }

    A segment of which a row sees no score above -inf (none of its columns is kept, say) is -inf and has no gradient.
    NaN in a segment is its maximum. The gradient goes to the maximum's column, to the first of equals.

    For one segment, `pair_reduce` with reduce="max" has the same.

    Args:
        rows: (R, D). cols: (C, D), C at most 2^30. float32, bfloat16, float16 or float64; mixed types promote.
        segments: S + 1 offsets, integers, not decreasing, from 0 to C: items of any length, one after the other without
            padding (cu_seqlens of packed batches); columns outside all segments are in none. Or one number: all
            segments have that many columns, and it divides C. Offsets on a GPU are not looked at, which would wait for
            it: those that decrease or leave the range are raised or cut to what is possible, silently.
        mask: (C,) bool, True = keep. What is dropped is in no maximum; NaN there does no harm.
        backend: "torch", "triton", "cuda" or "auto"; "cpu" has no kernel for it. "auto" is chosen as for pairs, and
            "torch" on a CPU.

    Returns: (R, S), float32 (float64 for float64 features), differentiable once.

    Cost: 2 R C D forward, 4 R C D backward. Memory beyond features and gradients, in the type they are multiplied in: 8
    bytes per value, of which 4 stay for backward, and a block of some rows (64 or more) against all columns (`torch`,
    `cuda`, every backward pass). There is no `group`: across processes, gather the columns with gradient before the
    call.
    """
    check.no_transforms()
    rows, cols = check.features("rows", rows), check.features("cols", cols)
    check.same_width("cols", cols, "rows", rows)
    check.same_device("cols", cols, rows.device)
    check.backend(backend)
    if cols.shape[0] > MOST_COLUMNS:
        raise ValueError(f"cols must have at most {MOST_COLUMNS} rows, got {cols.shape[0]}")
    if mask is not None:
        mask = check.bool_mask("mask", mask, (cols.shape[0],), cols.device).contiguous()
    offsets, length = _offsets(segments, cols)
    dtype = torch.promote_types(rows.dtype, cols.dtype)
    # torch.compile cannot trace a tensor that is given twice
    cols = cols.view_as(cols) if cols is rows else cols
    inputs = rows.to(dtype), cols.to(dtype), offsets, length, mask, backend
    values: Tensor = SegmentMaxFunction.apply(*inputs)  # type: ignore[no-untyped-call]
    return values


def _offsets(segments: int | Tensor, cols: Tensor) -> tuple[Tensor, int]:
    columns = cols.shape[0]
    if isinstance(segments, Tensor):
        if check.tensor("segments", segments).dim() != 1 or not len(segments):
            raise ValueError(f"segments must have shape (S + 1,), got {tuple(segments.shape)}")
        return check.ids("segments", segments, len(segments), cols.device), 0
    if isinstance(segments, bool) or not isinstance(segments, (int, torch.SymInt)):
        raise TypeError(f"segments must be a tensor of offsets or an int, got {type(segments).__name__}")
    if segments < 1 or columns % segments:
        raise ValueError(f"segments must be >= 1 and divide the {columns} columns, got {segments}")
    return torch.arange(0, columns + 1, segments, device=cols.device), segments


class SegmentMaxFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, cols: Tensor, offsets: Tensor, length: int, mask: Tensor | None, backend: str
    ) -> Tensor:
        values, args = run("segment_max", segment_max_forward, rows, rows, cols, offsets, length, mask, backend)
        ctx.backend = backend
        ctx.save_for_backward(rows, cols, mask, args)
        return values  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[:2])
        found = iter(once(partial(gradients, ctx.backend, needs), grad, *ctx.saved_tensors))
        return (*(next(found) if need else None for need in needs), None, None, None, None)


def gradients(backend: str, needs: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
    grad, rows, cols, mask, args = tensors
    return tuple(torch.ops.contrastile.segment_max_backward.default(rows, cols, mask, backend, args, grad, needs))


# ---- implementations ------------------------------------------------------------------------------------------------


def segment_max_forward(
    rows: Tensor, cols: Tensor, offsets: Tensor, length: int, mask: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    count, stat = len(offsets) - 1, stat_dtype(rows.dtype)
    chosen, run = select_segments(backend, rows.device, rows.dtype, rows.shape[0] * cols.shape[0])
    offsets = offsets if length else ordered(offsets, cols.shape[0])
    values = torch.full((rows.shape[0], count), -torch.inf, dtype=stat, device=rows.device)
    args = torch.full(values.shape, -1, dtype=torch.int32, device=rows.device)
    if values.numel() and cols.shape[0]:
        with no_autocast(rows):
            kind = chosen.compute_dtype(rows.dtype, rows.device)
            left, right = converted(rows, rows.dtype, kind), converted(kept(cols, mask), cols.dtype, kind)
            run(left, right, offsets, length, mask, values, args)
    return values, args


def ordered(offsets: Tensor, columns: int) -> Tensor:
    """Offsets that do not decrease or leave the columns, whatever came; on a CPU, where reading them is free, others
    are refused."""
    possible = offsets.clamp(0, columns).cummax(0).values
    if offsets.device.type == "cpu" and not torch.equal(possible, offsets):
        raise ValueError(f"segments must be offsets from 0 to {columns} that do not decrease, got {offsets.tolist()}")
    return possible


def kept(cols: Tensor, mask: Tensor | None) -> Tensor:
    """Columns that are dropped, as zeros: in a product with zeros NaN would stay NaN."""
    return cols if mask is None else cols.masked_fill(~mask[:, None], 0.0)


def segment_max_backward(
    rows: Tensor, cols: Tensor, mask: Tensor | None, backend: str, args: Tensor, grad: Tensor, needs: Sequence[bool]
) -> list[Tensor]:
    """dA = G B and dB = G^T A. Score gradients have the type that features are multiplied in, float16 ones times a
    power of two against underflow."""
    count, stat = cols.shape[0], stat_dtype(rows.dtype)
    chosen, _ = select_segments(backend, rows.device, rows.dtype, rows.shape[0] * count)
    sums = [x.new_zeros(x.shape, dtype=stat) if need else None for x, need in zip((rows, cols), needs, strict=True)]
    with no_autocast(rows):
        kind = chosen.compute_dtype(rows.dtype, rows.device)
        a, b = converted(rows, rows.dtype, kind), converted(kept(cols, mask), cols.dtype, kind)
        factor = scale_of(grad, args) if kind == torch.float16 and grad.numel() else None
        grad = grad if factor is None else grad * factor
        for part in row_chunks(CPU_LIMITS if rows.device.type == "cpu" else GPU_LIMITS, rows.shape[0], count):
            g = score_gradients(grad[part].to(kind), args[part], count)
            if sums[0] is not None:
                chosen.accumulate(sums[0][part], g, b)
            if sums[1] is not None:
                chosen.accumulate(sums[1], g.T, a[part])
        return [(x if factor is None else x.div_(factor)).to(rows.dtype) for x in sums if x is not None]


def scale_of(grad: Tensor, args: Tensor) -> Tensor:
    """Brings the largest score gradient there is near 2^14."""
    return power_of_two(torch.where(args < 0, 0.0, grad).abs().amax())


def score_gradients(grad: Tensor, args: Tensor, columns: int) -> Tensor:
    """(rows, columns) of zeros but for each row's maxima. A further column takes what segments without one would add,
    so that no place is written twice with different numbers."""
    out = torch.zeros(len(grad), (columns // LANE + 1) * LANE, dtype=grad.dtype, device=grad.device)
    return out.scatter_(1, torch.where(args < 0, columns, args).long(), grad)[:, :columns]


# ---- registration ---------------------------------------------------------------------------------------------------


def fake_forward(
    rows: Tensor, cols: Tensor, offsets: Tensor, length: int, mask: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    select_segments(backend, rows.device, rows.dtype, rows.shape[0] * cols.shape[0])
    shape = (rows.shape[0], offsets.shape[0] - 1)
    return rows.new_empty(shape, dtype=stat_dtype(rows.dtype)), rows.new_empty(shape, dtype=torch.int32)


def fake_backward(rows: Tensor, cols: Tensor, *rest: Any) -> list[Tensor]:
    pairs = zip((rows, cols), rest[-1], strict=True)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x, need in pairs if need]


for name, implementation, fake in (
    ("segment_max", segment_max_forward, fake_forward),
    ("segment_max_backward", segment_max_backward, fake_backward),
):
    register(name, implementation, fake)
forward_only("segment_max")
