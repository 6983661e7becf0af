"""Which pairs of a tile count: tests of pairs, their conjunctions, and the limits of either side.

Vectors that are not given are None, which Triton compiles away. Indices are local to the block; offsets are int64.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tiles import across, vector

# values equal spec.PairTest; a constexpr stands left of &, as the interpreter has integers for a kernel's constants
SAME_INDEX, OTHER_INDEX = tl.constexpr(1), tl.constexpr(2)
SAME_ID, OTHER_ID = tl.constexpr(4), tl.constexpr(8)
SAME_GROUP, OTHER_GROUP = tl.constexpr(16), tl.constexpr(32)
SHARED_LABEL, NO_SHARED_LABEL = tl.constexpr(64), tl.constexpr(128)
LOWER_ORDER, KEPT = tl.constexpr(256), tl.constexpr(512)
PARTNER, NO_PARTNER = tl.constexpr(1024), tl.constexpr(2048)
WORD = tl.constexpr(64)  # bits


class Operands(NamedTuple):
    """What a side gives beside its features, an argument of the kernels; fields as in spec.Side, None: not given.
    partners: their number per item. one_scale: given where scale is one number for all."""

    scale: Any = None
    bias: Any = None
    ids: Any = None
    groups: Any = None
    labels: Any = None
    order: Any = None
    low: Any = None
    high: Any = None
    partner: Any = None
    share: Any = None
    second_scale: Any = None
    second_bias: Any = None
    partners: Any = None
    one_scale: Any = None


class Numbers(NamedTuple):
    """Where a side's partial statistics lie, an argument of the kernels; as monoid.NUMBERS. None: not wanted."""

    peak: Any = None
    total: Any = None
    positive: Any = None
    arg: Any = None
    positive_peak: Any = None
    positive_total: Any = None
    kept_positives: Any = None
    kept: Any = None
    positives: Any = None
    target_peak: Any = None
    target_total: Any = None
    target_z: Any = None
    target_t: Any = None
    weights: Any = None
    weighted: Any = None


class Upstream(NamedTuple):
    """What slopes need of a side, an argument of the kernels; as spec.Upstream. None: absent. The first two weights are
    vectors or one number for all."""

    stat: Any = None
    weight: Any = None
    positive_weight: Any = None
    positive_stat: Any = None
    positive_stat_weight: Any = None
    target_stat: Any = None
    mean_weight: Any = None
    logit_weight: Any = None
    mean_offset: Any = None


@triton.jit
def same_index(i, j, n, m, shift, NONE: tl.constexpr = -1):
    """Row i has the global index of column i + shift, if both are in the block. NONE: what stands for no column."""
    same = i.to(tl.int64) + shift
    return tl.where((i < n) & (same >= 0) & (same < m), same, NONE).to(tl.int32)[:, None] == j[None, :]


@triton.jit
def no_pair(i, j):
    return (i != i)[:, None] & (j != j)[None, :]


@triton.jit
def equal(X, Y, i, j, n, m):
    """A side that has no numbers has none equal to any."""
    if X is None or Y is None:
        return no_pair(i, j)
    else:
        return vector(X, i, n, 1) == vector(Y, j, m, 0)


@triton.jit
def shared(X, Y, words, i, j, n, m):
    """Whether label sets, (n, words) and (m, words), meet. Unrolled, the loop would hold all words at once; it carries
    bytes because predicates would be spilled."""
    found = no_pair(i, j).to(tl.int8)
    if X is not None and Y is not None:
        for word in range(words):
            x = tl.load(X + i.to(tl.int64) * words + word, mask=i < n, other=0)
            y = tl.load(Y + j.to(tl.int64) * words + word, mask=j < m, other=0)
            found = found | ((x[:, None] & y[None, :]) != 0).to(tl.int8)
    return found != 0


@triton.jit
def of_partner(X, side, k, index, count, other):
    """Number k of each item's partners or shares."""
    return tl.load(X + index.to(tl.int64) * side.partners + k, mask=index < count, other=other)


@triton.jit
def are_partners(Row, Col, k, i, j, n, m, row_origin, col_origin, NONE: tl.constexpr = -1):
    """Which pairs are by number k of the partners: rows name columns or, with the sides swapped, columns name rows."""
    if Row.partner is not None:
        place = of_partner(Row.partner, Row, k, i, n, -1) - col_origin
        return tl.where((place >= 0) & (place < m), place, NONE).to(tl.int32)[:, None] == j[None, :]
    else:
        place = of_partner(Col.partner, Col, k, j, m, -1) - row_origin
        return tl.where((place >= 0) & (place < n), place, NONE).to(tl.int32)[None, :] == i[:, None]


@triton.jit
def share_of(Row, Col, k, i, j, n, m):
    """What positives by number k of the partners count in their sum, as it broadcasts over the tile."""
    if Row.share is not None:
        return of_partner(Row.share, Row, k, i, n, 0.0)[:, None]
    else:
        return of_partner(Col.share, Col, k, j, m, 0.0)[None, :]


@triton.jit
def partners_of(Row, Col):
    """How many an item has."""
    if Row.partner is not None:
        return Row.partners
    else:
        return Col.partners


@triton.jit
def words_of_partners(side, index, count, first):
    """For each item a bit for each of 64 items of the other side, from number `first` through all blocks on."""
    word = tl.zeros(index.shape, tl.int64)
    for k in range(side.partners):
        place = of_partner(side.partner, side, k, index, count, -1) - first
        word = word | tl.where((place >= 0) & (place < WORD), tl.full([], 1, tl.int64) << (place & (WORD - 1)), 0)
    return word


@triton.jit
def in_word(word, at, AXIS: tl.constexpr):
    """Bits `at` of words that are one number per row (axis 1) or column (axis 0); outside of the word: not set."""
    here, place = across((at >= 0) & (at < WORD), 1 - AXIS), across((at & (WORD - 1)).to(tl.int64), 1 - AXIS)
    return here & (((across(word, AXIS) >> place) & 1) != 0)


@triton.jit
def partners(
    Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr
):
    """Which pairs are partners. Numbers of partners are compared once a tile, pairs look up a bit."""
    i, j = tl.arange(0, TILE_ROWS), tl.arange(0, TILE_COLS)
    found = no_pair(i, j)
    if Row.partner is not None:
        for first in tl.static_range(0, TILE_COLS, WORD):
            word = words_of_partners(Row, first_row + i, n, col_origin.to(tl.int64) + first_col + first)
            found = found | in_word(word, j - first, 1)
    else:
        for first in tl.static_range(0, TILE_ROWS, WORD):
            word = words_of_partners(Col, first_col + j, m, row_origin.to(tl.int64) + first_row + first)
            found = found | in_word(word, i - first, 0)
    return found


@triton.jit
def facts_of(
    ASKED: tl.constexpr, Row, Col, label_words, first_row, first_col, n, m, row_origin, col_origin,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(same index, same id, same group, shared label, lower order, partner): which pairs have what the tests ask for,
    compared once for all rules. Labels come first: their loop then meets no other fact in registers."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    nothing = no_pair(i, j)
    index, id, group, label, order, partner = nothing, nothing, nothing, nothing, nothing, nothing
    if (SHARED_LABEL | NO_SHARED_LABEL) & ASKED:
        label = shared(Row.labels, Col.labels, label_words, i, j, n, m)
    if (SAME_INDEX | OTHER_INDEX) & ASKED:
        index = same_index(i, j, n, m, row_origin - col_origin)
    if (SAME_ID | OTHER_ID) & ASKED:
        id = equal(Row.ids, Col.ids, i, j, n, m)
    if (SAME_GROUP | OTHER_GROUP) & ASKED:
        group = equal(Row.groups, Col.groups, i, j, n, m)
    if LOWER_ORDER & ASKED:
        order = vector(Col.order, j, m, 0) < vector(Row.order, i, n, 1)
    if (PARTNER | NO_PARTNER) & ASKED:
        partner = partners(Row, Col, first_row, first_col, n, m, row_origin, col_origin, TILE_ROWS, TILE_COLS)
    return index, id, group, label, order, partner


@triton.jit
def narrowed(found, fact, YES: tl.constexpr, NO: tl.constexpr):
    """Those of `found` that have the fact, that do not have it, or all."""
    if YES:
        found = found & fact
    if NO:
        found = found & (fact == 0)
    return found


@triton.jit
def holds(TESTS: tl.constexpr, every, facts):
    """Those of every pair that pass all tests."""
    index, id, group, label, order, partner = facts
    found = narrowed(every, index, SAME_INDEX & TESTS, OTHER_INDEX & TESTS)
    found = narrowed(found, id, SAME_ID & TESTS, OTHER_ID & TESTS)
    found = narrowed(found, group, SAME_GROUP & TESTS, OTHER_GROUP & TESTS)
    found = narrowed(found, label, SHARED_LABEL & TESTS, NO_SHARED_LABEL & TESTS)
    found = narrowed(found, order, LOWER_ORDER & TESTS, False)
    return narrowed(found, partner, PARTNER & TESTS, NO_PARTNER & TESTS)


@triton.jit
def rules(
    Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
    KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(valid, positive, drop): inside the block, summed apart, in neither side's statistic."""
    i, j = first_row + tl.arange(0, TILE_ROWS), first_col + tl.arange(0, TILE_COLS)
    valid = (i < n)[:, None] & (j < m)[None, :]
    facts = facts_of(
        KEEP | POSITIVES, Row, Col, label_words, first_row, first_col, n, m, row_origin, col_origin,
        TILE_ROWS, TILE_COLS,
    )  # fmt: skip
    every = valid == valid
    keep = holds(KEEP, every, facts)
    if Mask is not None:
        places = i.to(tl.int64)[:, None] * mask_stride + j[None, :]
        keep = keep & (tl.load(Mask + places, mask=valid, other=0) != 0)
    if POSITIVES == 0:
        positive = no_pair(i, j)
    elif POSITIVES == KEPT:
        positive = keep
    else:
        positive = holds(POSITIVES, every, facts)
    if KEEP_POSITIVES:
        keep = keep | positive
    return valid, positive & valid, (keep == 0) | (valid == 0)


@triton.jit
def dropped(z, positive, drop, side, index, count, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr):
    """`drop` and the pairs outside this side's limits: it keeps low < z <= high, and NaN."""
    if side.low is not None or side.high is not None:
        outside = drop != drop
        if side.low is not None:
            outside = z <= vector(side.low, index, count, AXIS)
        if side.high is not None:
            outside = outside | (z > vector(side.high, index, count, AXIS))
        if KEEP_POSITIVES:
            outside = outside & (positive == 0)
        drop = drop | outside
    return drop


@triton.jit
def side_z(z, positive, drop, side, index, count, KEEP_POSITIVES: tl.constexpr, AXIS: tl.constexpr):
    """z with the pairs at -inf that this side drops."""
    return tl.where(dropped(z, positive, drop, side, index, count, KEEP_POSITIVES, AXIS), float("-inf"), z)


@triton.jit
def drop_of_positives(positive, drop):
    """What the statistic of kept positives drops, where they have one."""
    return drop | (positive == 0)


@triton.jit
def meets_diagonal(first_row, first_col, shift, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """Whether the tile may hold a pair of the same index: row i and column i + shift."""
    return (first_row + shift < first_col + TILE_COLS) & (first_col < first_row + shift + TILE_ROWS)


@triton.jit
def meets_partners(Row, first_row, first_col, n, col_origin, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """Whether a column of the tile is the partner of one of its rows, of one each."""
    place = of_partner(Row.partner, Row, 0, first_row + tl.arange(0, TILE_ROWS), n, -1) - col_origin - first_col
    return tl.max(((place >= 0) & (place < TILE_COLS)).to(tl.int32), 0) > 0
