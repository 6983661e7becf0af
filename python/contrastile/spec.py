"""What a pair reduction computes: the static facts (PairSpec) and one call's tensors (Side, PairCall)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from . import monoid
from .monoid import SPLIT_NUMBERS, SideStats, Traits


class PairTest(IntEnum):
    """What one pair (row i, column j) may be asked. A rule is a conjunction of tests, an int of their bits: `keep`
    without tests keeps every pair, `positives` without tests has none. Values equal csrc/common/pairs.h and
    triton_kernels/rules.py.

    A column block may have no ids, groups or labels: then no pair of it has the same id or group, or shares a label.
    """

    SAME_INDEX = 1  # i == j, counted through all blocks and ranks
    OTHER_INDEX = 2
    SAME_ID = 4
    OTHER_ID = 8
    SAME_GROUP = 16  # a second id
    OTHER_GROUP = 32
    SHARED_LABEL = 64  # the two sets of labels meet
    NO_SHARED_LABEL = 128
    LOWER_ORDER = 256  # order_j < order_i
    KEPT = 512  # of positives: what keep and mask leave
    PARTNER = 1024  # j is one of partner_i, counted through all blocks and ranks
    NO_PARTNER = 2048


# what each operand of a side is compared by
READERS = {
    "ids": PairTest.SAME_ID | PairTest.OTHER_ID,
    "groups": PairTest.SAME_GROUP | PairTest.OTHER_GROUP,
    "labels": PairTest.SHARED_LABEL | PairTest.NO_SHARED_LABEL,
    "order": int(PairTest.LOWER_ORDER),
}
INDEX_TESTS = PairTest.SAME_INDEX | PairTest.OTHER_INDEX
PARTNER_TESTS = PairTest.PARTNER | PairTest.NO_PARTNER
ONE_WAY = PairTest.LOWER_ORDER | PARTNER_TESTS  # of (i, j) and (j, i) one may pass alone
NO_TEST = 0


class Score(IntEnum):
    """What z is made of. All but DOT are functions of q, the squared distance of a_i from the flat of column j: the
    point b_0j (with offset) plus the span of orthonormal directions b_tj. Values equal csrc/common/pairs.h.

        q_ij = row_bias_i + col_bias_j - 2 <a_i, b_0j> - sum_t <a_i, b_tj>^2
    """

    DOT = 0  # <a, b>; the biases are added to z
    SQUARED_DISTANCE = 1  # q
    DISTANCE = 2  # sqrt q
    LOG_DISTANCE = 3  # log q
    # <a, b> / sqrt(<a', b'>) with the second operands; the biases are added to z. The cosine of a gated pair
    GATED = 4


class Target(IntEnum):
    """What weights the second operands give the pairs, beside the statistic: t_ij = second_scale_i <a'_i, b'_j> +
    second_bias_i. A side then also has the mean of its kept z under these weights. Values equal csrc/common/pairs.h."""

    NONE = 0
    SOFTMAX = 1  # e^t
    AFFINE = 2  # t


# <a', b'> up to here is no gate: such a pair has score 0 and no gradient
NO_GATE = 1e-24
# q below this share of row_bias + col_bias is the rounding of its own terms: it is raised to it, with slope 0
FLOOR = {torch.float32: 2.0**-20, torch.float64: 2.0**-46}


class Reduce(IntEnum):
    """How the kept z of a row are reduced. Values equal csrc/common/pairs.h."""

    LSE = 0
    SOFTPLUS = 1
    RELU = 2
    MAX = 3

    @property
    def traits(self) -> Traits:
        return TRAITS[self]


TRAITS: dict[int, Traits] = {
    Reduce.LSE: Traits(peak=True, total=True, arg=False, additive=False),
    Reduce.SOFTPLUS: Traits(peak=False, total=True, arg=False, additive=True),
    Reduce.RELU: Traits(peak=False, total=True, arg=False, additive=True),
    Reduce.MAX: Traits(peak=True, total=False, arg=True, additive=False),
}


@dataclass(frozen=True)
class PairSpec:
    """Static facts of a reduction: they never depend on tensor values."""

    reduce: Reduce = Reduce.LSE
    keep: int = NO_TEST  # which pairs enter the statistic, before thresholds and the mask
    positives: int = NO_TEST  # which pairs are summed apart; a rule of no tests: none
    keep_positives: bool = False  # positives stay in the statistic whatever the other rules say
    cols: bool = False  # also reduce every column over the rows
    square: bool = False  # b is a and z symmetric: each unordered pair is visited once
    score: Score = Score.DOT
    offset: bool = True  # scores but DOT: the first tile of the columns is a point, the rest are directions
    split: bool = False  # the statistic is that of the others; kept positives have one of their own
    counts: bool = False  # pairs are counted as well
    target: Target = Target.NONE
    own_scales: bool = False  # a side's scale multiplies the scores in its own statistics alone, not in the other's

    @property
    def second(self) -> bool:
        """Whether a pair has a product of second operands."""
        return self.target != Target.NONE or self.score == Score.GATED

    @property
    def biased(self) -> bool:
        """Whether biases are added to z: those of distances are inside the score."""
        return self.score in (Score.DOT, Score.GATED)

    @property
    def numbers(self) -> list[str]:
        """What an item's statistic is made of, in the order of monoid.NUMBERS."""
        traits = self.reduce.traits
        optional = {"peak": traits.peak, "total": traits.total, "arg": traits.arg}
        optional |= dict.fromkeys(SPLIT_NUMBERS, self.split)
        optional |= {"kept": self.counts, "positives": self.split or self.counts}
        optional |= {name: self.target == Target.SOFTMAX for name in monoid.TARGET_NUMBERS}
        optional |= {"weights": self.target == Target.AFFINE, "weighted": self.target == Target.AFFINE}
        return [name for name in monoid.NUMBERS if optional.get(name, True)]


@dataclass(frozen=True)
class Limits:
    """How much a backend wants at once."""

    workspace: int  # bytes of scores or score gradients held at a time, see Backend.pair_bytes
    max_chunk: int  # rows; larger chunks no longer raise the rate of the output products
    square_chunk: int  # rows; a chunk's own square is computed in full, so chunks of a square call stay smaller
    min_chunk: int = 128  # rows; where fewer would fit, columns are split instead
    # rows; where fewer would fit with the scores of all columns, products are formed twice instead; None: min_chunk
    kept_chunk: int | None = None
    processors: int = 0  # of a device that blocks are chosen to fill (backends.waves), not max_chunk and square_chunk


class Packed(Protocol):
    """Columns in a backend's own layout."""

    def at(self, start: int) -> Packed:
        """The columns from `start` (a multiple of the backend's granularity) on."""
        ...


# of an item, as fields of Side
WEIGHTS = ("weight", "positive_weight", "positive_stat_weight", "mean_weight", "logit_weight", "mean_offset")
NUMBERS = ("scale", "bias", "low", "high", *WEIGHTS)
PARTS = ("stat", "positive_stat", "target_stat")  # statistics in parts, (n, 2)
OF_ROWS = ("partner", "share", "second_scale", "second_bias")
VECTORS = (*NUMBERS, *READERS, *PARTS, *OF_ROWS)


@dataclass
class Side:
    """The rows (or columns) of a block: features and everything that is one number per item."""

    features: Tensor  # (n, d); columns of several directions: (t, n, d)
    origin: int = 0  # global index of the first item
    scale: Tensor | None = None  # (n,) float32, multiplies the score, see PairSpec.own_scales
    bias: Tensor | None = None  # (n,)
    ids: Tensor | None = None  # (n,) int64; this and the next three: None of columns that have none
    groups: Tensor | None = None  # (n,) int64
    labels: Tensor | None = None  # (n, words) int64, a bit for each label
    order: Tensor | None = None  # (n,) int64
    partner: Tensor | None = None  # (n, count) int64 global indices of columns, -1: none
    share: Tensor | None = None  # (n, count) weight of a positive in its sum; None: 1
    low: Tensor | None = None  # (n,), this side's statistic keeps low < z <= high
    high: Tensor | None = None  # (n,)
    second: Tensor | None = None  # (n, d'), the second operand; of rows also the next two
    second_scale: Tensor | None = None  # (n,), see Target
    second_bias: Tensor | None = None  # (n,)
    on: bool = True  # whether this side's statistic is wanted
    # the following are needed for gradients only, see Upstream
    stat: Tensor | None = None
    weight: Tensor | None = None
    positive_weight: Tensor | None = None
    positive_stat: Tensor | None = None
    positive_stat_weight: Tensor | None = None
    target_stat: Tensor | None = None
    mean_weight: Tensor | None = None
    logit_weight: Tensor | None = None
    mean_offset: Tensor | None = None
    prepared: Packed | None = None  # what Backend.prepare made of the features, for columns
    second_prepared: Packed | None = None  # of the second operand

    def __len__(self) -> int:
        return self.features.shape[-2]

    @property
    def directions(self) -> Tensor:
        """The features as (t, n, d)."""
        return self.features if self.features.dim() == 3 else self.features.unsqueeze(0)

    def slice(self, start: int, stop: int) -> Side:
        if start == 0 and stop == len(self):
            return self
        second = None if self.second is None else self.second[start:stop]
        part = self.part(self.features[..., start:stop, :], second, start, stop)
        part.prepared = None if self.prepared is None else self.prepared.at(start)
        part.second_prepared = None if self.second_prepared is None else self.second_prepared.at(start)
        return part

    def part(self, features: Tensor, second: Tensor | None, start: int, stop: int) -> Side:
        """The items from start to stop, with these features."""
        part = replace(
            self, features=features, second=second, origin=self.origin + start, prepared=None, second_prepared=None
        )
        for name in VECTORS:
            if (value := getattr(self, name)) is not None:
                setattr(part, name, value[start:stop])
        return part


@dataclass
class Upstream:
    """What the second sweep must know of a side's items. None: absent, 0."""

    stat: Tensor | None = None  # (n, 2) finished statistic in parts, see monoid.finish
    weight: Tensor | None = None  # (n,) upstream gradient of the statistic
    positive_weight: Tensor | None = None  # (n,) of the sum over positives
    positive_stat: Tensor | None = None  # (n, 2) PairSpec.split: the statistic of kept positives
    positive_stat_weight: Tensor | None = None  # (n,) its upstream gradient
    # PairSpec.target: with q_ij the item's weights, of sum 1 for SOFTMAX, and t their logits (AFFINE: q = t),
    #   dL/dz += mean_weight q
    #   dL/dt = q (mean_weight (z - peak of stat) + logit_weight (t - peak of target_stat) + mean_offset)
    #   AFFINE: mean_weight (z - peak of stat) + mean_offset
    target_stat: Tensor | None = None  # (n, 2) SOFTMAX: log-sum-exp of t in parts
    mean_weight: Tensor | None = None  # (n,)
    logit_weight: Tensor | None = None  # (n,) SOFTMAX
    mean_offset: Tensor | None = None  # (n,)

    @staticmethod
    def of(side: Side) -> Upstream:
        return Upstream(*(getattr(side, x.name) for x in fields(Upstream)))

    def slice(self, start: int, stop: int) -> Upstream:
        parts = {x.name: getattr(self, x.name) for x in fields(self)}
        return Upstream(**{name: None if x is None else x[start:stop] for name, x in parts.items()})


@dataclass
class PairCall:
    """One reduction of `rows` against the blocks of columns. In a square call blocks is [rows]."""

    spec: PairSpec
    rows: Side
    blocks: list[Side]
    mask: Tensor | None = None  # (n, m) bool over all blocks
    factor: Tensor | None = None  # () score gradients are wanted times this power of two: float16 would underflow
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.rows.features.dtype

    @property
    def products(self) -> int:
        """Dot products per pair."""
        return max((len(block.directions) for block in self.blocks), default=1) + self.spec.second


class Room:
    """Memory for the score gradients of one block after another. Taken anew for each, blocks of many megabytes would
    lie where the C library's heap happens to have room, and the peak would depend on what the process did before."""

    def __init__(self) -> None:
        self.bytes: Tensor | None = None

    def take(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory without content; what was taken before is overwritten."""
        size = dtype.itemsize * math.prod(shape)
        if self.bytes is None or len(self.bytes) < size:
            self.bytes = None  # freed before the larger one is taken
            self.bytes = torch.empty(size, dtype=torch.uint8, device=device)
        return self.bytes[:size].view(dtype).view(shape)


@dataclass
class PairBlock:
    """What a backend's tile functions see: some rows against some columns."""

    spec: PairSpec
    row: Side
    col: Side
    mask: Tensor | None = None  # (n, m) bool
    # (t, n, padded m) float32 raw products, in the order of `operands`, or what else Backend.saved_dtype says: stats
    # fills it, score_grad reads it
    scores: Tensor | None = None
    factor: Tensor | None = None  # see PairCall
    again: bool = False  # score_grad of this very block follows its stats
    saved: object = None  # what a backend leaves in stats for it then
    room: Room = field(default_factory=Room)  # for its score gradients

    @property
    def both_sides(self) -> bool:
        """Whether columns have a statistic in this block, too."""
        return (self.spec.cols or self.spec.square) and self.col.on

    @property
    def operands(self) -> list[tuple[Tensor, Tensor]]:
        """What each product of a pair is of: rows (n, d) and columns (m, d)."""
        found = [(self.row.features, direction) for direction in self.col.directions]
        if self.spec.second:
            assert self.row.second is not None and self.col.second is not None
            found.append((self.row.second, self.col.second))
        return found


@dataclass
class ScoreGradients:
    """Backward of one block: grad is dL/d<a,b>; the sums are dL/dbias and dL/dscale of either side."""

    grad: Tensor  # (t, n, m) of the products, second operands last where Needs.second; compute dtype, times the factor
    row_bias: Tensor | None = None
    col_bias: Tensor | None = None
    row_scale: Tensor | None = None
    col_scale: Tensor | None = None
    second_scale: Tensor | None = None
    row_stats: SideStats | None = None  # where Needs.stats
    col_stats: SideStats | None = None


@dataclass
class Needs:
    """Which gradients are wanted."""

    a: bool
    blocks: list[bool]
    row_scale: bool = False
    col_scale: bool = False
    row_bias: bool = False
    col_bias: bool = False
    second_a: bool = False
    second_blocks: Sequence[bool] = ()
    second_scale: bool = False
    stats: bool = False  # the block's partial statistics as well: sums only, whose slopes do not depend on them

    @property
    def second(self) -> bool:
        """Whether a gradient of second operands is."""
        return self.second_a or self.second_scale or any(self.second_blocks)

    def any(self) -> bool:
        rest = (self.row_scale, self.col_scale, self.row_bias, self.col_bias, self.second)
        return self.a or any(self.blocks) or any(rest)


@dataclass
class Gradients:
    """Accumulators, float32 (float64 for float64 features); None where not wanted."""

    a: Tensor | None
    blocks: list[Tensor | None]
    row_scale: Tensor | None
    col_scale: Tensor | None
    row_bias: Tensor | None
    col_bias: Tensor | None
    second_a: Tensor | None = None
    second_blocks: list[Tensor | None] = field(default_factory=list)
    second_scale: Tensor | None = None
    fresh: bool = False  # those of features and of second operands hold nothing: the first product of each is written


@dataclass
class Weights:
    """The scalar is sum(row * rows) + sum(row_positive * row_positives) + sum(row_mean * row_means) + the same for
    columns; as a cross entropy, sum(row * softplus(rows - row_positives)) + sum(row_positive * row_positives) + the
    same. Means are those under the target; the mean of an item whose affine weights have no positive sum is its sum
    over positives."""

    row: Tensor
    row_positive: Tensor | None = None
    col: Tensor | None = None
    col_positive: Tensor | None = None
    row_mean: Tensor | None = None
    col_mean: Tensor | None = None
    cross_entropy: bool = False
    shares: bool = False  # positives count by their shares
    seen: list[Any] | None = None  # where finished statistics (driver.Statistics) are put, chunk of rows by chunk

    def given(self) -> list[Tensor | None]:
        return [self.row, self.row_positive, self.col, self.col_positive, self.row_mean, self.col_mean]

    def times(self, factor: float) -> Weights:
        names = ("row", "row_positive", "col", "col_positive", "row_mean", "col_mean")
        given = zip(names, self.given(), strict=True)
        return replace(self, **{name: x * factor for name, x in given if x is not None})  # type: ignore[arg-type]

    def of_rows(self, start: int, stop: int) -> Weights:
        """Those of some rows, without columns."""
        row, positive, mean = (
            None if x is None else x[start:stop] for x in (self.row, self.row_positive, self.row_mean)
        )
        assert row is not None
        return replace(self, row=row, row_positive=positive, row_mean=mean, col=None, col_positive=None, col_mean=None)

    def upstream(self, row: Tensor | None = None, col: Tensor | None = None) -> tuple[Upstream, Upstream | None]:
        """The weights as slopes of these statistics in parts."""
        cols = None if self.col is None else Upstream(col, self.col, self.col_positive)
        return Upstream(row, self.row, self.row_positive), cols
