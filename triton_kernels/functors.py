"""Per-pair mathematics of the reduces and scores, each value beside its derivative; names as in csrc/common/functors.h.

`term` is what one kept pair adds to the statistic, `slope` its derivative in z; `positive_term` / `positive_slope` are
the same for a positive pair. A kernel picks them by the constant of its reduce or score: one kernel serves all. Slopes
of distances are twice the derivative in q, which has -2 <a, b>, as functions of the score: then no register holds q.
"""

import math

import triton
import triton.language as tl

# values equal spec.Reduce and spec.Score
LSE, SOFTPLUS, RELU, MAX = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
PEAKS = tl.constexpr(1 << 0 | 1 << 3)  # reduces that keep the largest z, a bit for each, as spec.TRAITS says
DOT, SQUARED_DISTANCE, DISTANCE, LOG_DISTANCE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
GATED = tl.constexpr(4)
BIASED = tl.constexpr(1 << 0 | 1 << 4)  # scores that biases are added to, a bit for each
SOFTMAX, AFFINE = tl.constexpr(1), tl.constexpr(2)  # values equal spec.Target
NO_GATE = tl.constexpr(1e-24)  # spec.NO_GATE
LOG2E, LN2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2.0))
LARGEST = tl.constexpr(3.4e38)


@triton.jit
def base_of_powers(peak):
    """base with e^(z - peak) = power(z, base) times rounding_of_base(peak): one fused operation a pair and the
    exponential. Of no peak, -inf, one whose powers of -inf are 0."""
    return tl.minimum(peak * -LOG2E, LARGEST)


@triton.jit
def rounding_of_base(peak):
    """1 of a peak that is not finite."""
    x = LN2 * tl.fma(peak, LOG2E, peak * -LOG2E)  # far below 1
    return tl.where(tl.abs(peak) < float("inf"), 1.0 - x + 0.5 * x * x, 1.0)


@triton.jit
def power(z, base):
    return tl.exp2(tl.fma(z, LOG2E, base))


@triton.jit
def log1p_unit(y):
    """log(1 + y) for 0 <= y <= 1 as y + y^2 Q(y), within 2 units in the last place (1.5 where products are fused with
    sums). Q has the smallest relative error of its degree, 2^-24.8."""
    q = -0.030065794 + 0.0053648246 * y
    q = 0.07920454 + q * y
    q = -0.13753803 + q * y
    q = 0.19153655 + q * y
    q = -0.24857163 + q * y
    q = 0.33321324 + q * y
    q = -0.49999648 + q * y
    return y + y * y * q


@triton.jit
def tail_of(z):
    """e^-|z|; what is no normal number may count as 0. tl.exp would take three instructions more for those."""
    return tl.exp2(tl.abs(z) * -LOG2E)


@triton.jit
def linear_positive_term(z):
    return z


@triton.jit
def linear_positive_slope(z):
    return tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def softplus_term(z):
    return tl.maximum(z, 0.0) + log1p_unit(tail_of(z))  # the tail keeps NaN


@triton.jit
def softplus_slope(z):
    e = tail_of(z)
    root = tl.rsqrt(1.0 + e)  # of 1 to 2: its square is the reciprocal up to 2^-21.9, at a quarter of a division
    return tl.where(z > 0.0, 1.0, e) * (root * root)  # no overflow, no cancellation


@triton.jit
def softplus_positive_term(z):
    return softplus_term(-z)


@triton.jit
def softplus_positive_slope(z):
    return -softplus_slope(-z)


@triton.jit
def relu_term(z):
    return tl.where(z <= 0.0, 0.0, z)  # this order keeps NaN


@triton.jit
def relu_slope(z):
    return tl.where(z > 0.0, 1.0, tl.where(z <= 0.0, 0.0, z))  # NaN stays NaN


@triton.jit
def lse_slope(z, base):
    """Times numbers of the item by which its weight is divided, once instead of a pair at a time, see slopes.py."""
    return power(z, base)


@triton.jit
def squared_distance_value(q):
    return q


@triton.jit
def squared_distance_slope(s):
    return tl.full(s.shape, 2.0, tl.float32)


@triton.jit
def distance_value(q):
    return tl.sqrt(q)


@triton.jit
def distance_slope(s):
    return tl.rsqrt(s * s)  # a quarter of a division


@triton.jit
def log_distance_value(q):
    return tl.log(q)


@triton.jit
def log_distance_slope(s):
    return 2.0 * tl.exp2(s * -LOG2E)


@triton.jit
def inverse_gate(u):
    """What a gated product is multiplied by, where u is that of the second operands."""
    return tl.where(u <= NO_GATE, 0.0, tl.rsqrt(u))


@triton.jit
def gate_derivative(s, inverse):
    """ds/du."""
    return -0.5 * s * (inverse * inverse)


# ---- the choice by constant -----------------------------------------------------------------------------------------


@triton.jit
def term(z, REDUCE: tl.constexpr):
    if REDUCE == SOFTPLUS:
        return softplus_term(z)
    else:
        return relu_term(z)


@triton.jit
def slope(z, base, REDUCE: tl.constexpr):
    if REDUCE == SOFTPLUS:
        return softplus_slope(z)
    elif REDUCE == RELU:
        return relu_slope(z)
    else:
        return lse_slope(z, base)


@triton.jit
def positive_term(z, REDUCE: tl.constexpr):
    if REDUCE == SOFTPLUS:
        return softplus_positive_term(z)
    else:
        return linear_positive_term(z)


@triton.jit
def positive_slope(z, REDUCE: tl.constexpr):
    if REDUCE == SOFTPLUS:
        return softplus_positive_slope(z)
    else:
        return linear_positive_slope(z)


@triton.jit
def score_value(q, SCORE: tl.constexpr):
    if SCORE == DISTANCE:
        return distance_value(q)
    elif SCORE == LOG_DISTANCE:
        return log_distance_value(q)
    else:
        return squared_distance_value(q)


@triton.jit
def score_slope(s, SCORE: tl.constexpr):
    if SCORE == DISTANCE:
        return distance_slope(s)
    elif SCORE == LOG_DISTANCE:
        return log_distance_slope(s)
    else:
        return squared_distance_slope(s)
