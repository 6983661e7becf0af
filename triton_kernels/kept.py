"""Kernels that keep exponentials from statistics to score gradients: lean ones (lean.py), one product of each pair.

`stats` leaves e^(z - peak) of every pair in bfloat16, and the peaks: those of a row in each tile. `score_grad` turns
them into dL/d<a, b> with one more exponential, of an item's peak less its statistic. It multiplies again where that
would lose digits: in tiles with pairs that are looked at one by one, positives above all, where a row's peak is so far
above the statistic of a column that what matters to the column may be 0 in bfloat16, or where a row's numbers are so
nearly equal that bfloat16 has few between them, from which scores come for gradients of scales. Kept (n, kept_stride),
Peaks (n, peaks_stride), a column for each tile of KEPT_COLS columns.
"""

import triton
import triton.language as tl

from .functors import LN2, base_of_powers, power
from .lean import concerned, lean_slopes, store_lean_stats, store_nothing
from .partials import store_exponentials
from .rules import SAME_INDEX
from .tiles import affine, finite_parts, place, product, scale_of, weights_of

DOT = tl.constexpr(0)  # spec.Score
REACH = tl.constexpr(
    64.0
)  # e^-87 is the smallest normal number: what is lost weighs less than e^-23 of an item's weight
FLAT = tl.constexpr(0.9)  # a row's average of what is kept, above which nothing is; 2^-9 is how much each is off


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def stats(
    A, B, b_direction, n, m, d, row_origin, col_origin, Row, Col, RowOut, ColOut,
    Kept, kept_stride, Peaks, peaks_stride,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, COLS: tl.constexpr, TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = place(tl.program_id(0), n, m, TILE_ROWS, TILE_COLS)
    first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    dots = product(
        A, B, b_direction, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH
    )  # fmt: skip
    z = affine(dots, Row, Col, i, j, n, m, DOT, False, 1)
    places = Peaks + i.to(tl.int64) * peaks_stride + col_tile
    if concerned(KEEP | POSITIVES, Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS):
        store_lean_stats(
            z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, KEEP, POSITIVES, KEEP_POSITIVES, SPLIT, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        tl.store(places, tl.full([TILE_ROWS], float("inf"), tl.float32), mask=i < n)  # nothing is kept here
    else:
        if POSITIVES and not SAME_INDEX & POSITIVES:
            store_nothing(RowOut, i, n, col_tile)
            if COLS:
                store_nothing(ColOut, j, m, row_tile)
        peak = tl.max(z, 1)
        e = power(z, base_of_powers(peak)[:, None])
        at, total = col_tile.to(tl.int64) * n + i, tl.sum(e, 1)
        tl.store(RowOut.peak + at, peak)
        tl.store(RowOut.total + at, total)
        if COLS:
            store_exponentials(z, ColOut, j, m, row_tile, 0)
        tl.store(Kept + i.to(tl.int64)[:, None] * kept_stride + j[None, :], e.to(Kept.dtype.element_ty))
        tl.store(places, tl.where(total > FLAT * TILE_COLS, float("inf"), peak))


@triton.jit
def reachable(peak, ColUpstream, j, m):
    """Whether score gradients of the tile come from what is kept."""
    top = tl.max(peak, 0)
    found = top < float("inf")
    if ColUpstream.weight is not None:
        col_peak, log_total = finite_parts(ColUpstream.stat, j, j < m)
        found = found & (top - tl.min(col_peak + log_total, 0) <= REACH)
    return found


@triton.jit
def kept_slopes(e, peak, RowUpstream, ColUpstream, i, j, n, m):
    """dL/dz of pairs of which none has a rule of its own."""
    row_peak, log_total = finite_parts(RowUpstream.stat, i, i < n)
    g = e * (weights_of(RowUpstream.weight, i, i < n) * tl.exp(peak - row_peak - log_total))[:, None]
    if ColUpstream.weight is not None:
        col_peak, log_total = finite_parts(ColUpstream.stat, j, j < m)
        above = tl.exp(peak[:, None] - col_peak[None, :] - log_total[None, :])
        g += e * above * weights_of(ColUpstream.weight, j, j < m)[None, :]
    return g


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def score_grad(
    A, B, b_direction, n, m, d, row_origin, col_origin, Row, Col, RowUpstream, ColUpstream,
    Kept, kept_stride, Peaks, peaks_stride, Grad, grad_stride, Factor, RowScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr, KEPT_COLS: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = place(tl.program_id(0), n, m, TILE_ROWS, TILE_COLS)
    first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    rows = i.to(tl.int64)
    peak = tl.load(Peaks + rows * peaks_stride + first_col // KEPT_COLS, mask=i < n, other=float("inf"))
    if reachable(peak, ColUpstream, j, m):
        e = tl.load(Kept + rows[:, None] * kept_stride + j[None, :]).to(tl.float32)
        g = kept_slopes(e, peak, RowUpstream, ColUpstream, i, j, n, m)
        if RowScaleGrad is not None:
            z = peak[:, None] + LN2 * tl.log2(e)
            scores = tl.where(e > 0.0, z, 0.0) / scale_of(Row, i, n, 1)
            tl.store(RowScaleGrad + col_tile.to(tl.int64) * n + i, tl.sum(g * scores, 1))
    else:
        dots = product(
            A, B, b_direction, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH
        )  # fmt: skip
        z = affine(dots, Row, Col, i, j, n, m, DOT, False, 1)
        g, s = lean_slopes(
            z, dots, Row, Col, RowUpstream, ColUpstream, first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, KEEP, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        if RowScaleGrad is not None:
            tl.store(RowScaleGrad + col_tile.to(tl.int64) * n + i, tl.sum(g * s, 1), mask=i < n)
    if Row.scale is not None:
        g *= scale_of(Row, i, n, 1)
    if Factor is not None:
        g *= tl.load(Factor)
    room = (i < n)[:, None] & (j < grad_stride)[None, :]
    tl.store(Grad + rows[:, None] * grad_stride + j[None, :], g.to(Grad.dtype.element_ty), mask=room)
