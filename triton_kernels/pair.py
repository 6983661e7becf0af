"""The two kernels of the pair reduction: `stats` and `score_grad`, tile by tile.

Every tile has partial results of its own; the caller adds them up in a fixed order, so two runs give equal bits.
A and B are contiguous, (n, d) and (directions, m, d) with directions `b_direction` elements apart, or descriptors
(TMA); partial statistics of rows are (column tiles, n), of columns (row tiles, m). COLS: also the column side. None:
not given, not wanted. There is a program for each tile or, PERSISTENT, as many as the device holds at a time: then
the loads of a program's next tile can begin during the epilogue of this one.
"""

import triton
import triton.language as tl

from .functors import DOT, positive_term, score_slope, term
from .rules import SAME_INDEX, meets_diagonal, rules, side_z
from .slopes import logit_slope, scaled
from .tiles import across, affine, base_of, first_maximum, place, product, score_of, share


@triton.jit
def store_positives(
    z, positive, RowPositive, ColPositive, first_row, first_col, n, m, shift,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, COLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Sums over positives. With the same index there is one a row, in one tile: (1, n), not written elsewhere."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    row_at, col_at, row_in, col_in = i.to(tl.int64), j.to(tl.int64), i < n, j < m
    here = True
    if SAME_INDEX & POSITIVES:
        column, row = row_at + shift, col_at - shift
        row_in = row_in & (column >= first_col) & (column < first_col + TILE_COLS) & (column < m)
        col_in = col_in & (row >= first_row) & (row < first_row + TILE_ROWS) & (row < n)
        here = meets_diagonal(first_row, first_col, shift, TILE_ROWS, TILE_COLS)
    else:
        row_at += (first_col // TILE_COLS).to(tl.int64) * n
        col_at += (first_row // TILE_ROWS).to(tl.int64) * m
    if here:
        chosen = tl.where(positive, positive_term(z, REDUCE), 0.0)
        tl.store(RowPositive + row_at, tl.sum(chosen, 1), mask=row_in)
        if COLS:
            tl.store(ColPositive + col_at, tl.sum(chosen, 0), mask=col_in)


@triton.jit
def store_partials(
    z, Peak, Total, Arg, index, count, part, others,
    REDUCE: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Reduces one side's z along AXIS to the numbers with a place; NaN enters the total of lse, the peak of max."""
    out, inside = part.to(tl.int64) * count + index, index < count
    if Arg is not None:
        peak, arg = first_maximum(z, others, AXIS)
        tl.store(Peak + out, peak, mask=inside)
        tl.store(Arg + out, arg, mask=inside)
    elif Peak is not None:
        peak = tl.max(tl.where(z == z, z, float("-inf")), AXIS)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        tl.store(Peak + out, peak, mask=inside)
        tl.store(Total + out, tl.sum(tl.exp(z - across(base, AXIS)), AXIS), mask=inside)
    else:
        tl.store(Total + out, tl.sum(term(z, REDUCE), AXIS), mask=inside)


@triton.jit
def store_stats(
    z, positive, drop, Row, Col, RowPeak, RowTotal, RowPositive, RowArg,
    ColPeak, ColTotal, ColPositive, ColArg, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, COLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """The tile's partial statistics of rows and, with COLS, of columns."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if POSITIVES:
        store_positives(
            z, positive, RowPositive, ColPositive, first_row, first_col, n, m, row_origin - col_origin,
            REDUCE, POSITIVES, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
    row_z = side_z(z, positive, drop, Row, i, n, KEEP_POSITIVES, 1)
    others = col_origin + j.to(tl.int64)
    store_partials(row_z, RowPeak, RowTotal, RowArg, i, n, first_col // TILE_COLS, others, REDUCE, 1)
    if COLS:
        col_z = side_z(z, positive, drop, Col, j, m, KEEP_POSITIVES, 0)
        others = row_origin + i.to(tl.int64)
        store_partials(col_z, ColPeak, ColTotal, ColArg, j, m, first_row // TILE_ROWS, others, REDUCE, 0)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def stats(
    A, B, b_direction, directions, n, m, d, row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowPeak, RowTotal, RowPositive, RowArg, ColPeak, ColTotal, ColPositive, ColArg,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, COLS: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, PERSISTENT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    first, last, step = share(n, m, TILE_ROWS, TILE_COLS, PERSISTENT)
    for tile in tl.range(first, last, step, flatten=PERSISTENT):
        row_tile, col_tile = place(tile, n, m, TILE_ROWS, TILE_COLS)
        first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
        i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
        x, floor = base_of(
            A, B, b_direction, directions, Row, Col, first_row, first_col, n, m, d,
            SCORE, OFFSET, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
        )  # fmt: skip
        z = affine(score_of(x, floor, SCORE), Row, Col, i, j, n, m, SCORE)
        _, positive, drop = rules(
            Row, Col, label_words, Mask, mask_stride, i, j, n, m, row_origin - col_origin,
            KEEP, POSITIVES, KEEP_POSITIVES,
        )  # fmt: skip
        store_stats(
            z, positive, drop, Row, Col, RowPeak, RowTotal, RowPositive, RowArg,
            ColPeak, ColTotal, ColPositive, ColArg, first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip


@triton.jit
def store_sum(x, Out, index, count, part, AXIS: tl.constexpr):
    tl.store(Out + part.to(tl.int64) * count + index, tl.sum(x, AXIS), mask=index < count)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def score_grad(
    A, B, b_direction, directions, n, m, d, row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowStat, RowWeight, RowPositiveWeight, ColStat, ColWeight, ColPositiveWeight,
    RowTotal, RowPositive, ColTotal, ColPositive, Grad, grad_stride, grad_direction, Factor,
    RowBiasGrad, ColBiasGrad, RowScaleGrad, ColScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, COLS: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, PERSISTENT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    first, last, step = share(n, m, TILE_ROWS, TILE_COLS, PERSISTENT)
    for tile in tl.range(first, last, step, flatten=PERSISTENT):
        row_tile, col_tile = place(tile, n, m, TILE_ROWS, TILE_COLS)
        first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
        i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
        x, floor = base_of(
            A, B, b_direction, directions, Row, Col, first_row, first_col, n, m, d,
            SCORE, OFFSET, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
        )  # fmt: skip
        s = score_of(x, floor, SCORE)
        z = affine(s, Row, Col, i, j, n, m, SCORE)
        valid, positive, drop = rules(
            Row, Col, label_words, Mask, mask_stride, i, j, n, m, row_origin - col_origin,
            KEEP, POSITIVES, KEEP_POSITIVES,
        )  # fmt: skip
        if RowTotal is not None:  # of a sum: its slopes do not need it finished
            store_stats(
                z, positive, drop, Row, Col, None, RowTotal, RowPositive, None,
                None, ColTotal, ColPositive, None, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, COLS, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
        g = logit_slope(
            z, valid, positive, drop, Row, Col, RowStat, RowWeight, RowPositiveWeight,
            ColStat, ColWeight, ColPositiveWeight, first_row, first_col, n, m, row_origin - col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        by_row, by_col = scaled(g, Row.scale, i, n, 1), scaled(g, Col.scale, j, m, 0)
        if RowScaleGrad is not None:
            store_sum(tl.where(valid, by_col * s, 0.0), RowScaleGrad, i, n, col_tile, 1)
        if ColScaleGrad is not None:
            store_sum(tl.where(valid, by_row * s, 0.0), ColScaleGrad, j, m, row_tile, 0)
        grad, bias = scaled(by_row, Col.scale, j, m, 0), g
        if SCORE != DOT:
            dq = tl.where(x <= floor, 0.0, score_slope(x, SCORE))
            bias = tl.where(grad == 0.0, grad, grad * dq)
            grad = -2.0 * bias
        if RowBiasGrad is not None:
            store_sum(bias, RowBiasGrad, i, n, col_tile, 1)
        if ColBiasGrad is not None:
            store_sum(bias, ColBiasGrad, j, m, row_tile, 0)

        if Factor is not None:  # a power of two, against underflow
            grad *= tl.load(Factor)
        out = Grad + i.to(tl.int64)[:, None] * grad_stride + j[None, :]
        # up to the stride, a multiple of 16 that the compiler knows, so that stores are wide; nobody reads the padding
        room = (i < n)[:, None] & (j < grad_stride)[None, :]
        if SCORE == DOT or OFFSET:
            tl.store(out, grad.to(Grad.dtype.element_ty), mask=room)
        if SCORE != DOT:
            # dG/d<a, b_t> needs the product again: computed again, since it fits neither registers nor memory
            for t in range(OFFSET, directions):
                dots = product(
                    A, B, b_direction, t, first_row, first_col, n, m, d,
                    TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
                )  # fmt: skip
                tl.store(out + t * grad_direction, (grad * dots).to(Grad.dtype.element_ty), mask=room)
