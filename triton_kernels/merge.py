"""What tiles wrote, joined: partial statistics of one side become its statistic, finished and weighed where wanted.

One kernel in place of several small operations per side: on small batches those would cost more than the tiles.
"""

import triton
import triton.language as tl

from .rules import SAME_INDEX
from .tiles import NO_INDEX

ITEMS, PARTS = 64, 32  # items of a program, partial results it takes at a time
WARPS = 4


@triton.jit
def some_parts(X, first, parts, k, count, PARTS: tl.constexpr, other):
    """Partial results `first` and following, (PARTS, items)."""
    p = first + tl.arange(0, PARTS)
    at = p.to(tl.int64)[:, None] * count + k[None, :]
    return tl.load(X + at, mask=(p < parts)[:, None] & (k < count)[None, :], other=other)


@triton.jit
def joined_sums(X, parts, k, count, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    total = tl.zeros([ITEMS], tl.float32)
    for first in range(0, parts, PARTS):
        total += tl.sum(some_parts(X, first, parts, k, count, PARTS, 0.0), 0)
    return total


@triton.jit
def joined_exponentials(Peak, Total, parts, k, count, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """(peak, sum of e^(z - peak)); an item that keeps nothing has (-inf, 0), NaN is in the total."""
    peak = tl.full([ITEMS], float("-inf"), tl.float32)
    for first in range(0, parts, PARTS):
        peak = tl.maximum(peak, tl.max(some_parts(Peak, first, parts, k, count, PARTS, float("-inf")), 0))
    base, total = tl.where(peak == float("-inf"), 0.0, peak), tl.zeros([ITEMS], tl.float32)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, PARTS, float("-inf"))
        total += tl.sum(some_parts(Total, first, parts, k, count, PARTS, 0.0) * tl.exp(peaks - base[None, :]), 0)
    return peak, total


@triton.jit
def joined_maxima(Peak, Arg, parts, k, count, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """(maximum, the smallest index where it is, -1: nowhere); a NaN is the maximum."""
    peak, found = tl.full([ITEMS], float("-inf"), tl.float32), tl.zeros([ITEMS], tl.int32)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, PARTS, float("-inf"))
        found = tl.maximum(found, tl.max((peaks != peaks).to(tl.int32), 0))
        peak = tl.maximum(peak, tl.max(tl.where(peaks == peaks, peaks, float("-inf")), 0))
    arg = tl.full([ITEMS], NO_INDEX, tl.int64)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, PARTS, float("-inf"))
        here = tl.where((found > 0)[None, :], peaks != peaks, peaks == peak[None, :])
        args = some_parts(Arg, first, parts, k, count, PARTS, NO_INDEX)
        arg = tl.minimum(arg, tl.min(tl.where(here, args, NO_INDEX), 0))
    nothing = (peak == float("-inf")) & (found == 0)
    return tl.where(found > 0, float("nan"), peak), tl.where(nothing, -1, arg)


@triton.jit
def joined_positives(
    Positive, parts, k, count, shift, others, POSITIVES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr
):
    """Sums over positives. With the same index one tile wrote an item's, if the item k + shift is in the block."""
    if POSITIVES == 0:
        return tl.zeros([ITEMS], tl.float32)
    elif SAME_INDEX & POSITIVES:
        other = k.to(tl.int64) + shift
        return tl.load(Positive + k, mask=(k < count) & (other >= 0) & (other < others), other=0.0)
    else:
        return joined_sums(Positive, parts, k, count, PARTS, ITEMS)


@triton.jit
def cross_entropy(stat, positive, weight, positive_weight):
    """(value, slope in the statistic, slope in the positive) of weight * softplus(stat - positive) + positive_weight *
    positive, in float64: both are large, and nearly equal before a model has converged."""
    margin = tl.where(stat == float("-inf"), stat, stat - positive)  # without others the loss is 0
    e = tl.exp(-tl.abs(margin))
    one = 1.0 + e
    # log(1 + e); the rounding of 1 + e cancels
    log1p = tl.where(one == 1.0, e, tl.log(one) * (e / tl.where(one == 1.0, 1.0, one - 1.0)))
    softplus = tl.maximum(margin, 0.0) + log1p
    slope = tl.where(weight == 0.0, 0.0, weight * (tl.where(margin > 0.0, 1.0, e) / one))
    value = tl.where(weight == 0.0, 0.0, weight * softplus)
    value += tl.where(positive_weight == 0.0, 0.0, positive_weight * positive)
    return value, slope, positive_weight - slope


@triton.jit(do_not_specialize=["parts", "count", "shift", "others"])
def merge(
    Peak, Total, Positive, Arg, parts, count, shift, others, PeakOut, TotalOut, PositiveOut, ArgOut,
    Stat, Weight, PositiveWeight, Slope, PositiveSlope, Share,
    POSITIVES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Either the joined partial statistic goes to the outputs or, with Stat (count, 2), the finished one in parts, as
    monoid.finish has it, and every program's share of the weighted sum, float64, to Share. With Slope, of a cross
    entropy, whose slopes take the place of the weights."""
    k = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    inside = k < count
    positive = joined_positives(Positive, parts, k, count, shift, others, POSITIVES, PARTS, ITEMS)
    if Arg is not None:
        peak, arg = joined_maxima(Peak, Arg, parts, k, count, PARTS, ITEMS)
        tl.store(ArgOut + k, arg, mask=inside)
        tl.store(PeakOut + k, peak, mask=inside)
        tl.store(PositiveOut + k, positive, mask=inside)
    else:
        if Peak is not None:
            peak, total = joined_exponentials(Peak, Total, parts, k, count, PARTS, ITEMS)
            first, second = peak, tl.log(total)
        else:
            total = joined_sums(Total, parts, k, count, PARTS, ITEMS)
            first, second = total, tl.zeros([ITEMS], tl.float32)
        if Stat is None:
            if Peak is not None:
                tl.store(PeakOut + k, first, mask=inside)
            tl.store(TotalOut + k, total, mask=inside)
            tl.store(PositiveOut + k, positive, mask=inside)
        else:
            tl.store(Stat + 2 * k, first, mask=inside)
            tl.store(Stat + 2 * k + 1, second, mask=inside)
            value = first.to(tl.float64) + second.to(tl.float64)
            weight = tl.load(Weight + k, mask=inside, other=0.0).to(tl.float64)
            positive_weight = tl.zeros([ITEMS], tl.float64)
            if PositiveWeight is not None:
                positive_weight += tl.load(PositiveWeight + k, mask=inside, other=0.0)
            positive = positive.to(tl.float64)
            if Slope is None:
                share = tl.where(inside & (value != float("-inf")), weight * value, 0.0)  # -inf: nothing is kept
                share += positive_weight * positive
            else:
                share, slope, positive_slope = cross_entropy(value, positive, weight, positive_weight)
                tl.store(Slope + k, slope, mask=inside)
                tl.store(PositiveSlope + k, positive_slope, mask=inside)
            share = tl.where(inside, share, 0.0)
            tl.store(Share + tl.program_id(0), tl.sum(share, 0))
