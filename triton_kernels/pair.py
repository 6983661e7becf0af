"""The two kernels of the pair reduction: `stats` and `score_grad`, tile by tile.

Every tile has partial results of its own; the caller adds them up in a fixed order, so two runs give equal bits.
A and B are contiguous, (n, d) and (directions, m, d) with directions `b_direction` elements apart, or descriptors
(TMA); SecondA and SecondB are the second operands in the same form, of second_d features (SECOND_TMA, SECOND_EVEN).
Partial statistics of rows are (column tiles, n), of columns (row tiles, m). COLS: also the column side. OWN_SCALES:
columns see another z than rows, `col_z`, from the same products. None: not given, not wanted; Nothing: an Upstream
without anything. There is a program for each tile or, PERSISTENT, as many as the device holds at a time: then the
loads of a program's next tile can begin during the epilogue of this one.
"""

import triton
import triton.language as tl

from .functors import BIASED, GATED, gate_derivative, score_slope, score_value
from .lean import concerned, lean_slopes, store_lean_stats
from .partials import store_stats
from .rules import rules
from .second import both_logits, products_of, rounded, slopes_of_each, store_target
from .slopes import through_scales
from .tiles import affine, place, product, score_of, share, vector


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def stats(
    A, B, b_direction, directions, SecondA, SecondB, second_d, n, m, d,
    row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowOut, ColOut,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, TARGET: tl.constexpr, LEAN: tl.constexpr,
    COLS: tl.constexpr, SECOND_TMA: tl.constexpr, SECOND_EVEN: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, PERSISTENT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    first, last, step = share(n, m, TILE_ROWS, TILE_COLS, PERSISTENT)
    for tile in tl.range(first, last, step, flatten=PERSISTENT):
        row_tile, col_tile = place(tile, n, m, TILE_ROWS, TILE_COLS)
        first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
        i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
        x, floor, u = products_of(
            A, B, b_direction, directions, SecondA, SecondB, second_d, Row, Col, first_row, first_col, n, m, d,
            SCORE, OFFSET, SECOND_TMA, SECOND_EVEN, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
        )  # fmt: skip
        s = score_of(x, floor, SCORE)
        z = affine(s, Row, Col, i, j, n, m, SCORE, OWN_SCALES, 1)
        col_z = affine(s, Row, Col, i, j, n, m, SCORE, OWN_SCALES, 0) if OWN_SCALES else z
        if LEAN:
            store_lean_stats(
                z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, KEEP, POSITIVES, KEEP_POSITIVES, SPLIT, COLS, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
        else:
            _, positive, drop = rules(
                Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
                KEEP, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
            if TARGET:
                z, t = both_logits(z, u, Row, i, n)
                col_z = rounded(col_z) if OWN_SCALES else z
            row_peak, col_peak = store_stats(
                z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, KEEP == 0 and Mask is None, SPLIT, OWN_SCALES, COLS,
                TILE_ROWS, TILE_COLS,
            )  # fmt: skip
            if TARGET:
                store_target(z, t, row_peak, positive, drop, Row, RowOut, i, n, col_tile, TARGET, KEEP_POSITIVES, 1)
                if COLS:
                    store_target(
                        col_z, t, col_peak, positive, drop, Col, ColOut, j, m, row_tile, TARGET, KEEP_POSITIVES, 0
                    )  # fmt: skip


@triton.jit
def store_sum(x, Out, index, count, part, AXIS: tl.constexpr, FACTOR: tl.constexpr = 1.0):
    tl.store(Out + part.to(tl.int64) * count + index, FACTOR * tl.sum(x, AXIS), mask=index < count)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def score_grad(
    A, B, b_direction, directions, SecondA, SecondB, second_d, n, m, d,
    row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowUpstream, ColUpstream, Nothing, RowOut, ColOut, Grad, grad_stride, grad_direction, Factor,
    RowBiasGrad, ColBiasGrad, RowScaleGrad, ColScaleGrad, SecondGrad, SecondScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, TARGET: tl.constexpr, LEAN: tl.constexpr,
    COLS: tl.constexpr, SECOND_TMA: tl.constexpr, SECOND_EVEN: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, PERSISTENT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    first, last, step = share(n, m, TILE_ROWS, TILE_COLS, PERSISTENT)
    for tile in tl.range(first, last, step, flatten=PERSISTENT):
        row_tile, col_tile = place(tile, n, m, TILE_ROWS, TILE_COLS)
        first_row, first_col = row_tile * TILE_ROWS, col_tile * TILE_COLS
        i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
        x, floor, u = products_of(
            A, B, b_direction, directions, SecondA, SecondB, second_d, Row, Col, first_row, first_col, n, m, d,
            SCORE, OFFSET, SECOND_TMA, SECOND_EVEN, TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
        )  # fmt: skip
        s = score_of(x, floor, SCORE)
        z = affine(s, Row, Col, i, j, n, m, SCORE, OWN_SCALES, 1)
        col_z = affine(s, Row, Col, i, j, n, m, SCORE, OWN_SCALES, 0) if OWN_SCALES else z
        if LEAN:
            if RowOut.total is not None:  # of a sum: its slopes do not need it finished
                store_lean_stats(
                    z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                    REDUCE, KEEP, POSITIVES, KEEP_POSITIVES, SPLIT, COLS, TILE_ROWS, TILE_COLS,
                )  # fmt: skip
            g, s = lean_slopes(
                z, s, Row, Col, RowUpstream, ColUpstream, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, KEEP, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
            of_cols, of_u = g, g
        else:
            valid, positive, drop = rules(
                Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
                KEEP, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
            if RowOut.total is not None:
                store_stats(
                    z, col_z, positive, drop, Row, Col, RowOut, ColOut,
                    first_row, first_col, n, m, row_origin, col_origin,
                    REDUCE, POSITIVES, KEEP_POSITIVES, KEEP == 0 and Mask is None, SPLIT, OWN_SCALES, COLS,
                    TILE_ROWS, TILE_COLS,
                )  # fmt: skip
            if RowScaleGrad is not None or ColScaleGrad is not None:
                s = tl.where(valid, s, 0.0)
            t = u
            if TARGET:
                z, t = both_logits(z, u, Row, i, n)
                col_z = rounded(col_z) if OWN_SCALES else z
            g, of_cols, of_u = slopes_of_each(
                z, col_z, t, valid, positive, drop, Row, Col, RowUpstream, ColUpstream, Nothing,
                first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, OWN_SCALES, TARGET, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
        if TARGET:
            if SecondScaleGrad is not None:
                store_sum(tl.where(valid, of_u * u, 0.0), SecondScaleGrad, i, n, col_tile, 1)
            if Row.second_scale is not None:
                of_u *= vector(Row.second_scale, i, n, 1)
        grad, bias, by_col, by_row = through_scales(g, of_cols, Row, Col, i, j, n, m, OWN_SCALES)
        if RowScaleGrad is not None:
            store_sum(by_col * s, RowScaleGrad, i, n, col_tile, 1)
        if ColScaleGrad is not None:
            store_sum(by_row * s, ColScaleGrad, j, m, row_tile, 0)
        if SCORE == GATED:
            of_u = grad * gate_derivative(s, floor)
            grad *= floor
        elif (BIASED >> SCORE) & 1 == 0:
            here, lowest = True, score_value(floor, SCORE)
            if LEAN:
                here = concerned(
                    KEEP, Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS
                )  # fmt: skip
            if here:  # pairs that do not count may be at a distance that is not finite
                s = tl.where(grad == 0.0, lowest, s)
            grad *= tl.where(s <= lowest, 0.0, -score_slope(s, SCORE))
            bias = grad
        OF_BIAS: tl.constexpr = 1.0 if (BIASED >> SCORE) & 1 else -0.5  # x has -2 <a, b> as it has a bias
        if RowBiasGrad is not None:
            store_sum(bias, RowBiasGrad, i, n, col_tile, 1, OF_BIAS)
        if ColBiasGrad is not None:
            store_sum(bias, ColBiasGrad, j, m, row_tile, 0, OF_BIAS)

        if Factor is not None:  # a power of two, against underflow
            grad *= tl.load(Factor)
        places = i.to(tl.int64)[:, None] * grad_stride + j[None, :]
        # up to the stride, a multiple of 16 that the compiler knows, so that stores are wide; nobody reads the padding
        room = (i < n)[:, None] & (j < grad_stride)[None, :]
        if SecondGrad is not None:
            tl.store(SecondGrad + places, of_u.to(SecondGrad.dtype.element_ty), mask=room)
        if (BIASED >> SCORE) & 1 or OFFSET:
            tl.store(Grad + places, grad.to(Grad.dtype.element_ty), mask=room)
        if (BIASED >> SCORE) & 1 == 0:
            # dG/d<a, b_t> needs the product again: computed again, since it fits neither registers nor memory
            for t in range(OFFSET, directions):
                dots = product(
                    A, B, b_direction, t, first_row, first_col, n, m, d,
                    TMA, EVEN, PRECISION, TILE_ROWS, TILE_COLS, DEPTH,
                )  # fmt: skip
                tl.store(Grad + places + t * grad_direction, (grad * dots).to(Grad.dtype.element_ty), mask=room)
