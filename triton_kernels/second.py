"""What second operands give the pairs: the gate of a score, the numbers of a target and its slopes (spec.Target)."""

import triton
import triton.language as tl

from .functors import AFFINE, GATED, SOFTMAX, inverse_gate
from .rules import dropped
from .slopes import logit_slope, side_slope, with_positives
from .tiles import across, base_of, finite_parts, product, vector, weights_of


@triton.jit
def products_of(
    A, B, b_direction, directions, SecondA, SecondB, second_d, Row, Col, first_row, first_col, n, m, d,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, SECOND_TMA: tl.constexpr, SECOND_EVEN: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(x, floor, u): what the score is made of, the inverse gate in the place of the floor, and the product of second
    operands, where there are any."""
    x, floor = base_of(
        A, B, b_direction, directions, Row, Col, first_row, first_col, n, m, d,
        SCORE, OFFSET, TMA, EVEN, PRECISION, ROWS, COLS, DEPTH,
    )  # fmt: skip
    u = x
    if SecondA is not None:
        u = product(
            SecondA, SecondB, 0, 0, first_row, first_col, n, m, second_d,
            SECOND_TMA, SECOND_EVEN, PRECISION, ROWS, COLS, DEPTH,
        )  # fmt: skip
    if SCORE == GATED:
        floor = inverse_gate(u)
    return x, floor, u


@triton.jit
def rounded(x):
    """x, which no compiler contracts with what is subtracted from it: a product less its own rounding is not 0. It may
    contract 0 instead."""
    return x + 0.0


@triton.jit
def both_logits(z, u, Row, i, n):
    """z and t of the product u, which both sides have; they are subtracted from their own largest ones."""
    t = u
    if Row.second_scale is not None:
        t *= vector(Row.second_scale, i, n, 1)
    if Row.second_bias is not None:
        t += vector(Row.second_bias, i, n, 1)
    return rounded(z), rounded(t)


@triton.jit
def store_target(
    z, t, peak, positive, drop, side, Out, index, count, part,
    TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """The numbers of the target of one side, of the pairs that its statistic keeps, the largest z of which is `peak`;
    NaN enters the total, no peak."""
    at, inside = part.to(tl.int64) * count + index, index < count
    drop = dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    base = across(tl.where(peak == float("-inf"), 0.0, peak), AXIS)
    if TARGET == AFFINE:
        tl.store(Out.weights + at, tl.sum(tl.where(drop, 0.0, t), AXIS), mask=inside)
        tl.store(Out.weighted + at, tl.sum(tl.where(drop, 0.0, t * (z - base)), AXIS), mask=inside)
    else:
        top = tl.max(tl.where(drop | (t != t), float("-inf"), t), AXIS)
        tl.store(Out.target_peak + at, top, mask=inside)
        t -= across(tl.where(top == float("-inf"), 0.0, top), AXIS)
        e = tl.where(drop, 0.0, tl.exp(t))
        tl.store(Out.target_t + at, tl.sum(tl.where(drop, 0.0, e * t), AXIS), mask=inside)
        tl.store(Out.target_total + at, tl.sum(e, AXIS), mask=inside)
        tl.store(Out.target_z + at, tl.sum(tl.where(drop, 0.0, e * (z - base)), AXIS), mask=inside)


@triton.jit
def softmax_slopes(z, t, drop, Upstream, index, count, AXIS: tl.constexpr):
    """(dL/dz, dL/dt) from one side that has the softmax p and the target q. Of equal p and q rounding leaves nothing:
    their last step is the exponential, so that no product is contracted with their difference."""
    inside = index < count
    peak, log_total = finite_parts(Upstream.stat, index, inside)
    top, log_weights = finite_parts(Upstream.target_stat, index, inside)
    weight, mean = weights_of(Upstream.weight, index, inside), weights_of(Upstream.mean_weight, index, inside)
    z -= across(peak, AXIS)
    t -= across(top, AXIS)
    q = tl.exp(t - across(log_weights, AXIS))
    g = across(weight, AXIS) * (tl.exp(z - across(log_total, AXIS)) - q) + across(weight + mean, AXIS) * q
    of_t = across(mean, AXIS) * z + vector(Upstream.mean_offset, index, count, AXIS)
    if Upstream.logit_weight is not None:
        of_t += vector(Upstream.logit_weight, index, count, AXIS) * t
    return tl.where(drop, 0.0, g), tl.where(drop, 0.0, q * of_t)


@triton.jit
def affine_slopes(z, t, drop, Upstream, index, count, AXIS: tl.constexpr):
    """What weights t of one side give to dL/dz, and dL/dt."""
    peak, _ = finite_parts(Upstream.stat, index, index < count)
    mean = vector(Upstream.mean_weight, index, count, AXIS)
    of_t = mean * (z - across(peak, AXIS)) + vector(Upstream.mean_offset, index, count, AXIS)
    return tl.where(drop, 0.0, mean * t), tl.where(drop, 0.0, of_t)


@triton.jit
def slopes_of_side(
    z, t, positive, drop, side, Upstream, index, count,
    REDUCE: tl.constexpr, TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """(dL/dz, dL/dt) from the statistic and the target of one side."""
    if Upstream.mean_weight is not None:
        others = dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    if TARGET == SOFTMAX and Upstream.mean_weight is not None:
        g, of_t = softmax_slopes(z, t, others, Upstream, index, count, AXIS)
    else:
        g = side_slope(
            z, positive, drop, side, Upstream.stat, Upstream.weight, index, count, REDUCE, KEEP_POSITIVES, AXIS
        )  # fmt: skip
        of_t = tl.zeros(z.shape, tl.float32)
        if Upstream.mean_weight is not None:
            of_z, of_t = affine_slopes(z, t, others, Upstream, index, count, AXIS)
            g += of_z
    return g, of_t


@triton.jit
def slopes_with_target(
    z, t, positive, drop, Row, Col, RowUpstream, ColUpstream, i, j, n, m,
    REDUCE: tl.constexpr, TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
):  # fmt: skip
    """(dL/dz, dL/dt) from the sides that have weights, but for positives; both must stay in float32 until they are
    whole."""
    if RowUpstream.weight is None:
        g, of_t = slopes_of_side(
            z, t, positive, drop, Col, ColUpstream, j, m, REDUCE, TARGET, KEEP_POSITIVES, 0
        )  # fmt: skip
    else:
        g, of_t = slopes_of_side(
            z, t, positive, drop, Row, RowUpstream, i, n, REDUCE, TARGET, KEEP_POSITIVES, 1
        )  # fmt: skip
        if ColUpstream.weight is not None:
            of_col, of_col_t = slopes_of_side(
                z, t, positive, drop, Col, ColUpstream, j, m, REDUCE, TARGET, KEEP_POSITIVES, 0
            )  # fmt: skip
            g += of_col
            of_t += of_col_t
    return g, of_t


@triton.jit
def pair_slopes(
    z, t, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
    first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr,
    TARGET: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(dL/dz, dL/dt) from the sides that have weights, and from positives; without TARGET the first twice."""
    if TARGET:
        i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
        g, of_t = slopes_with_target(
            z, t, positive, drop, Row, Col, RowUpstream, ColUpstream, i, j, n, m,
            REDUCE, TARGET, KEEP_POSITIVES,
        )  # fmt: skip
        g = with_positives(
            g, z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
    else:
        g = logit_slope(
            z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        of_t = g
    return g, of_t


@triton.jit
def slopes_of_each(
    z, col_z, t, valid, positive, drop, Row, Col, RowUpstream, ColUpstream, Nothing,
    first_row, first_col, n, m, row_origin, col_origin,
    REDUCE: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr, SPLIT: tl.constexpr,
    OWN_SCALES: tl.constexpr, TARGET: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(dL/dz, dL/dcol_z, dL/dt); the second has a meaning with OWN_SCALES, the third with TARGET."""
    if OWN_SCALES:
        g, of_t = pair_slopes(
            z, t, valid, positive, drop, Row, Col, RowUpstream, Nothing,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TARGET, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        of_cols, of_col_t = pair_slopes(
            col_z, t, valid, positive, drop, Row, Col, Nothing, ColUpstream,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TARGET, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        return g, of_cols, of_t + of_col_t
    else:
        g, of_t = pair_slopes(
            z, t, valid, positive, drop, Row, Col, RowUpstream, ColUpstream,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, TARGET, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        return g, g, of_t
