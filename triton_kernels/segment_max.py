"""The largest score of every row in every segment of columns; a program for some rows and one segment."""

import triton
import triton.language as tl

from .tiles import first_maximum, place, product


@triton.jit(do_not_specialize=["n", "m", "count"])
def segment_max(
    A, B, Offsets, Mask, Values, Args, n, m, d, count,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A (n, d) and B (m, d), or descriptors of A and of B (1, m, d). Offsets (count + 1), Mask (m) or None; Values and
    Args (n, count). Args is -1 where no score is above -inf."""
    row_tile, segment = place(tl.program_id(0), n, count, TILE_ROWS, 1)
    first_row = row_tile * TILE_ROWS
    begin, end = tl.load(Offsets + segment).to(tl.int32), tl.load(Offsets + segment + 1).to(tl.int32)
    best = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    arg = tl.full([TILE_ROWS], -1, tl.int64)
    for first_col in range(begin, end, TILE_COLS):
        z = product(A, B, 0, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH)
        j = first_col + tl.arange(0, TILE_COLS)
        inside = j < end
        if Mask is not None:
            inside = inside & (tl.load(Mask + j, mask=inside, other=0) != 0)
        peak, first = first_maximum(tl.where(inside[None, :], z, float("-inf")), j.to(tl.int64), 1)
        above = (peak > best) | ((peak != peak) & (best == best))  # columns grow: the first of equals stays
        best, arg = tl.where(above, peak, best), tl.where(above, first, arg)
    i = first_row + tl.arange(0, TILE_ROWS)
    out = i.to(tl.int64) * count + segment
    tl.store(Values + out, best, mask=i < n)
    tl.store(Args + out, arg.to(tl.int32), mask=i < n)
