"""Reduces of the scores of every row over every segment of columns; a program for some rows and one segment.

A (n, d) and B (m, d), or descriptors of A and of B (1, m, d); Offsets (count + 1), Mask (m) or None. All that is of
rows and segments is (n, count). t = sharpness z of a score z.
"""

import triton
import triton.language as tl

from .tiles import first_maximum, place, product

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def scores(
    A, B, Mask, first_row, first_col, end, n, m, d,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """z of a tile, its columns, and which of them count in the segment that ends before `end`."""
    z = product(A, B, 0, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH)
    j = first_col + tl.arange(0, TILE_COLS)
    kept = j < end
    if Mask is not None:
        kept = kept & (tl.load(Mask + j, mask=kept, other=0) != 0)
    return z, j, kept


@triton.jit
def bounds(Offsets, segment):
    return tl.load(Offsets + segment).to(tl.int32), tl.load(Offsets + segment + 1).to(tl.int32)


@triton.jit(do_not_specialize=["n", "m", "count"])
def reduce(
    A, B, Offsets, Mask, Sharpness, Values, Args, Stat, Mean, n, m, d, count,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Without Sharpness the largest z and its column, -1 where none is above -inf; else the log-sum-exp of t and the
    mean of z under softmax(t)."""
    row_tile, segment = place(tl.program_id(0), n, count, TILE_ROWS, 1)
    first_row = row_tile * TILE_ROWS
    begin, end = bounds(Offsets, segment)
    i = first_row + tl.arange(0, TILE_ROWS)
    out = i.to(tl.int64) * count + segment
    if Sharpness is None:
        best = tl.full([TILE_ROWS], float("-inf"), tl.float32)
        arg = tl.full([TILE_ROWS], -1, tl.int64)
        for first_col in range(begin, end, TILE_COLS):
            z, j, kept = scores(
                A, B, Mask, first_row, first_col, end, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH
            )  # fmt: skip
            peak, first = first_maximum(tl.where(kept[None, :], z, float("-inf")), j.to(tl.int64), 1)
            above = (peak > best) | ((peak != peak) & (best == best))  # columns grow: the first of equals stays
            best, arg = tl.where(above, peak, best), tl.where(above, first, arg)
        tl.store(Values + out, best, mask=i < n)
        tl.store(Args + out, arg.to(tl.int32), mask=i < n)
    else:
        sharpness = tl.load(Sharpness)
        top = tl.full([TILE_ROWS], -LARGEST, tl.float32)
        total, weighted = tl.zeros([TILE_ROWS], tl.float32), tl.zeros([TILE_ROWS], tl.float32)
        for first_col in range(begin, end, TILE_COLS):
            z, j, kept = scores(
                A, B, Mask, first_row, first_col, end, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH
            )  # fmt: skip
            t = tl.where(kept[None, :], z * sharpness, float("-inf"))
            # the peak is finite: a sum of nothing is 0, one with inf is inf, and NaN shows in the sum
            peak = tl.max(tl.where(t == t, t, float("-inf")), 1)
            peak = tl.minimum(tl.maximum(top, peak), LARGEST)
            old = tl.exp(top - peak)
            e = tl.exp(t - peak[:, None])
            total = total * old + tl.sum(e, 1)
            weighted = weighted * old + tl.sum(tl.where(e == 0.0, 0.0, e * z), 1)
            top = peak
        none = total == 0.0
        tl.store(Stat + out, tl.where(none, float("-inf"), top + tl.log(total)), mask=i < n)
        tl.store(Mean + out, tl.where(none, float("-inf"), weighted / total), mask=i < n)


@triton.jit(do_not_specialize=["n", "m", "count"])
def score_grad(
    A, B, Offsets, Mask, Sharpness, Stat, Mean, Constant, Slope, Variance, Grad, grad_stride, n, m, d, count,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """p (Constant + Slope (z - Mean)), p = e^(t - Stat), into Grad (n, m), 0 for columns that are dropped. Slope None:
    0. Variance: sum p (z - Mean)^2."""
    row_tile, segment = place(tl.program_id(0), n, count, TILE_ROWS, 1)
    first_row = row_tile * TILE_ROWS
    begin, end = bounds(Offsets, segment)
    i = first_row + tl.arange(0, TILE_ROWS)
    own, sharpness = i.to(tl.int64) * count + segment, tl.load(Sharpness)
    stat, mean = tl.load(Stat + own, mask=i < n, other=0.0), tl.load(Mean + own, mask=i < n, other=0.0)
    constant = tl.load(Constant + own, mask=i < n, other=0.0)
    variance = tl.zeros([TILE_ROWS], tl.float32)
    for first_col in range(begin, end, TILE_COLS):
        z, j, kept = scores(
            A, B, Mask, first_row, first_col, end, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH
        )  # fmt: skip
        t = tl.where(kept[None, :], z * sharpness, float("-inf"))
        p, apart = tl.exp(t - stat[:, None]), z - mean[:, None]
        grad = p * constant[:, None]
        if Slope is not None:
            slope = tl.load(Slope + own, mask=i < n, other=0.0)
            grad = p * (slope[:, None] * apart + constant[:, None])
        none = t == float("-inf")
        grad = tl.where(none, 0.0, grad).to(Grad.dtype.element_ty)
        at = i.to(tl.int64)[:, None] * grad_stride + j[None, :]
        tl.store(Grad + at, grad, mask=(i < n)[:, None] & (j < end)[None, :])
        if Variance is not None:
            variance += tl.sum(tl.where(none, 0.0, p * apart * apart), 1)
    if Variance is not None:
        tl.store(Variance + own, variance, mask=i < n)
