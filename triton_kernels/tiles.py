"""One tile of pairs: products, scores, logits. Used by all kernels, so that they cannot disagree.

Vectors that are not given are None, which Triton compiles away. Indices are local to the block; offsets are int64.
"""

import triton
import triton.language as tl

from .functors import BIASED, GATED, score_value

NO_INDEX = tl.constexpr(2**62)
FLOOR = tl.constexpr(2.0**-20)  # spec.FLOOR of float32
GROUP = tl.constexpr(8)  # row tiles that go along the columns together, so that their features stay in the L2 cache


@triton.jit
def share(n, m, ROWS: tl.constexpr, COLS: tl.constexpr, PERSISTENT: tl.constexpr):
    """The range of tiles that is this program's. A range of one folds away; a loop costs about 80 registers."""
    first = tl.program_id(0)
    if PERSISTENT:
        return first, tl.cdiv(n, ROWS) * tl.cdiv(m, COLS), tl.num_programs(0)
    else:
        return first, first + 1, 1


@triton.jit
def place(tile, n, m, ROWS: tl.constexpr, COLS: tl.constexpr):
    """(row tile, column tile) of the tile with this number."""
    tile += 0 * tl.program_id(0)  # a number of the program: the interpreter's loops give Python's, which lack operators
    row_tiles, col_tiles = tl.cdiv(n, ROWS), tl.cdiv(m, COLS)
    first = tile // (GROUP * col_tiles) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    within = tile % (GROUP * col_tiles)
    return first + within % height, within // height


@triton.jit
def across(x, AXIS: tl.constexpr):
    """A vector over rows (axis 1) or columns (axis 0) as it broadcasts over the tile."""
    if AXIS == 1:
        return x[:, None]
    else:
        return x[None, :]


@triton.jit
def vector(X, index, count, AXIS: tl.constexpr):
    return across(tl.load(X + index, mask=index < count, other=0), AXIS)


@triton.jit
def weights_of(X, index, inside):
    """X at these indices, or X where it is one number for all; outside 0."""
    if hasattr(X, "dtype") and X.dtype.is_ptr():  # the interpreter has Python's numbers
        return tl.load(X + index, mask=inside, other=0.0)
    else:
        return tl.where(inside, X, 0.0)


@triton.jit
def finite_parts(Stat, index, inside):
    """(peak, log total) of a finished statistic, (count, 2); 0 for the one that is -inf: e^(-inf - 0) is 0."""
    peak = tl.load(Stat + 2 * index, mask=inside, other=0.0)
    log_total = tl.load(Stat + 2 * index + 1, mask=inside, other=0.0)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    return peak, tl.where(log_total == float("-inf"), 0.0, log_total)


@triton.jit
def first_maximum(z, others, AXIS: tl.constexpr):
    """(value, the first of `others`, the numbers along AXIS, with it); a NaN is the maximum."""
    peak = tl.max(tl.where(z == z, z, float("-inf")), AXIS)
    found = tl.max((z != z).to(tl.int32), AXIS) > 0
    at = tl.where(across(found, AXIS), z != z, z == across(peak, AXIS))
    return tl.where(found, float("nan"), peak), tl.min(tl.where(at, across(others, 1 - AXIS), NO_INDEX), AXIS)


@triton.jit
def product(
    A, B, b_direction, t, first_row, first_col, n, m, d,
    TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """<a_i, b_tj> of the tile in float32. Beyond the edges it holds other rows or zeros: who uses it masks them."""
    dots = tl.zeros([ROWS, COLS], tl.float32)
    if TMA:  # A and B are tensor descriptors: the copy engine fills shared memory, with zeros beyond the edges
        for done in range(0, d, DEPTH):
            x = A.load([first_row, done])
            y = B.load([t, first_col, done]).reshape(COLS, DEPTH)
            dots = tl.dot(x, y.T, dots, input_precision=PRECISION)
    else:
        k = tl.arange(0, DEPTH)
        i = tl.minimum(first_row + tl.arange(0, ROWS), n - 1)
        j = tl.minimum(first_col + tl.arange(0, COLS), m - 1)
        a = A + i.to(tl.int64)[:, None] * d + k[None, :]
        b = B + tl.full([], b_direction, tl.int64) * t + j.to(tl.int64)[None, :] * d + k[:, None]
        for done in range(0, d, DEPTH):
            if EVEN:  # d is a multiple of DEPTH
                x, y = tl.load(a), tl.load(b)
            else:
                x = tl.load(a, mask=k[None, :] < d - done, other=0.0)
                y = tl.load(b, mask=k[:, None] < d - done, other=0.0)
            dots = tl.dot(x, y, dots, input_precision=PRECISION)
            a += DEPTH
            b += DEPTH
    return dots


@triton.jit
def base_of(
    A, B, b_direction, directions, Row, Col, first_row, first_col, n, m, d,
    SCORE: tl.constexpr, OFFSET: tl.constexpr, TMA: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(x, floor): for a distance q and the value it is raised to, see spec.Score; else the product, twice."""
    if (BIASED >> SCORE) & 1:
        dots = product(
            A, B, b_direction, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, ROWS, COLS, DEPTH
        )  # fmt: skip
        return dots, dots
    else:
        norms = tl.zeros([ROWS, COLS], tl.float32)
        if Row.bias is not None:
            norms += vector(Row.bias, first_row + tl.arange(0, ROWS), n, 1)
        if Col.bias is not None:
            norms += vector(Col.bias, first_col + tl.arange(0, COLS), m, 0)
        q = norms
        if OFFSET:
            q -= 2.0 * product(
                A, B, b_direction, 0, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, ROWS, COLS, DEPTH
            )  # fmt: skip
        for t in range(OFFSET, directions):
            dots = product(
                A, B, b_direction, t, first_row, first_col, n, m, d, TMA, EVEN, PRECISION, ROWS, COLS, DEPTH
            )  # fmt: skip
            q -= dots * dots
        return q, norms * FLOOR + 1e-30


@triton.jit
def score_of(x, floor, SCORE: tl.constexpr):
    """floor: of a gated product its inverse gate."""
    if SCORE == GATED:
        return x * floor
    elif (BIASED >> SCORE) & 1:
        return x
    else:
        return score_value(tl.where(x <= floor, floor, x), SCORE)  # this order keeps NaN


@triton.jit
def scale_of(side, index, count, AXIS: tl.constexpr):
    """A side's scale as it broadcasts over the tile."""
    if side.one_scale is None:
        return vector(side.scale, index, count, AXIS)
    else:
        return tl.load(side.scale)


@triton.jit
def affine(s, Row, Col, i, j, n, m, SCORE: tl.constexpr, OWN_SCALES: tl.constexpr, AXIS: tl.constexpr):
    """z as the statistics along AXIS see it."""
    z = s
    if AXIS == 1 or not OWN_SCALES:
        if Row.scale is not None:
            z *= scale_of(Row, i, n, 1)
    if AXIS == 0 or not OWN_SCALES:
        if Col.scale is not None:
            z *= scale_of(Col, j, m, 0)
    if (BIASED >> SCORE) & 1:  # the biases of the others are inside the score
        if Row.bias is not None:
            z += vector(Row.bias, i, n, 1)
        if Col.bias is not None:
            z += vector(Col.bias, j, m, 0)
    return z


@triton.jit
def items(X, first, count, d, TMA: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr):
    """The features of ITEMS items, all WIDTH >= d of them, with zeros beyond the edges."""
    if TMA:
        return X.load([first, 0])
    else:
        i, k = first + tl.arange(0, ITEMS), tl.arange(0, WIDTH)
        inside = (i < count)[:, None] & (k < d)[None, :]
        return tl.load(X + i.to(tl.int64)[:, None] * d + k[None, :], mask=inside, other=0.0)
