"""Score gradients of one tile of pairs: the derivative of the loss in z. Used by `score_grad` and the fused kernel."""

import triton
import triton.language as tl

from .functors import PEAKS, positive_slope, slope
from .rules import SAME_INDEX, meets_diagonal, side_z
from .tiles import across, vector


@triton.jit
def side_slope(
    z, positive, drop, side, Stat, Weight, index, count,
    REDUCE: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Upstream gradient times the derivative of this side's statistic in z. Stat (count, 2): its parts."""
    z = side_z(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    inside = index < count
    weight, peak = tl.load(Weight + index, mask=inside, other=0.0), tl.zeros(index.shape, tl.float32)
    if (PEAKS >> REDUCE) & 1:
        peak = tl.load(Stat + 2 * index, mask=inside, other=0.0)
        log_total = tl.load(Stat + 2 * index + 1, mask=inside, other=0.0)
        peak = tl.where(peak == float("-inf"), 0.0, peak)
        weight *= tl.exp(-tl.where(log_total == float("-inf"), 0.0, log_total))
    return slope(z, across(peak, AXIS), REDUCE) * across(weight, AXIS)


@triton.jit
def add_positive_slopes(
    g, z, positive, RowWeight, ColWeight, first_row, first_col, n, m, shift,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """g plus what positives give beside the statistics; with the same index only tiles on the diagonal have any."""
    here = True
    if SAME_INDEX & POSITIVES:
        here = meets_diagonal(first_row, first_col, shift, TILE_ROWS, TILE_COLS)
    if here:
        weight = tl.zeros([TILE_ROWS, TILE_COLS], tl.float32)
        if RowWeight is not None:
            weight += vector(RowWeight, first_row + tl.arange(0, TILE_ROWS), n, 1)
        if ColWeight is not None:
            weight += vector(ColWeight, first_col + tl.arange(0, TILE_COLS), m, 0)
        g += tl.where(positive, weight * positive_slope(z, REDUCE), 0.0)
    return g


@triton.jit
def logit_slope(
    z, valid, positive, drop, Row, Col, RowStat, RowWeight, RowPositiveWeight,
    ColStat, ColWeight, ColPositiveWeight, first_row, first_col, n, m, shift,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """dL/dz from the sides that have weights, and from positives; 0 outside the block."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    if RowWeight is None:
        g = side_slope(z, positive, drop, Col, ColStat, ColWeight, j, m, REDUCE, KEEP_POSITIVES, 0)
    else:
        g = side_slope(z, positive, drop, Row, RowStat, RowWeight, i, n, REDUCE, KEEP_POSITIVES, 1)
        if ColWeight is not None:
            g += side_slope(z, positive, drop, Col, ColStat, ColWeight, j, m, REDUCE, KEEP_POSITIVES, 0)
    if RowPositiveWeight is not None or ColPositiveWeight is not None:
        g = add_positive_slopes(
            g, z, positive, RowPositiveWeight, ColPositiveWeight, first_row, first_col, n, m, shift,
            REDUCE, POSITIVES, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
    return tl.where(valid, g, 0.0)


@triton.jit
def scaled(g, Scale, index, count, AXIS: tl.constexpr):
    if Scale is None:
        return g
    else:
        return g * vector(Scale, index, count, AXIS)
