"""What a tile writes of the statistics of its rows and columns."""

import triton
import triton.language as tl

from .functors import base_of_powers, positive_term, power, term
from .rules import (
    SAME_INDEX,
    are_partners,
    drop_of_positives,
    dropped,
    meets_diagonal,
    partners_of,
    share_of,
    side_z,
)
from .tiles import across, first_maximum


@triton.jit
def exponentials(z, AXIS: tl.constexpr):
    """(peak, sum of powers above it); NaN enters the total, and the peak of nothing but NaN."""
    peak = tl.max(z, AXIS)
    return peak, tl.sum(power(z, across(base_of_powers(peak), AXIS)), AXIS)


@triton.jit
def one_exponential(z, count):
    """The same of count = 1 number, or of none."""
    peak = tl.where(count > 0, z, float("-inf"))
    return peak, tl.where(count > 0, power(z, base_of_powers(peak)), 0.0)


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
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr, COLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """What positives make up. With the same index there is one a row, in one tile: (1, n), not written elsewhere.
    Returns z and col_z for the statistic: where positives are apart, without them."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    row_at, col_at, row_in, col_in = i.to(tl.int64), j.to(tl.int64), i < n, j < m
    if SAME_INDEX & POSITIVES:
        column, row = row_at + row_origin - col_origin, col_at + col_origin - row_origin
        row_in = row_in & (column >= first_col) & (column < first_col + TILE_COLS) & (column < m)
        col_in = col_in & (row >= first_row) & (row < first_row + TILE_ROWS) & (row < n)
    else:
        column = row_at
        row_at += (first_col // TILE_COLS).to(tl.int64) * n
        col_at += (first_row // TILE_ROWS).to(tl.int64) * m
    ONE: tl.constexpr = SAME_INDEX & POSITIVES and Row.share is None and Col.share is None
    value = sum_of_positives(z, positive, Row, Col, i, j, n, m, row_origin, col_origin, REDUCE, 1)
    store_side_positives(
        z, value, positive, drop, Row, RowOut, i, n, row_at, row_in, POSITIVES, KEEP_POSITIVES, KEEP_ALL, ONE, 1
    )  # fmt: skip
    KNOWN: tl.constexpr = POSITIVES == SAME_INDEX and (not SPLIT or (KEEP_ALL and Col.low is None and Col.high is None))
    if COLS and ONE and KNOWN and not OWN_SCALES:  # a column has what its row has
        store_side_positives(
            z, value, positive, drop, Col, ColOut, j, m, column, row_in, POSITIVES, KEEP_POSITIVES, KEEP_ALL, ONE, 0
        )  # fmt: skip
    elif COLS:
        value = sum_of_positives(col_z, positive, Row, Col, i, j, n, m, row_origin, col_origin, REDUCE, 0)
        store_side_positives(
            col_z, value, positive, drop, Col, ColOut, j, m, col_at, col_in, POSITIVES, KEEP_POSITIVES, KEEP_ALL, ONE, 0
        )  # fmt: skip
    if SPLIT:
        z = tl.where(positive, float("-inf"), z)
        col_z = tl.where(positive, float("-inf"), col_z)
    return z, col_z


@triton.jit
def store_exponentials(z, Out, index, count, part, AXIS: tl.constexpr):
    """Returns the peak."""
    at, inside = part.to(tl.int64) * count + index, index < count
    peak, total = exponentials(z, AXIS)
    tl.store(Out.peak + at, peak, mask=inside)
    tl.store(Out.total + at, total, mask=inside)
    return peak


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
        peak = store_exponentials(z, Out, index, count, part, AXIS)
    else:
        places = Out.total + at
        peak = tl.sum(term(z, REDUCE), AXIS)
        tl.store(places, peak, mask=inside)
    return peak


@triton.jit
def store_stats(
    z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, KEEP_ALL: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr, COLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """The tile's partial statistics of rows and, with COLS, of columns, whose z is col_z; returns their peaks."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if POSITIVES:
        here = True
        if SAME_INDEX & POSITIVES:  # elsewhere there are none
            here = meets_diagonal(first_row, first_col, row_origin - col_origin, TILE_ROWS, TILE_COLS)
        if here:
            z, col_z = store_positives(
                z, col_z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, KEEP_ALL, SPLIT, OWN_SCALES, COLS, TILE_ROWS, TILE_COLS,
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
