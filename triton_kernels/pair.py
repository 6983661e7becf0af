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

from .functors import BIASED, GATED, gate_derivative, positive_term, score_slope, term
from .rules import (
    SAME_INDEX,
    are_partners,
    drop_of_positives,
    dropped,
    meets_diagonal,
    partners_of,
    rules,
    share_of,
    side_z,
)
from .second import both_logits, products_of, rounded, slopes_of_each, store_target
from .slopes import through_scales
from .tiles import across, affine, first_maximum, place, product, score_of, share, vector


@triton.jit
def exponentials(z, AXIS: tl.constexpr):
    """(peak, sum of e^(z - peak)); NaN enters the total."""
    peak = tl.max(tl.where(z == z, z, float("-inf")), AXIS)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    return peak, tl.sum(tl.exp(z - across(base, AXIS)), AXIS)


@triton.jit
def one_exponential(z, count):
    """The same of count = 1 number, or of none."""
    peak = tl.where((count > 0) & (z == z), z, float("-inf"))
    base = tl.where(peak == float("-inf"), 0.0, peak)
    return peak, tl.where(count > 0, tl.exp(z - base), 0.0)


@triton.jit
def counted(chosen, AXIS: tl.constexpr):
    return tl.sum(chosen.to(tl.int32), AXIS)


@triton.jit
def sum_of_positives(
    z, positive, Row, Col, i, j, n, m, row_origin, col_origin, REDUCE: tl.constexpr, AXIS: tl.constexpr
):
    """Along AXIS. With shares by each number of the partners apart: their weights would be a tile more in registers."""
    if Row.share is None and Col.share is None:
        return tl.sum(tl.where(positive, positive_term(z, REDUCE), 0.0), AXIS)
    else:
        value = tl.zeros([z.shape[1 - AXIS]], tl.float32)
        for k in range(partners_of(Row, Col)):
            here = positive & are_partners(Row, Col, k, i, j, n, m, row_origin, col_origin)
            terms = positive_term(z, REDUCE) * share_of(Row, Col, k, i, j, n, m)
            value += tl.sum(tl.where(here, terms, 0.0), AXIS)
        return value


@triton.jit
def store_side_positives(
    z, value, positive, drop, side, Out, index, count, at, inside,
    POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, KEEP_ALL: tl.constexpr, ONE: tl.constexpr,
    AXIS: tl.constexpr,
):  # fmt: skip
    """The numbers of one side that positives make up; value: their sum. KEEP_ALL: no rule of both sides drops a pair.
    ONE: the sum is z of the item's positive, if there is one. A sum more over a tile of the largest size would be one
    too many: what is known is not counted."""
    tl.store(Out.positive + at, value, mask=inside)
    if Out.positives is not None:
        if POSITIVES == SAME_INDEX:
            tl.store(Out.positives + at, inside.to(tl.int32), mask=inside)
        else:
            tl.store(Out.positives + at, counted(positive, AXIS), mask=inside)
    if Out.positive_peak is not None:
        others = dropped(z, positive, drop_of_positives(positive, drop), side, index, count, KEEP_POSITIVES, AXIS)
        if ONE:
            if KEEP_ALL and POSITIVES == SAME_INDEX and side.low is None and side.high is None:
                kept = inside.to(tl.int32)
            else:
                kept = counted(others == 0, AXIS)
            peak, total = one_exponential(value, kept)
        else:
            kept = counted(others == 0, AXIS)
            peak, total = exponentials(tl.where(others, float("-inf"), z), AXIS)
        tl.store(Out.positive_peak + at, peak, mask=inside)
        tl.store(Out.positive_total + at, total, mask=inside)
        tl.store(Out.kept_positives + at, kept, mask=inside)


@triton.jit
def store_positives(
    z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, KEEP_ALL: tl.constexpr,
    SPLIT: tl.constexpr, COLS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """What positives make up. With the same index there is one a row, in one tile: (1, n), not written elsewhere.
    Returns z and col_z for the statistic: where positives are apart, without them."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    row_at, col_at, row_in, col_in = i.to(tl.int64), j.to(tl.int64), i < n, j < m
    here, shift = True, row_origin - col_origin
    if SAME_INDEX & POSITIVES:
        column, row = row_at + shift, col_at - shift
        row_in = row_in & (column >= first_col) & (column < first_col + TILE_COLS) & (column < m)
        col_in = col_in & (row >= first_row) & (row < first_row + TILE_ROWS) & (row < n)
        here = meets_diagonal(first_row, first_col, shift, TILE_ROWS, TILE_COLS)
    else:
        row_at += (first_col // TILE_COLS).to(tl.int64) * n
        col_at += (first_row // TILE_ROWS).to(tl.int64) * m
    if here:
        ONE: tl.constexpr = SAME_INDEX & POSITIVES and Row.share is None and Col.share is None
        value = sum_of_positives(z, positive, Row, Col, i, j, n, m, row_origin, col_origin, REDUCE, 1)
        store_side_positives(
            z, value, positive, drop, Row, RowOut, i, n, row_at, row_in, POSITIVES, KEEP_POSITIVES, KEEP_ALL, ONE, 1
        )  # fmt: skip
        if COLS:
            value = sum_of_positives(col_z, positive, Row, Col, i, j, n, m, row_origin, col_origin, REDUCE, 0)
            store_side_positives(
                col_z, value, positive, drop, Col, ColOut, j, m, col_at, col_in,
                POSITIVES, KEEP_POSITIVES, KEEP_ALL, ONE, 0,
            )  # fmt: skip
        if SPLIT:
            z = tl.where(positive, float("-inf"), z)
            col_z = tl.where(positive, float("-inf"), col_z)
    return z, col_z


@triton.jit
def store_partials(
    z, positive, drop, side, Out, index, count, part, others,
    REDUCE: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Reduces the pairs that one side keeps, along AXIS, to the numbers with a place; NaN enters the total of lse, the
    peak of max. Returns the peak, the total of reduces without one."""
    at, inside = part.to(tl.int64) * count + index, index < count
    if Out.kept is not None:
        kept = dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS) == 0
        if SPLIT:
            kept = kept & (positive == 0)
        tl.store(Out.kept + at, counted(kept, AXIS), mask=inside)
    z = side_z(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    if Out.arg is not None:
        peak, arg = first_maximum(z, others, AXIS)
        tl.store(Out.peak + at, peak, mask=inside)
        tl.store(Out.arg + at, arg, mask=inside)
    elif Out.peak is not None:
        peak, total = exponentials(z, AXIS)
        tl.store(Out.peak + at, peak, mask=inside)
        tl.store(Out.total + at, total, mask=inside)
    else:
        places = Out.total + at
        peak = tl.sum(term(z, REDUCE), AXIS)
        tl.store(places, peak, mask=inside)
    return peak


@triton.jit
def store_stats(
    z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, KEEP_ALL: tl.constexpr,
    SPLIT: tl.constexpr, COLS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """The tile's partial statistics of rows and, with COLS, of columns, whose z is col_z; returns their peaks."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if POSITIVES:
        z, col_z = store_positives(
            z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, KEEP_ALL, SPLIT, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
    others = col_origin + j.to(tl.int64)
    row_peak = store_partials(
        z, positive, drop, Row, RowOut, i, n, first_col // TILE_COLS, others, REDUCE, KEEP_POSITIVES, SPLIT, 1
    )  # fmt: skip
    col_peak = row_peak
    if COLS:
        others = row_origin + i.to(tl.int64)
        col_peak = store_partials(
            col_z, positive, drop, Col, ColOut, j, m, first_row // TILE_ROWS, others, REDUCE, KEEP_POSITIVES, SPLIT, 0
        )  # fmt: skip
    return row_peak, col_peak


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def stats(
    A, B, b_direction, directions, SecondA, SecondB, second_d, n, m, d,
    row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowOut, ColOut,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, TARGET: tl.constexpr,
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
        _, positive, drop = rules(
            Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
            KEEP, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        if TARGET:
            z, t = both_logits(z, u, Row, i, n)
            col_z = rounded(col_z) if OWN_SCALES else z
        row_peak, col_peak = store_stats(
            z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, KEEP == 0 and Mask is None, SPLIT, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        if TARGET:
            store_target(z, t, row_peak, positive, drop, Row, RowOut, i, n, col_tile, TARGET, KEEP_POSITIVES, 1)
            if COLS:
                store_target(col_z, t, col_peak, positive, drop, Col, ColOut, j, m, row_tile, TARGET, KEEP_POSITIVES, 0)


@triton.jit
def store_sum(x, Out, index, count, part, AXIS: tl.constexpr):
    tl.store(Out + part.to(tl.int64) * count + index, tl.sum(x, AXIS), mask=index < count)


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def score_grad(
    A, B, b_direction, directions, SecondA, SecondB, second_d, n, m, d,
    row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowUpstream, ColUpstream, Nothing, RowOut, ColOut, Grad, grad_stride, grad_direction, Factor,
    RowBiasGrad, ColBiasGrad, RowScaleGrad, ColScaleGrad, SecondGrad, SecondScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, TARGET: tl.constexpr,
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
        valid, positive, drop = rules(
            Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
            KEEP, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        if RowOut.total is not None:  # of a sum: its slopes do not need it finished
            store_stats(
                z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, KEEP == 0 and Mask is None, SPLIT, COLS, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
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
            store_sum(tl.where(valid, by_col * s, 0.0), RowScaleGrad, i, n, col_tile, 1)
        if ColScaleGrad is not None:
            store_sum(tl.where(valid, by_row * s, 0.0), ColScaleGrad, j, m, row_tile, 0)
        if SCORE == GATED:
            of_u = grad * gate_derivative(s, floor)
            grad *= floor
        elif (BIASED >> SCORE) & 1 == 0:
            dq = tl.where(x <= floor, 0.0, score_slope(x, SCORE))
            bias = tl.where(grad == 0.0, grad, grad * dq)
            grad = -2.0 * bias
        if RowBiasGrad is not None:
            store_sum(bias, RowBiasGrad, i, n, col_tile, 1)
        if ColBiasGrad is not None:
            store_sum(bias, ColBiasGrad, j, m, row_tile, 0)

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
