"""Lean epilogues of log-sum-exps and sums, for rules that concern few pairs: those of an index or a partner.

Pairs are looked at one by one only in tiles that may have such pairs, or reach beyond the block. The others, nearly all
tiles of a large block, take products, exponentials and sums, and a uniform jump over the rest.
"""

import triton
import triton.language as tl

from .functors import PEAKS, term
from .partials import store_exponentials, store_positives
from .rules import (
    KEPT,
    NO_PARTNER,
    OTHER_INDEX,
    PARTNER,
    SAME_INDEX,
    are_partners,
    holds,
    meets_diagonal,
    meets_partners,
    no_pair,
    same_index,
)
from .slopes import add_positive_slopes, weighed_slope
from .tiles import across, weights_of


@triton.jit
def concerned(
    ASKED: tl.constexpr, Row, Col, first_row, first_col, n, m, row_origin, col_origin,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Whether a pair of the tile may lie outside the block or have a fact that the tests ask for."""
    found = (first_row + TILE_ROWS > n) | (first_col + TILE_COLS > m)
    if (SAME_INDEX | OTHER_INDEX) & ASKED:
        found = found | meets_diagonal(first_row, first_col, row_origin - col_origin, TILE_ROWS, TILE_COLS)
    if (PARTNER | NO_PARTNER) & ASKED:
        found = found | meets_partners(Row, first_row, first_col, n, col_origin, TILE_ROWS, TILE_COLS)
    return found


@triton.jit
def few_facts(ASKED: tl.constexpr, Row, Col, i, j, n, m, row_origin, col_origin, NONE: tl.constexpr):
    """Facts as `facts_of` has them, of an index and of one partner a row: one comparison each, which no pair outside
    the block passes. NONE: what stands for no column; another number makes a compiler compare again, where it would
    keep a predicate for each pair instead, and run out of registers."""
    nothing = no_pair(i, j)
    index, partner = nothing, nothing
    if (SAME_INDEX | OTHER_INDEX) & ASKED:
        index = same_index(i, j, n, m, row_origin - col_origin, NONE)
    if (PARTNER | NO_PARTNER) & ASKED:
        partner = are_partners(Row, Col, 0, i, j, n, m, row_origin, col_origin, NONE)
    return index, nothing, nothing, nothing, nothing, partner


@triton.jit
def few_rules(
    Row, Col, i, j, n, m, row_origin, col_origin,
    KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """(positive, drop) as `rules` has them, but `drop` says nothing of pairs outside the block. AGAIN: `drop` compares
    again."""
    every = no_pair(i, j) == 0
    positive = no_pair(i, j)
    if POSITIVES:
        facts = few_facts(POSITIVES, Row, Col, i, j, n, m, row_origin, col_origin, -1)
        positive = holds(POSITIVES, every, facts)
    facts = few_facts(KEEP, Row, Col, i, j, n, m, row_origin, col_origin, -2 if AGAIN else -1)
    keep = holds(KEEP, every, facts)
    if KEEP_POSITIVES:
        keep = keep | positive
    return positive, keep == 0


@triton.jit
def outside(x, rows, cols, value):
    """x, or `value` where the row or the column is not one of these. One after the other: a row shares a predicate, and
    so does a column."""
    return tl.where(cols[None, :], tl.where(rows[:, None], x, value), value)


@triton.jit
def store_nothing(Out, index, count, part):
    """The numbers that positives make up, of a tile without any."""
    at, inside = part.to(tl.int64) * count + index, index < count
    tl.store(Out.positive + at, 0.0, mask=inside)
    if Out.positive_peak is not None:
        tl.store(Out.positives + at, 0, mask=inside)
        tl.store(Out.positive_peak + at, float("-inf"), mask=inside)
        tl.store(Out.positive_total + at, 0.0, mask=inside)
        tl.store(Out.kept_positives + at, 0, mask=inside)


@triton.jit
def store_sums_of_kept(
    z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
    KEEP: tl.constexpr, COLS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Sums of z where all pairs that are kept are positives. In the branch there are reductions, so that no tile of
    numbers leaves it."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if concerned(KEEP, Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS):
        _, drop = few_rules(Row, Col, i, j, n, m, row_origin, col_origin, KEEP, 0, False, True)
        kept = outside(tl.where(drop, 0.0, z), i < n, j < m, 0.0)
        of_rows, of_cols = tl.sum(kept, 1), tl.sum(kept, 0)
    else:
        of_rows, of_cols = tl.sum(z, 1), tl.sum(z, 0)
    tl.store(RowOut.positive + (first_col // TILE_COLS).to(tl.int64) * n + i, of_rows, mask=i < n)
    if COLS:
        tl.store(ColOut.positive + (first_row // TILE_ROWS).to(tl.int64) * m + j, of_cols, mask=j < m)


@triton.jit
def store_lean_side(y, Out, index, count, part, REDUCE: tl.constexpr, AXIS: tl.constexpr):
    if (PEAKS >> REDUCE) & 1:
        store_exponentials(y, Out, index, count, part, AXIS)
    else:
        tl.store(Out.total + part.to(tl.int64) * count + index, tl.sum(y, AXIS), mask=index < count)


@triton.jit
def store_lean_stats(
    z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, COLS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """The tile's partial statistics of rows and, with COLS, of columns."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    row_tile, col_tile = first_row // TILE_ROWS, first_col // TILE_COLS
    FEW: tl.constexpr = 0 if POSITIVES == KEPT else POSITIVES
    if POSITIVES == KEPT:
        store_sums_of_kept(
            z, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
            KEEP, COLS, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
    if (PEAKS >> REDUCE) & 1:
        y, nothing = z, float("-inf")
    else:
        y, nothing = term(z, REDUCE), 0.0
    if concerned(KEEP | FEW, Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS):
        positive, drop = few_rules(Row, Col, i, j, n, m, row_origin, col_origin, KEEP, FEW, KEEP_POSITIVES, True)
        if FEW:
            store_positives(
                z, z, positive, drop, Row, Col, RowOut, ColOut, first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, FEW, KEEP_POSITIVES, KEEP == 0, SPLIT, False, COLS, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
        if KEEP:
            y = tl.where(drop, nothing, y)
        if SPLIT:
            y = tl.where(positive, nothing, y)
        y = outside(y, i < n, j < m, nothing)
    elif FEW and not SAME_INDEX & FEW:
        store_nothing(RowOut, i, n, col_tile)
        if COLS:
            store_nothing(ColOut, j, m, row_tile)
    store_lean_side(y, RowOut, i, n, col_tile, REDUCE, 1)
    if COLS:
        store_lean_side(y, ColOut, j, m, row_tile, REDUCE, 0)


@triton.jit
def lean_slopes(
    z, s, Row, Col, RowUpstream, ColUpstream, first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(dL/dz from the sides that have weights, and from positives, 0 outside the block; s, 0 in columns outside, which
    sums of rows meet)."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    g = weighed_slope(z, RowUpstream.stat, RowUpstream.weight, i, n, REDUCE, 1)
    if ColUpstream.weight is not None:
        g += weighed_slope(z, ColUpstream.stat, ColUpstream.weight, j, m, REDUCE, 0)
    FEW: tl.constexpr = 0 if POSITIVES == KEPT else POSITIVES
    if POSITIVES == KEPT:
        if RowUpstream.positive_weight is not None:
            g += across(weights_of(RowUpstream.positive_weight, i, i < n), 1)
        if ColUpstream.positive_weight is not None:
            g += across(weights_of(ColUpstream.positive_weight, j, j < m), 0)
    if concerned(KEEP | FEW, Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS):
        positive, drop = few_rules(Row, Col, i, j, n, m, row_origin, col_origin, KEEP, FEW, KEEP_POSITIVES, False)
        if KEEP:
            g = tl.where(drop, 0.0, g)
        if FEW and (SPLIT or RowUpstream.positive_weight is not None or ColUpstream.positive_weight is not None):
            g = add_positive_slopes(
                g, z, positive, drop, Row, Col, RowUpstream, ColUpstream,
                first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, FEW, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
        g = outside(g, i < n, j < m, 0.0)
        s = tl.where((j < m)[None, :], s, 0.0)
    return g, s
