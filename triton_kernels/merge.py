"""What tiles wrote, joined: partial statistics of one side become its statistic (`merge`), or those of both sides of a
whole call are finished and weighed (`finish`).

One kernel in place of several small operations per side: on small batches those would cost more than the tiles.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .functors import rounding_of_base
from .rules import SAME_INDEX
from .tiles import NO_INDEX, weights_of

ITEMS, PARTS = 64, 32  # items and partial results that a program takes at a time
WARPS = 4


class Finish(NamedTuple):
    """A side's weights, vectors or one number for all, and where its finished statistics, (count, 2) in parts, and
    slopes go, an argument of `finish`. None: absent."""

    stat: Any = None
    weight: Any = None
    positive_weight: Any = None
    slope: Any = None
    positive_slope: Any = None
    positive_stat: Any = None
    positive_stat_slope: Any = None


@triton.jit
def some_parts(X, first, parts, k, count, inside, PARTS: tl.constexpr, other):
    """Partial results `first` and following, (PARTS, items), of the items inside."""
    p = first + tl.arange(0, PARTS)
    at = p.to(tl.int64)[:, None] * count + k[None, :]
    return tl.load(X + at, mask=(p < parts)[:, None] & inside[None, :], other=other)


@triton.jit
def joined_sums(X, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """Sums or counts; 0 of an item that was not written."""
    if X is None:
        return tl.zeros([ITEMS], tl.float32)
    else:
        total = tl.zeros([ITEMS], X.dtype.element_ty)
        for first in range(0, parts, PARTS):
            total += tl.sum(some_parts(X, first, parts, k, count, inside, PARTS, 0), 0)
        return total


@triton.jit
def joined_peaks(Peak, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    peak = tl.full([ITEMS], float("-inf"), tl.float32)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, inside, PARTS, float("-inf"))
        peak = tl.maximum(peak, tl.max(peaks, 0))
    return peak


@triton.jit
def rescaled_sums(
    X, Peak, peak, parts, k, count, inside, POWERS: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr
):
    """Sums of numbers that are relative to e^Peak, relative to e^peak. POWERS: the numbers are sums of powers above
    Peak, see functors.py."""
    total, base = tl.zeros([ITEMS], tl.float32), tl.where(peak == float("-inf"), 0.0, peak)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, inside, PARTS, float("-inf"))
        numbers = some_parts(X, first, parts, k, count, inside, PARTS, 0.0)
        if POWERS:
            numbers *= rounding_of_base(peaks)
        total += tl.sum(numbers * tl.exp(peaks - base[None, :]), 0)
    return total


@triton.jit
def moved_sums(X, Mass, Base, base, Peak, peak, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """Sums over pairs of what lies above Base, under weights that add up to Mass, as such of what lies above base.
    Peak: weights are relative to e^Peak, from here on to e^peak."""
    total = tl.zeros([ITEMS], tl.float32)
    for first in range(0, parts, PARTS):
        bases = some_parts(Base, first, parts, k, count, inside, PARTS, float("-inf"))
        by = tl.where(bases == float("-inf"), 0.0, bases - base[None, :])  # a tile that kept nothing has no weights
        numbers = some_parts(X, first, parts, k, count, inside, PARTS, 0.0)
        numbers += some_parts(Mass, first, parts, k, count, inside, PARTS, 0.0) * by
        if Peak is not None:
            peaks = some_parts(Peak, first, parts, k, count, inside, PARTS, float("-inf"))
            numbers *= tl.exp(peaks - tl.where(peak == float("-inf"), 0.0, peak)[None, :])
        total += tl.sum(numbers, 0)
    return total


@triton.jit
def joined_exponentials(Peak, Total, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """(peak, sum of e^(z - peak)), NaN is in the total; (-inf, 0) of an item that keeps nothing or was not written."""
    peak, total = tl.full([ITEMS], float("-inf"), tl.float32), tl.zeros([ITEMS], tl.float32)
    if Peak is not None:
        peak = joined_peaks(Peak, parts, k, count, inside, PARTS, ITEMS)
        total = rescaled_sums(Total, Peak, peak, parts, k, count, inside, True, PARTS, ITEMS)
    return peak, total


@triton.jit
def joined_maxima(Peak, Arg, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """(maximum, the smallest index where it is, -1: nowhere); a NaN is the maximum."""
    peak, found = tl.full([ITEMS], float("-inf"), tl.float32), tl.zeros([ITEMS], tl.int32)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, inside, PARTS, float("-inf"))
        found = tl.maximum(found, tl.max((peaks != peaks).to(tl.int32), 0))
        peak = tl.maximum(peak, tl.max(tl.where(peaks == peaks, peaks, float("-inf")), 0))
    arg = tl.full([ITEMS], NO_INDEX, tl.int64)
    for first in range(0, parts, PARTS):
        peaks = some_parts(Peak, first, parts, k, count, inside, PARTS, float("-inf"))
        here = tl.where((found > 0)[None, :], peaks != peaks, peaks == peak[None, :])
        args = some_parts(Arg, first, parts, k, count, inside, PARTS, NO_INDEX)
        arg = tl.minimum(arg, tl.min(tl.where(here, args, NO_INDEX), 0))
    nothing = (peak == float("-inf")) & (found == 0)
    return tl.where(found > 0, float("nan"), peak), tl.where(nothing, -1, arg)


@triton.jit
def store_exponentials(
    Peak, Total, PeakOut, TotalOut, parts, k, count, inside, written, PARTS: tl.constexpr, ITEMS: tl.constexpr
):
    if PeakOut is not None:
        peak, total = joined_exponentials(Peak, Total, parts, k, count, written, PARTS, ITEMS)
        tl.store(PeakOut + k, peak, mask=inside)
        tl.store(TotalOut + k, total, mask=inside)


@triton.jit
def store_sums(X, Out, parts, k, count, inside, written, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    if Out is not None:
        tl.store(Out + k, joined_sums(X, parts, k, count, written, PARTS, ITEMS), mask=inside)


@triton.jit
def store_statistic(From, Out, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """The numbers of the pairs that are kept, but for positives apart."""
    if From.arg is not None:
        peak, arg = joined_maxima(From.peak, From.arg, parts, k, count, inside, PARTS, ITEMS)
        tl.store(Out.arg + k, arg, mask=inside)
        tl.store(Out.peak + k, peak, mask=inside)
    elif From.peak is not None:
        store_exponentials(From.peak, From.total, Out.peak, Out.total, parts, k, count, inside, inside, PARTS, ITEMS)
    else:
        store_sums(From.total, Out.total, parts, k, count, inside, inside, PARTS, ITEMS)
    store_sums(From.kept, Out.kept, parts, k, count, inside, inside, PARTS, ITEMS)
    if From.weights is not None:
        store_affine(From, Out, parts, k, count, inside, PARTS, ITEMS)
    if From.target_peak is not None:
        store_softmax(From, Out, parts, k, count, inside, PARTS, ITEMS)


@triton.jit
def store_affine(From, Out, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """The numbers of weights t."""
    base = joined_peaks(From.peak, parts, k, count, inside, PARTS, ITEMS)
    weighted = moved_sums(
        From.weighted, From.weights, From.peak, base, None, None, parts, k, count, inside, PARTS, ITEMS
    )  # fmt: skip
    store_sums(From.weights, Out.weights, parts, k, count, inside, inside, PARTS, ITEMS)
    tl.store(Out.weighted + k, weighted, mask=inside)


@triton.jit
def store_softmax(From, Out, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """The numbers of weights e^t. A NaN in the total, which no peak has met, is in the peak from here on."""
    peak = joined_peaks(From.target_peak, parts, k, count, inside, PARTS, ITEMS)
    total = rescaled_sums(From.target_total, From.target_peak, peak, parts, k, count, inside, False, PARTS, ITEMS)
    base = joined_peaks(From.peak, parts, k, count, inside, PARTS, ITEMS)
    of_z = moved_sums(
        From.target_z, From.target_total, From.peak, base, From.target_peak, peak, parts, k, count, inside, PARTS, ITEMS
    )  # fmt: skip
    of_t = moved_sums(
        From.target_t, From.target_total, From.target_peak, peak, From.target_peak, peak,
        parts, k, count, inside, PARTS, ITEMS,
    )  # fmt: skip
    tl.store(Out.target_peak + k, tl.where(total == total, peak, total), mask=inside)
    tl.store(Out.target_total + k, total, mask=inside)
    tl.store(Out.target_z + k, of_z, mask=inside)
    tl.store(Out.target_t + k, of_t, mask=inside)


@triton.jit
def store_positives(From, Out, parts, k, count, inside, written, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """The numbers that positives make up."""
    store_sums(From.positive, Out.positive, parts, k, count, inside, written, PARTS, ITEMS)
    store_sums(From.positives, Out.positives, parts, k, count, inside, written, PARTS, ITEMS)
    store_sums(From.kept_positives, Out.kept_positives, parts, k, count, inside, written, PARTS, ITEMS)
    store_exponentials(
        From.positive_peak, From.positive_total, Out.positive_peak, Out.positive_total,
        parts, k, count, inside, written, PARTS, ITEMS,
    )  # fmt: skip


@triton.jit
def finished(From, parts, k, count, inside, PARTS: tl.constexpr, ITEMS: tl.constexpr):
    """The two parts of the statistic, as monoid.finish has them."""
    if From.peak is not None:
        peak, total = joined_exponentials(From.peak, From.total, parts, k, count, inside, PARTS, ITEMS)
        return peak, tl.log(total)
    else:
        total = joined_sums(From.total, parts, k, count, inside, PARTS, ITEMS)
        return total, tl.zeros([ITEMS], tl.float32)


@triton.jit
def store_parts(Stat, first, second, k, inside):
    """A finished statistic in parts; returns it in float64."""
    tl.store(Stat + 2 * k, first, mask=inside)
    tl.store(Stat + 2 * k + 1, second, mask=inside)
    return first.to(tl.float64) + second.to(tl.float64)


@triton.jit
def times(weight, x):
    """What has no weight adds nothing, whatever it is."""
    return tl.where(weight == 0.0, 0.0, weight * x)


@triton.jit
def softplus_and_tail(margin):
    """(log(1 + e^margin), sigmoid(-|margin|)) in float64."""
    e = tl.exp(-tl.abs(margin))
    one = 1.0 + e
    # log(1 + e); the rounding of 1 + e cancels
    log1p = tl.where(one == 1.0, e, tl.log(one) * (e / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(margin, 0.0) + log1p, e / one


@triton.jit
def cross_entropy(stat, positive, weight, positive_weight):
    """(value, slope in the statistic, slope in the positive) of weight * softplus(stat - positive) + positive_weight *
    positive, in float64: both are large, and nearly equal before a model has converged."""
    margin = tl.where(stat == float("-inf"), stat, stat - positive)  # without others the loss is 0
    softplus, tail = softplus_and_tail(margin)
    slope = times(weight, tl.where(margin > 0.0, 1.0 - tail, tail))
    return times(weight, softplus) + times(positive_weight, positive), slope, positive_weight - slope


@triton.jit
def positives_apart(others, kept, positive, one, weight, positive_weight):
    """(value, slope in the statistic of the others, in the positive, in that of the kept positives), in float64, as
    with_positives_apart in driver/value.py, which says why. one: whether the positive is that statistic."""
    some = kept != float("-inf")
    margin = tl.where(some, others - kept, float("inf"))
    softplus, tail = softplus_and_tail(margin)
    of_others = times(weight, tl.where(margin > 0.0, 1.0 - tail, tail))
    of_kept = times(weight, tl.where(margin > 0.0, tail, 1.0 - tail))
    rest = tl.where(some, softplus, tl.where(others == float("-inf"), 0.0, others))
    value = times(weight, tl.where(some, kept, 0.0)) + times(positive_weight, positive)  # it cancels first
    of_sum = tl.where(one, positive_weight + weight - of_others, positive_weight)
    return value + times(weight, rest), of_others, of_sum, tl.where(one, 0.0, of_kept)


@triton.jit
def weighed(
    From, To, parts, positive_parts, k, count, inside, written,
    POSITIVES: tl.constexpr, SHARES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """What these items add to the weighted sum, in float64. Their finished statistics, in parts, and slopes go to
    To."""
    POSITIVE_PARTS: tl.constexpr = 1 if SAME_INDEX & POSITIVES else PARTS
    first, second = finished(From, parts, k, count, inside, PARTS, ITEMS)
    value = store_parts(To.stat, first, second, k, inside)
    weight = weights_of(To.weight, k, inside).to(tl.float64)
    positive_weight = tl.zeros([ITEMS], tl.float64)
    if To.positive_weight is not None:
        positive_weight += weights_of(To.positive_weight, k, inside)
    positive = joined_sums(From.positive, positive_parts, k, count, written, POSITIVE_PARTS, ITEMS).to(tl.float64)
    if To.slope is None:
        share = tl.where(value != float("-inf"), weight * value, 0.0)  # -inf: nothing is kept
        share += positive_weight * positive
    elif To.positive_stat is None:
        share, slope, positive_slope = cross_entropy(value, positive, weight, positive_weight)
        tl.store(To.slope + k, slope, mask=inside)
        tl.store(To.positive_slope + k, positive_slope, mask=inside)
    else:
        peak, total = joined_exponentials(
            From.positive_peak, From.positive_total, positive_parts, k, count, written, POSITIVE_PARTS, ITEMS
        )
        kept_positives = joined_sums(From.kept_positives, positive_parts, k, count, written, POSITIVE_PARTS, ITEMS)
        positives = joined_sums(From.positives, positive_parts, k, count, written, POSITIVE_PARTS, ITEMS)
        one = (kept_positives == 1) & (positives == 1) & (SHARES == 0)
        kept = store_parts(To.positive_stat, peak, tl.log(total), k, inside)
        share, slope, positive_slope, kept_slope = positives_apart(value, kept, positive, one, weight, positive_weight)
        tl.store(To.slope + k, slope, mask=inside)
        tl.store(To.positive_slope + k, positive_slope, mask=inside)
        tl.store(To.positive_stat_slope + k, kept_slope, mask=inside)
    return tl.where(inside, share, 0.0)


@triton.jit(do_not_specialize=["parts", "count", "shift", "others"])
def merge(
    From, Out, parts, count, shift, others,
    POSITIVES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """The joined partial statistic of one side goes to Out. Its item k + shift has the index of item k of the
    others."""
    k = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    inside = k < count
    POSITIVE_PARTS: tl.constexpr = 1 if SAME_INDEX & POSITIVES else PARTS
    store_statistic(From, Out, parts, k, count, inside, PARTS, ITEMS)
    written, positive_parts = inside, parts
    if SAME_INDEX & POSITIVES:  # one tile wrote an item's, if the item k + shift is in the block
        other = k.to(tl.int64) + shift
        written, positive_parts = inside & (other >= 0) & (other < others), 1
    store_positives(From, Out, positive_parts, k, count, inside, written, POSITIVE_PARTS, ITEMS)


@triton.jit
def side_share(
    From, To, parts, count, others,
    POSITIVES: tl.constexpr, SHARES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """What this program's items of a side add to the weighted sum."""
    total = tl.zeros([ITEMS], tl.float64)
    for first in range(tl.program_id(0) * ITEMS, count, ITEMS * tl.num_programs(0)):
        k = first + tl.arange(0, ITEMS)
        inside = k < count
        written, positive_parts = inside, parts
        if SAME_INDEX & POSITIVES:  # one tile wrote an item's, if there is an item k on the other side
            written, positive_parts = inside & (k < others), 1
        total += weighed(
            From, To, parts, positive_parts, k, count, inside, written, POSITIVES, SHARES, PARTS, ITEMS
        )  # fmt: skip
    return total


@triton.jit(do_not_specialize=["row_parts", "col_parts", "n", "m"])
def finish(
    RowFrom, ColFrom, RowTo, ColTo, row_parts, col_parts, n, m, Sum,
    POSITIVES: tl.constexpr, SHARES: tl.constexpr, PARTS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Finishes and weighs the statistics of a block that is a whole call: what each program's items add to the weighted
    sum goes to Sum. With slopes, of a cross entropy or where positives are apart (positive_stat), whose slopes take the
    place of the weights. SHARES: positives count by shares. No ColTo.stat: rows alone."""
    total = side_share(RowFrom, RowTo, row_parts, n, m, POSITIVES, SHARES, PARTS, ITEMS)
    if ColTo.stat is not None:
        total += side_share(ColFrom, ColTo, col_parts, m, n, POSITIVES, SHARES, PARTS, ITEMS)
    tl.store(Sum + tl.program_id(0), tl.sum(total, 0))
