"""Reduces of scores over segments of columns, which late interaction (MaxSim) needs: (rows, segments) numbers."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ..backends import select
from ..literals import BackendName, SegmentReduceName
from ..ranks import GlobalBatch, Group, collective, given, one_of, resolve, some_of
from ..replay import as_one_step
from . import check
from .check import FEATURE_DTYPES
from .segment_operators import Call, MaximaFunction, SoftmaxFunction, ordered

MOST_COLUMNS = 2**30  # columns are counted in 32 bits
REDUCES = get_args(SegmentReduceName)


@collective
def segment_reduce(
    rows: Tensor,
    cols: Tensor,
    segments: int | Tensor,
    *,
    reduce: SegmentReduceName = "max",
    sharpness: float | Tensor = 1.0,
    mask: Tensor | None = None,
    keep_argmax: bool = True,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """One number for the scores of every row with every segment of columns, without the matrix of scores.

        z_ij = <rows_i, cols_j>, for the columns segments_s <= j < segments_{s+1} with mask_j

        "max"           value_is = max_j z_ij
        "lse"           value_is = log(sum_j exp(sharpness z_ij)) / sharpness
        "softmax_mean"  value_is = sum_j softmax_j(sharpness z_ij) z_ij

    "lse" is a sum, not a mean: for n equal scores it is log(n) / sharpness above them. Both soft reduces approach the
    maximum with growing sharpness, "lse" from above and "softmax_mean" from below.

    If a row sees no score above -inf in a segment (for example, the mask drops all of its columns), the value is -inf
    and has no gradient, also in the sharpness. NaN in a segment is its value, also its maximum. inf is the maximum and
    the log-sum-exp, and NaN the mean; soft reduces then have gradient NaN, as in PyTorch. The gradient of a maximum
    goes to its column, the first of equals. With NaN or inf among the features, products with 0 are NaN where a backend
    forms them.

    For one segment, `pair_reduce` with reduce="max" or "lse" gives the same, without sharpness.

    Args:
        rows: (R, D), float32, bfloat16, float16, or float64; mixed types promote.
        cols: (C, D), C at most 2^30.
        segments: S + 1 offsets, integers, not decreasing, from 0 to C: items of any length, one after the other without
            padding (cu_seqlens of packed batches). Columns outside all segments belong to none. Or one number: all
            segments have that many columns, and it divides C. Offsets on a GPU are not checked, which would wait for
            it: offsets that decrease or leave the range are raised or cut to what is possible, silently.
        reduce: "max" | "lse" | "softmax_mean".
        sharpness: Of soft reduces: a number or a 0-dim tensor, which may be learned. Above 0 for "lse"; for
            "softmax_mean" 0 is the mean and a negative number favors small scores. A tensor on a GPU is not checked.
        mask: (C,) bool, True = keep. Dropped columns count nowhere and may hold NaN.
        keep_argmax: For "max": False finds maxima again in the backward pass instead of keeping an int32 per value.
        backend: "auto" | "cpu" | "torch" | "triton" | "cuda". "auto" chooses as for pairs; a named backend raises
            BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: columns come from all ranks, in
            rank order, and S is the sum of their segments. Gradients of columns are summed over ranks and go to their
            owners. Ranks may have different numbers of rows, columns, and segments, even none. Every strategy gathers
            columns.

    Returns: (R, S), float32 (float64 for float64 features), differentiable once.

    Cost: 2 R C D forward; backward 4 R C D, and 2 R C D more for soft reduces and without keep_argmax. Memory beyond
    features and gradients, in the type they are multiplied in: 4 bytes per value for the backward pass (8 for soft
    reduces), and a block of some rows (64 or more) against all columns (every backward pass; `torch` and `cuda` also
    forward).

    Example:
        >>> values = segment_reduce(torch.randn(6, 8), torch.randn(20, 8), 5, reduce="lse", sharpness=10.0)
        >>> values.shape
        torch.Size([6, 4])
    """
    check.no_transforms()
    rows, cols = check.features("rows", rows), check.features("cols", cols)
    offsets, length = offsets_of("segments", segments, cols)
    call = prepared(rows, cols, offsets, length, mask, 1, backend)
    checked_options(reduce, sharpness, keep_argmax, cols.device)
    ranks = resolve(group)
    if ranks is not None and not length:
        ranks.refuse_promise("segments of different lengths")
    counts = [offsets.shape[0] - 1]
    if ranks is not None:
        call, counts = of_all_ranks(group, call, reduce)
    values = reduced(call, reduce, sharpness, keep_argmax)
    # between the columns of two ranks lies one segment that is nobody's
    return values if len(counts) == 1 else torch.cat(values.split(counts, 1)[::2], 1)


def own_segment_reduce(
    rows: Tensor, cols: Tensor, segments: int | Tensor, items: int, *, reduce: SegmentReduceName,
    sharpness: float | Tensor, mask: Tensor | None, keep_argmax: bool, backend: BackendName,
) -> Tensor:  # fmt: skip
    """`segment_reduce` of `items` sets of rows, each with as many segments of its own: (R, S / items). Reads ragged
    offsets on the host."""
    check.no_transforms()
    offsets, length = offsets_of("segments", segments, cols)
    call = prepared(rows, cols, offsets, length, mask, items, backend)
    checked_options(reduce, sharpness, keep_argmax, cols.device)
    return reduced(call, reduce, sharpness, keep_argmax)


def prepared(
    rows: Tensor, cols: Tensor, offsets: Tensor, length: int, mask: Tensor | None, items: int, backend: BackendName
) -> Call:
    check.same_width("cols", cols, "rows", rows)
    check.same_device("cols", cols, rows.device)
    check.backend(backend)
    if cols.shape[0] > MOST_COLUMNS:
        raise ValueError(f"cols must have at most {MOST_COLUMNS} rows, got {cols.shape[0]}")
    if mask is not None:
        mask = check.bool_mask("mask", mask, (cols.shape[0],), cols.device).contiguous()
    dtype = torch.promote_types(rows.dtype, cols.dtype)
    # torch.compile cannot trace a tensor that is given twice
    cols = cols.view_as(cols) if cols is rows else cols
    return Call(rows.to(dtype), cols.to(dtype), offsets, length, mask, items, backend)


def checked_options(reduce: str, sharpness: float | Tensor, keep_argmax: bool, device: torch.device) -> None:
    check.choice("reduce", reduce, REDUCES)
    if not isinstance(keep_argmax, bool):
        raise TypeError(f"keep_argmax must be a bool, got {type(keep_argmax).__name__}")
    found = check.scalar("sharpness", sharpness, positive=reduce == "lse", device=device)
    if reduce == "max" and (isinstance(found, Tensor) or found != 1.0):
        raise ValueError("sharpness needs reduce='lse' or 'softmax_mean', got reduce='max'")
    if reduce != "max" and not keep_argmax:
        raise ValueError(f"keep_argmax=False needs reduce='max', got reduce={reduce!r}")
    if reduce == "lse" and isinstance(found, Tensor):
        check.condition("sharpness must be > 0", found > 0)


def offsets_of(name: str, segments: int | Tensor, cols: Tensor) -> tuple[Tensor, int]:
    columns = cols.shape[0]
    if isinstance(segments, Tensor):
        if check.tensor(name, segments).dim() != 1 or not len(segments):
            raise ValueError(f"{name} must have shape (S + 1,), got {tuple(segments.shape)}")
        return check.ids(name, segments, len(segments), cols.device), 0
    if isinstance(segments, bool) or not isinstance(segments, (int, torch.SymInt)):
        raise TypeError(f"{name} must be a tensor of offsets or an int, got {type(segments).__name__}")
    if segments < 1 or columns % segments:
        raise ValueError(f"{name} must be >= 1 and divide the {columns} columns, got {segments}")
    return torch.arange(0, columns + 1, segments, device=cols.device), segments


def reduced(call: Call, reduce: SegmentReduceName, sharpness: float | Tensor, keep_argmax: bool) -> Tensor:
    if reduce == "max":
        largest: Tensor = as_one_step(MaximaFunction.apply, *call, keep_argmax)
        return largest
    number = sharpness_of(call, sharpness)
    stat, mean = softmax_statistic(call, number)
    if reduce == "softmax_mean":
        return mean
    # an empty segment must not make 0 * inf of the gradient of the sharpness
    none = stat == -torch.inf
    found: Tensor = (stat.masked_fill(none, 0.0) / number).masked_fill(none, -torch.inf)
    return found


def sharpness_of(call: Call, sharpness: float | Tensor) -> Tensor:
    """0-dim, in the type of statistics: parts of its gradient cancel, and must be added before they are rounded."""
    return check.as_tensor("sharpness", sharpness, call.rows).to(call.kind).reshape(())


def softmax_statistic(call: Call, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """The log-sum-exp of sharpness z and the mean of z under its softmax."""
    both: tuple[Tensor, Tensor] = as_one_step(SoftmaxFunction.apply, *call, sharpness)
    return both


# ---- across ranks ---------------------------------------------------------------------------------------------------


def of_all_ranks(group: Group, call: Call, reduce: SegmentReduceName) -> tuple[Call, list[int]]:
    """The call with the columns of all ranks, and its numbers of segments: each rank's, with 1 between two ranks where
    segments are not of one length."""
    rows, cols, offsets, length, mask, items, backend = call
    columns, count = cols.shape[0], offsets.shape[0] - 1
    offsets = offsets if length else ordered("segments", offsets, columns)
    select(backend, rows.device, rows.dtype, 0)
    wanted = torch.is_grad_enabled() and cols.requires_grad
    each, segments, lengths = GlobalBatch.several(
        group,
        [columns, count, length],
        lambda: {
            "feature dtype": one_of(rows.dtype, FEATURE_DTYPES),
            "number of features": rows.shape[1],
            "reduce": one_of(reduce, REDUCES),
            "mask": given(mask),
            "arguments that require gradients": some_of(["cols"], [wanted], of_arguments=True),
        },
    )
    cols = each.gather(cols)
    mask = None if mask is None else each.gather(mask.to(torch.uint8)).bool()
    filled = {own for own, size in zip(lengths.sizes, each.sizes, strict=True) if size}
    if len(filled) == 1 and (common := filled.pop()):
        starts = torch.arange(0, each.total + 1, common, device=cols.device)
        return Call(rows, cols, starts, common, mask, items, backend), [sum(segments.sizes)]
    bounds = GlobalBatch(each.ranks, tuple(size + 1 for size in segments.sizes)).gather(offsets + each.offset)
    counts = [segments.sizes[0]] + [x for size in segments.sizes[1:] for x in (1, size)]
    return Call(rows, cols, bounds, 0, mask, items, backend), counts
