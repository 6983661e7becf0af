"""The two kernels of the pair reduction: `stats` and `coeff`. One program computes one tile of pairs.

Every program writes partial results of its own; the caller adds them up in a fixed order, so two runs give equal bits.
A and B are contiguous (n, d) and (tiles, m, d) with `b_tile` elements between tiles; partials of rows are (column
tiles, n), of columns (row tiles, m). COLS: also the column role. None: not given, not wanted.
"""

import triton
import triton.language as tl

from .functors import DOT, LSE, MAX, positive_slope, positive_term, score_slope, slope, term
from .tiles import across, affine, base_of, place, product, role_z, rules, score_of, vector

NO_INDEX = tl.constexpr(2**62)


@triton.jit
def store_partials(
    z, chosen, Peak, Total, Positive, Arg, index, count, part, others,
    REDUCE: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Reduces one role's z along AXIS; NaN enters the total of lse and the peak of max."""
    out, inside = part.to(tl.int64) * count + index, index < count
    tl.store(Positive + out, tl.sum(chosen, AXIS), mask=inside)
    number = tl.where(z == z, z, float("-inf"))
    if REDUCE == LSE:
        peak = tl.max(number, AXIS)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        tl.store(Peak + out, peak, mask=inside)
        tl.store(Total + out, tl.sum(tl.exp(z - across(base, AXIS)), AXIS), mask=inside)
    elif REDUCE == MAX:
        peak = tl.max(number, AXIS)
        found = tl.max((z != z).to(tl.int32), AXIS) > 0  # a NaN is the maximum
        at = tl.where(across(found, AXIS), z != z, z == across(peak, AXIS))
        tl.store(Peak + out, tl.where(found, float("nan"), peak), mask=inside)
        tl.store(Arg + out, tl.min(tl.where(at, across(others, 1 - AXIS), NO_INDEX), AXIS), mask=inside)
    else:
        tl.store(Total + out, tl.sum(term(z, REDUCE), AXIS), mask=inside)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def stats(
    A, B, b_tile, tiles, n, m, d, row_origin, col_origin,
    RowScale, ColScale, RowBias, ColBias, RowIds, ColIds, RowThreshold, ColThreshold, Mask, mask_stride,
    RowPeak, RowTotal, RowPositive, RowArg, ColPeak, ColTotal, ColPositive, ColArg,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SAME: tl.constexpr, SCORE: tl.constexpr, OFFSET: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = place(n, m, TILE_ROWS, TILE_COLS)
    i, j = row_tile * TILE_ROWS + tl.arange(0, TILE_ROWS), col_tile * TILE_COLS + tl.arange(0, TILE_COLS)
    x, floor = base_of(A, B, b_tile, tiles, RowBias, ColBias, i, j, n, m, d, SCORE, OFFSET, EVEN, PRECISION, DEPTH)
    z = affine(score_of(x, floor, SCORE), RowScale, ColScale, RowBias, ColBias, i, j, n, m, SCORE)
    _, positive, drop = rules(
        RowIds, ColIds, Mask, mask_stride, i, j, n, m, row_origin, col_origin, KEEP, POSITIVES, KEEP_POSITIVES, SAME
    )
    chosen = tl.where(positive, positive_term(z, REDUCE), 0.0)
    row_z = role_z(z, positive, drop, RowThreshold, i, n, KEEP_POSITIVES, 1)
    store_partials(
        row_z, chosen, RowPeak, RowTotal, RowPositive, RowArg, i, n, col_tile, col_origin + j.to(tl.int64), REDUCE, 1
    )
    if COLS:
        col_z = role_z(z, positive, drop, ColThreshold, j, m, KEEP_POSITIVES, 0)
        store_partials(
            col_z, chosen, ColPeak, ColTotal, ColPositive, ColArg, j, m, row_tile, row_origin + i.to(tl.int64),
            REDUCE, 0,
        )  # fmt: skip


@triton.jit
def role_slope(
    z, positive, drop, Threshold, Stat, Weight, index, count,
    REDUCE: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Upstream gradient times the derivative of this side's statistic in z. Stat (count, 2): peak, log total."""
    z = role_z(z, positive, drop, Threshold, index, count, KEEP_POSITIVES, AXIS)
    peak, log_total = vector(Stat, 2 * index, 2 * count, AXIS), vector(Stat + 1, 2 * index, 2 * count, AXIS)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    log_total = tl.where(log_total == float("-inf"), 0.0, log_total)
    return slope(z, peak, log_total, REDUCE) * vector(Weight, index, count, AXIS)


@triton.jit
def store_sum(x, Out, index, count, part, AXIS: tl.constexpr):
    tl.store(Out + part.to(tl.int64) * count + index, tl.sum(x, AXIS), mask=index < count)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def coeff(
    A, B, b_tile, tiles, n, m, d, row_origin, col_origin,
    RowScale, ColScale, RowBias, ColBias, RowIds, ColIds, RowThreshold, ColThreshold, Mask, mask_stride,
    RowStat, RowWeight, RowPositiveWeight, ColStat, ColWeight, ColPositiveWeight,
    Grad, grad_stride, grad_tile, RowBiasGrad, ColBiasGrad, RowScaleGrad, ColScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SAME: tl.constexpr, SCORE: tl.constexpr, OFFSET: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = place(n, m, TILE_ROWS, TILE_COLS)
    i, j = row_tile * TILE_ROWS + tl.arange(0, TILE_ROWS), col_tile * TILE_COLS + tl.arange(0, TILE_COLS)
    x, floor = base_of(A, B, b_tile, tiles, RowBias, ColBias, i, j, n, m, d, SCORE, OFFSET, EVEN, PRECISION, DEPTH)
    s = score_of(x, floor, SCORE)
    z = affine(s, RowScale, ColScale, RowBias, ColBias, i, j, n, m, SCORE)
    valid, positive, drop = rules(
        RowIds, ColIds, Mask, mask_stride, i, j, n, m, row_origin, col_origin, KEEP, POSITIVES, KEEP_POSITIVES, SAME
    )
    g = role_slope(z, positive, drop, RowThreshold, RowStat, RowWeight, i, n, REDUCE, KEEP_POSITIVES, 1)
    if COLS:
        g += role_slope(z, positive, drop, ColThreshold, ColStat, ColWeight, j, m, REDUCE, KEEP_POSITIVES, 0)
    if RowPositiveWeight is not None:
        own = vector(RowPositiveWeight, i, n, 1) * positive_slope(z, REDUCE)
        g += tl.where(positive, own, 0.0)
    if ColPositiveWeight is not None:
        own = vector(ColPositiveWeight, j, m, 0) * positive_slope(z, REDUCE)
        g += tl.where(positive, own, 0.0)
    g = tl.where(valid, g, 0.0)

    by_row, by_col = g, g
    if RowScale is not None:
        by_row = g * vector(RowScale, i, n, 1)
    if ColScale is not None:
        by_col = g * vector(ColScale, j, m, 0)
    if RowScaleGrad is not None:
        store_sum(tl.where(valid, by_col * s, 0.0), RowScaleGrad, i, n, col_tile, 1)
    if ColScaleGrad is not None:
        store_sum(tl.where(valid, by_row * s, 0.0), ColScaleGrad, j, m, row_tile, 0)
    grad = by_row
    if ColScale is not None:
        grad = by_row * vector(ColScale, j, m, 0)
    bias = g
    if SCORE != DOT:
        dq = tl.where(x <= floor, 0.0, score_slope(x, SCORE))
        bias = tl.where(grad == 0.0, grad, grad * dq)
        grad = -2.0 * bias
    if RowBiasGrad is not None:
        store_sum(bias, RowBiasGrad, i, n, col_tile, 1)
    if ColBiasGrad is not None:
        store_sum(bias, ColBiasGrad, j, m, row_tile, 0)

    out = Grad + i.to(tl.int64)[:, None] * grad_stride + j[None, :]
    if SCORE == DOT or OFFSET:
        tl.store(out, grad.to(Grad.dtype.element_ty), mask=valid)
    if SCORE != DOT:  # dG/d<a, b_t> needs the product again: computed again, since it fits neither registers nor memory
        for t in range(OFFSET, tiles):
            dots = product(A, B + t * b_tile, i, j, n, m, d, EVEN, PRECISION, DEPTH)
            tl.store(out + t * grad_tile, (grad * dots).to(Grad.dtype.element_ty), mask=valid)
