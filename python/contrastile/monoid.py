"""Partial statistics and how two of them join: tiles, chunks, column blocks, queues and ranks all join by one table.

A statistic of an item is some numbers. Each number has a law, stated once in NUMBERS; what a reduce keeps are its
Traits. The compiled kernels keep the same numbers by the same laws (csrc/common/functors.h, triton_kernels/merge.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Number(NamedTuple):
    """How two values of a number join.

    "max": the larger one. "sum": their sum. "exp": their sum after both are rescaled by e^(their `of` - the joined
    `of`); without an `of`, their sum. "moved": so are sums of what lies above `base`, of weights that add up to `mass`,
    after both are moved to the joined base. "follow": that of the larger `of`, of the first where they are equal.
    """

    law: Literal["max", "sum", "exp", "moved", "follow"]
    neutral: float = 0.0
    of: str = ""
    integer: bool = False
    base: str = ""
    mass: str = ""


NUMBERS = {
    "peak": Number("max", neutral=-torch.inf),  # the largest z
    "total": Number("exp", of="peak"),  # sum of e^(z - peak), or of terms
    "positive": Number("sum"),  # sum over positive pairs
    "arg": Number("follow", neutral=-1, of="peak", integer=True),  # global index of the largest z, -1: none
    # where positives are apart: peak and total of those that are kept, and their count
    "positive_peak": Number("max", neutral=-torch.inf),
    "positive_total": Number("exp", of="positive_peak"),
    "kept_positives": Number("sum", integer=True),
    "kept": Number("sum", integer=True),  # pairs in the statistic, where they are counted
    "positives": Number("sum", integer=True),  # positive pairs, kept or not
    # where kept pairs weigh e^t: the largest t, sums of e^(t - it), of this times z - peak, and times t - the largest.
    # Above their peaks, because a converged model's cross entropy is what is left of its mean above the peak.
    "target_peak": Number("max", neutral=-torch.inf),
    "target_total": Number("exp", of="target_peak"),
    "target_z": Number("moved", of="target_peak", base="peak", mass="target_total"),
    "target_t": Number("moved", of="target_peak", base="target_peak", mass="target_total"),
    # where they weigh t: sums of t and of t (z - peak)
    "weights": Number("sum"),
    "weighted": Number("moved", base="peak", mass="weights"),
}
SPLIT_NUMBERS = ("positive_peak", "positive_total", "kept_positives")
TARGET_NUMBERS = ("target_peak", "target_total", "target_z", "target_t")


class Traits(NamedTuple):
    """What a reduce keeps and allows. Code asks for these, never for a reduce by name."""

    peak: bool  # it keeps the largest z
    total: bool  # it keeps a sum: of e^(z - peak) where there is a peak, else of one term per pair
    arg: bool  # it keeps the index of the largest z, at which it is differentiated
    additive: bool  # the slope of a pair depends on its z alone: no statistic has to be known first


@dataclass
class SideStats:
    """Partial statistic of one side, its fields as in NUMBERS; None: a number that the reduce does not keep."""

    peak: Tensor | None = None  # (n,)
    total: Tensor | None = None  # (n,)
    positive: Tensor | None = None  # (n,)
    arg: Tensor | None = None  # (n,) int64
    positive_peak: Tensor | None = None  # (n,)
    positive_total: Tensor | None = None  # (n,)
    kept_positives: Tensor | None = None  # (n,) int64
    kept: Tensor | None = None  # (n,) int64
    positives: Tensor | None = None  # (n,) int64
    target_peak: Tensor | None = None  # (n,)
    target_total: Tensor | None = None  # (n,)
    target_z: Tensor | None = None  # (n,)
    target_t: Tensor | None = None  # (n,)
    weights: Tensor | None = None  # (n,)
    weighted: Tensor | None = None  # (n,)

    def present(self) -> dict[str, Tensor]:
        return {name: x for name in NUMBERS if (x := getattr(self, name)) is not None}

    def slice(self, start: int, stop: int) -> SideStats:
        present = self.present()
        if start == 0 and stop == len(next(iter(present.values()))):
            return self
        return SideStats(**{name: x[start:stop] for name, x in present.items()})


def stat_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of statistics, scores and accumulators of features of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def uninitialised(names: Iterable[str], n: int, device: torch.device) -> SideStats:
    """Memory for these numbers of n items, as a kernel writes them."""
    kinds = {name: torch.int64 if NUMBERS[name].integer else torch.float32 for name in names}
    return SideStats(**{name: torch.empty(n, dtype=kind, device=device) for name, kind in kinds.items()})


def neutral(names: Iterable[str], like: Tensor, n: int) -> SideStats:
    """These numbers of n items that have met no pair, in the type of the statistics of `like`."""
    dtype, numbers = stat_dtype(like.dtype), {name: NUMBERS[name] for name in names}
    return SideStats(**{
        name: torch.full((n,), x.neutral, dtype=torch.int64 if x.integer else dtype, device=like.device)
        for name, x in numbers.items()
    })  # fmt: skip


def merge(x: SideStats, y: SideStats) -> SideStats:
    """Joins two partial statistics of the same items, as far as both keep a number."""
    left, right = x.present(), y.present()
    both = [name for name in left if name in right]
    out = {name: torch.maximum(left[name], right[name]) for name in both if NUMBERS[name].law == "max"}
    for name in both:
        number = NUMBERS[name]
        if number.law == "follow":
            a, b = left[number.of], right[number.of]
            out[name] = torch.where((b > a) | (b.isnan() & ~a.isnan()), right[name], left[name])
        elif number.law != "max":
            out[name] = brought_to(out, name, left) + brought_to(out, name, right)
    return SideStats(**out)


def brought_to(top: dict[str, Tensor], name: str, part: dict[str, Tensor]) -> Tensor:
    """A number that is a sum, as one that can be added up: relative to the joined peaks in `top`."""
    number, value = NUMBERS[name], part[name]
    if number.base in top:
        base = part[number.base]
        by = torch.where(base == -torch.inf, 0.0, base - top[number.base])  # an item that met nothing weighs nothing
        value = value + part[number.mass] * by
    return rescaled(value, part[number.of], top[number.of]) if number.of in top else value


def rescaled(total: Tensor, peak: Tensor, top: Tensor) -> Tensor:
    """A sum of e^(z - peak) as one of e^(z - top). The peak of an item that met nothing is -inf, and so may be `top`:
    e^(-inf - lowest) is 0."""
    return total * (peak - top.clamp_min(torch.finfo(top.dtype).min)).exp()


def finish(stats: SideStats) -> Tensor:
    """The statistic in parts, (n, 2): (peak, log total), else (value, 0); the statistic is their sum.

    At scale 100 one number would leave a converged model's loss and p_ii - 1 with four digits fewer.
    """
    return in_parts(stats.peak, stats.total)


def finish_positives(stats: SideStats) -> Tensor | None:
    """The same of the statistic that kept positives have of their own."""
    return None if stats.positive_peak is None else in_parts(stats.positive_peak, stats.positive_total)


TARGET_PARTS = 5  # numbers of TargetStats.parts


class TargetStats(NamedTuple):
    """What the second operands give of an item, finished. Of an item without weights to take a mean under, all 0."""

    mean: Tensor  # (n,) of its kept z under its weights, above the peak of its statistic: at most 0
    logits: Tensor  # (n,) of its kept t under e^t, above their peak; of affine weights 0
    stat: Tensor  # (n, 2) the log-sum-exp of t in parts; of affine weights (their sum, 0)
    given: Tensor  # (n,) bool: there are such weights. Affine ones need a positive, finite sum

    def parts(self) -> Tensor:
        """(n, 5), as operators return it."""
        return torch.stack([*self.stat.unbind(1), self.mean, self.logits, self.given.to(self.mean.dtype)], 1)

    @staticmethod
    def of(parts: Tensor) -> TargetStats:
        return TargetStats(parts[:, 2], parts[:, 3], parts[:, :2].contiguous(), parts[:, 4] != 0)

    def outputs(self, stat: Tensor, exact: bool) -> list[Tensor]:
        """The mean, the entropy of the weights, their log-sum-exp or sum, and the cross entropy, the statistic minus
        the mean, from the statistic in parts; 0 where there are no weights."""
        kind = widest_dtype(stat) if exact else stat.dtype
        mean, logits, peak, log_total = (x.to(kind) for x in (self.mean, self.logits, stat[:, 0], stat[:, 1]))
        found = peak + mean, self.stat[:, 1].to(kind) - logits, log_total - mean
        mean, entropy, loss = (torch.where(self.given, x, 0.0) for x in found)
        return [mean, entropy, joined_parts(self.stat, exact), loss]


def finish_target(stats: SideStats) -> TargetStats | None:
    if stats.weights is not None and stats.weighted is not None:
        total = stats.weights
        given = (total > 0) & (total < torch.inf)
        mean = torch.where(given, stats.weighted / total, 0.0)
        return TargetStats(mean, torch.zeros_like(mean), in_parts(None, total), given)
    if stats.target_total is None:
        return None
    assert stats.target_peak is not None and stats.target_z is not None and stats.target_t is not None
    # a NaN is passed on, also by kernels whose largest of nothing but NaN is -inf
    given = (stats.target_peak != -torch.inf) | stats.target_total.isnan()
    mean, logits = (torch.where(given, x / stats.target_total, 0.0) for x in (stats.target_z, stats.target_t))
    return TargetStats(mean, logits, in_parts(stats.target_peak, stats.target_total), given)


class TargetSlopes(NamedTuple):
    """Fields of spec.Upstream."""

    mean_weight: Tensor
    logit_weight: Tensor | None
    mean_offset: Tensor


def target_slopes(
    target: TargetStats, affine: bool, mean: Tensor, entropy: Tensor | None = None, total: Tensor | None = None
) -> TargetSlopes:
    """What pairs need to know of the upstream gradients of the mean, of the entropy, and of the log-sum-exp of t or the
    sum of affine weights."""
    weight = torch.where(target.given, mean / target.stat[:, 0] if affine else mean, 0.0)
    offset = -weight * target.mean
    if total is not None:
        offset = offset + (total if affine else torch.where(target.given, total, 0.0))
    if affine or entropy is None:
        return TargetSlopes(weight, None, offset)
    entropy = torch.where(target.given, entropy, 0.0)  # d entropy / dt = - q (t - mean of t)
    return TargetSlopes(weight, -entropy, offset + entropy * target.logits)


def in_parts(peak: Tensor | None, total: Tensor | None) -> Tensor:
    if peak is not None and total is not None:
        return torch.stack([peak, total.log()], 1)
    value = peak if total is None else total
    assert value is not None
    return torch.stack([value, torch.zeros_like(value)], 1)


def joined_parts(parts: Tensor, exact: bool) -> Tensor:
    """The statistic from its parts. exact: in float64, where the device has it."""
    return parts.sum(1, dtype=widest_dtype(parts) if exact else None)


def widest_dtype(x: Tensor) -> torch.dtype:
    """What the device of x computes most exactly in."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def upstream(parts: Tensor, weight: Tensor) -> Tensor:
    """The gradient of finished statistics, in their type. An item that keeps nothing has none, whatever came: that of
    two such items joined by logaddexp is NaN."""
    return torch.where(parts[:, 0] == -torch.inf, 0.0, weight.to(parts.dtype))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). By default torch takes x itself above 20, and so drops digits of float64."""
    return F.softplus(x, threshold=40.0)


def log_add(x: Tensor, y: Tensor) -> Tensor:
    """torch.logaddexp, whose second derivative is NaN where one of both is nothing (-inf), or far below the other."""
    swap = y > x
    high, low = torch.where(swap, y, x), torch.where(swap, x, y)
    some = high != -torch.inf
    base = torch.where(some, high, 0.0)
    return torch.where(some, base + softplus(low - base), high)
