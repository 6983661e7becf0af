"""Score gradients of one tile of pairs: the derivative of the loss in z. Used by `score_grad` and the fused kernel."""

import triton
import triton.language as tl

from .functors import PEAKS, base_of_powers, positive_slope, rounding_of_base, slope
from .rules import SAME_INDEX, are_partners, drop_of_positives, meets_diagonal, partners_of, share_of, side_z
from .tiles import across, finite_parts, scale_of, weights_of


@triton.jit
def once(x):
    """x, made by one thread an item: else the compiler may make it anew in every thread that needs it."""
    return tl.sum(tl.join(x, tl.zeros_like(x)), 1)


@triton.jit
def weighed_slope(z, Stat, Weight, index, count, REDUCE: tl.constexpr, AXIS: tl.constexpr):
    """Upstream gradient times the derivative of one side's statistic in z, of pairs that it keeps. Stat (count, 2): its
    parts."""
    inside = index < count
    weight, base = weights_of(Weight, index, inside), tl.zeros(index.shape, tl.float32)
    if (PEAKS >> REDUCE) & 1:
        peak, log_total = finite_parts(Stat, index, inside)
        base = base_of_powers(peak)
        weight *= tl.exp(-log_total) * rounding_of_base(peak)
        if AXIS == 0:
            base, weight = once(base), once(weight)
    return slope(z, across(base, AXIS), REDUCE) * across(weight, AXIS)


@triton.jit
def side_slope(
    z, positive, drop, side, Stat, Weight, index, count,
    REDUCE: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """The same of all pairs."""
    z = side_z(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    return weighed_slope(z, Stat, Weight, index, count, REDUCE, AXIS)


@triton.jit
def slopes_of_sums(z, positive, RowUpstream, ColUpstream, share, i, j, n, m, REDUCE: tl.constexpr):
    """What the sums over positives give, in which these pairs count `share`."""
    weight = tl.zeros(z.shape, tl.float32)
    if RowUpstream.positive_weight is not None:
        weight += across(weights_of(RowUpstream.positive_weight, i, i < n), 1) * share
    if ColUpstream.positive_weight is not None:
        weight += across(weights_of(ColUpstream.positive_weight, j, j < m), 0) * share
    return tl.where(positive, weight * positive_slope(z, REDUCE), 0.0)


@triton.jit
def slopes_of_own(z, positive, RowUpstream, ColUpstream, i, n, m, shift, REDUCE: tl.constexpr):
    """The same where the positive of row i is column i + shift: a weight a row."""
    weight, column = tl.zeros(i.shape, tl.float32), i.to(tl.int64) + shift
    inside = (i < n) & (column >= 0) & (column < m)
    if RowUpstream.positive_weight is not None:
        weight += weights_of(RowUpstream.positive_weight, i, inside)
    if ColUpstream.positive_weight is not None:
        weight += weights_of(ColUpstream.positive_weight, column, inside)
    return tl.where(positive, across(weight, 1) * positive_slope(z, REDUCE), 0.0)


@triton.jit
def add_positive_slopes(
    g, z, positive, drop, Row, Col, RowUpstream, ColUpstream,
    first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """g plus what positives give: to their sum, and to the statistic of those that are kept, where they are apart from
    the pairs of g."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if SPLIT:
        g = tl.where(positive, 0.0, g)
    if Row.share is None and Col.share is None:
        if SAME_INDEX & POSITIVES:
            g += slopes_of_own(
                z, positive, RowUpstream, ColUpstream, i, n, m, row_origin - col_origin, REDUCE
            )  # fmt: skip
        else:
            g += slopes_of_sums(z, positive, RowUpstream, ColUpstream, 1.0, i, j, n, m, REDUCE)
    else:  # as in the sums
        for k in range(partners_of(Row, Col)):
            these = positive & are_partners(Row, Col, k, i, j, n, m, row_origin, col_origin)
            share = share_of(Row, Col, k, i, j, n, m)
            g += slopes_of_sums(z, these, RowUpstream, ColUpstream, share, i, j, n, m, REDUCE)
    others = drop_of_positives(positive, drop)
    if RowUpstream.positive_stat_weight is not None:
        g += side_slope(
            z, positive, others, Row, RowUpstream.positive_stat, RowUpstream.positive_stat_weight, i, n,
            REDUCE, KEEP_POSITIVES, 1,
        )  # fmt: skip
    if ColUpstream.positive_stat_weight is not None:
        g += side_slope(
            z, positive, others, Col, ColUpstream.positive_stat, ColUpstream.positive_stat_weight, j, m,
            REDUCE, KEEP_POSITIVES, 0,
        )  # fmt: skip
    return g


@triton.jit
def logit_slope(
    z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
    first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """dL/dz from the sides that have weights, and from positives; 0 outside the block."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if RowUpstream.weight is None:
        g = side_slope(z, positive, drop, Col, ColUpstream.stat, ColUpstream.weight, j, m, REDUCE, KEEP_POSITIVES, 0)
    else:
        g = side_slope(z, positive, drop, Row, RowUpstream.stat, RowUpstream.weight, i, n, REDUCE, KEEP_POSITIVES, 1)
        if ColUpstream.weight is not None:
            g += side_slope(
                z, positive, drop, Col, ColUpstream.stat, ColUpstream.weight, j, m, REDUCE, KEEP_POSITIVES, 0
            )  # fmt: skip
    return with_positives(
        g, z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
        first_row, first_col, n, m, row_origin, col_origin,
        REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
    )  # fmt: skip


@triton.jit
def with_positives(
    g, z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
    first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """dL/dz from that of the statistics; 0 outside the block."""
    if SPLIT or RowUpstream.positive_weight is not None or ColUpstream.positive_weight is not None:
        here = True
        if SAME_INDEX & POSITIVES:  # only tiles on the diagonal have any
            here = meets_diagonal(first_row, first_col, row_origin - col_origin, TILE_ROWS, TILE_COLS)
        if here:
            g = add_positive_slopes(
                g, z, positive, drop, Row, Col, RowUpstream, ColUpstream,
                first_row, first_col, n, m, row_origin, col_origin,
                REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
            )  # fmt: skip
    return tl.where(valid, g, 0.0)


@triton.jit
def through_scales(g, of_cols, Row, Col, i, j, n, m, OWN_SCALES: tl.constexpr):
    """(dL/ds, dL/dz, what times s adds up to the gradient of the rows' scale, and of the columns') from dL/dz; of_cols:
    with OWN_SCALES that of the columns' z."""
    if OWN_SCALES:
        return scaled(g, Row, i, n, 1) + scaled(of_cols, Col, j, m, 0), g + of_cols, g, of_cols
    else:
        by_row, by_col = scaled(g, Row, i, n, 1), scaled(g, Col, j, m, 0)
        return scaled(by_row, Col, j, m, 0), g, by_col, by_row


@triton.jit
def scaled(g, side, index, count, AXIS: tl.constexpr):
    if side.scale is None:
        return g
    else:
        return g * scale_of(side, index, count, AXIS)
