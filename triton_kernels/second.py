"""What second operands give the pairs: the gate of a score, the numbers of a target and its slopes (spec.Target)."""

import triton
import triton.language as tl

from .functors import AFFINE, GATED, inverse_gate
from .rules import dropped
from .tiles import across, base_of, product, vector


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
def target_logits(u, Row, i, n):
    """t of the product u; both sides have the same."""
    t = u
    if Row.second_scale is not None:
        t *= vector(Row.second_scale, i, n, 1)
    if Row.second_bias is not None:
        t += vector(Row.second_bias, i, n, 1)
    return t


@triton.jit
def store_target(
    z, t, positive, drop, side, Out, index, count, part,
    TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """The numbers of the target of one side, of the pairs that its statistic keeps; NaN enters the total, no peak."""
    at, inside = part.to(tl.int64) * count + index, index < count
    drop = dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
    if TARGET == AFFINE:
        tl.store(Out.weights + at, tl.sum(tl.where(drop, 0.0, t), AXIS), mask=inside)
        tl.store(Out.weighted + at, tl.sum(tl.where(drop, 0.0, t * z), AXIS), mask=inside)
    else:
        peak = tl.max(tl.where(drop | (t != t), float("-inf"), t), AXIS)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        e = tl.where(drop, 0.0, tl.exp(t - across(base, AXIS)))
        tl.store(Out.target_peak + at, peak, mask=inside)
        tl.store(Out.target_total + at, tl.sum(e, AXIS), mask=inside)
        tl.store(Out.target_z + at, tl.sum(tl.where(drop, 0.0, e * z), AXIS), mask=inside)
        tl.store(Out.target_t + at, tl.sum(tl.where(drop, 0.0, e * t), AXIS), mask=inside)


@triton.jit
def target_weights(t, drop, Upstream, index, count, TARGET: tl.constexpr, AXIS: tl.constexpr):
    """q of spec.Upstream: what the kept pairs weigh."""
    if TARGET == AFFINE:
        return tl.where(drop, 0.0, t)
    else:
        inside = index < count
        peak = tl.load(Upstream.target_stat + 2 * index, mask=inside, other=0.0)
        log_total = tl.load(Upstream.target_stat + 2 * index + 1, mask=inside, other=0.0)
        peak = tl.where(peak == float("-inf"), 0.0, peak)  # it keeps nothing
        share = tl.exp(-tl.where(log_total == float("-inf"), 0.0, log_total))
        return tl.where(drop, 0.0, tl.exp(t - across(peak, AXIS)) * across(share, AXIS))


@triton.jit
def target_slope(q, z, t, drop, Upstream, index, count, TARGET: tl.constexpr, AXIS: tl.constexpr):
    """What the target gives dL/dt."""
    slope = vector(Upstream.mean_weight, index, count, AXIS) * z + vector(Upstream.mean_offset, index, count, AXIS)
    if TARGET == AFFINE:
        return tl.where(drop, 0.0, slope)
    else:
        if Upstream.logit_weight is not None:
            slope += vector(Upstream.logit_weight, index, count, AXIS) * t
        return tl.where(drop, 0.0, q * slope)


@triton.jit
def with_target(
    g, of_t, z, t, positive, drop, side, Upstream, index, count,
    TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr, WANTED: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """dL/dz and, where WANTED, dL/dt plus what the target of one side adds."""
    if Upstream.mean_weight is not None:
        drop = dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS)
        q = target_weights(t, drop, Upstream, index, count, TARGET, AXIS)
        g += vector(Upstream.mean_weight, index, count, AXIS) * q
        if WANTED:
            of_t += target_slope(q, z, t, drop, Upstream, index, count, TARGET, AXIS)
    return g, of_t


@triton.jit
def add_target_slopes(
    g, z, t, positive, drop, Row, Col, RowUpstream, ColUpstream, i, j, n, m,
    TARGET: tl.constexpr, KEEP_POSITIVES: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """(dL/dz, dL/dt) with the targets of both sides; both must stay in float32 until they are whole."""
    of_t = tl.zeros(z.shape, tl.float32)
    g, of_t = with_target(
        g, of_t, z, t, positive, drop, Row, RowUpstream, i, n, TARGET, KEEP_POSITIVES, WANTED, 1
    )  # fmt: skip
    return with_target(
        g, of_t, z, t, positive, drop, Col, ColUpstream, j, m, TARGET, KEEP_POSITIVES, WANTED, 0
    )  # fmt: skip
