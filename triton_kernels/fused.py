"""The fused kernel of the gradients, for features so short that a tile of their gradient stays in registers.

A program owns a tile of rows, walks tiles of columns and adds G B to the rows' gradient while G is in registers, so
that no score gradient reaches memory. It serves the rows alone: gradients of the columns come from a second launch with
the sides swapped, which computes scores and score gradients again. The programs of one row tile (grid axis 1) share out
the columns; each has partial results of its own, which the caller adds up in a fixed order.
"""

import triton
import triton.language as tl

from .functors import DOT
from .rules import rules
from .second import slopes_of_each
from .slopes import through_scales
from .tiles import affine, items


@triton.jit(do_not_specialize=["n", "m", "row_origin", "col_origin"])
def fused(
    A, B, n, m, d, row_origin, col_origin, Row, Col, label_words, Mask, mask_stride,
    RowUpstream, ColUpstream, Nothing, Factor, RowGrad, RowBiasGrad, RowScaleGrad,
    REDUCE: tl.constexpr, KEEP: tl.constexpr, POSITIVES: tl.constexpr, KEEP_POSITIVES: tl.constexpr,
    SPLIT: tl.constexpr, OWN_SCALES: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A, B: contiguous (n, d) and (m, d), or descriptors of them. RowGrad (parts, n, d), RowBiasGrad,
    RowScaleGrad (parts, n), float32. A side without weights has no statistic; None: not given, not wanted."""
    first_row, part = tl.program_id(0) * TILE_ROWS, tl.program_id(1)
    i, k = first_row + tl.arange(0, TILE_ROWS), tl.arange(0, WIDTH)
    a = items(A, first_row, n, d, TMA, TILE_ROWS, WIDTH)
    gradient = tl.zeros([TILE_ROWS, WIDTH], tl.float32)
    of_bias, of_scale = tl.zeros([TILE_ROWS], tl.float32), tl.zeros([TILE_ROWS], tl.float32)
    share = tl.cdiv(m, TILE_COLS * tl.num_programs(1)) * TILE_COLS
    for first_col in range(part * share, tl.minimum(m, (part + 1) * share), TILE_COLS):
        j = first_col + tl.arange(0, TILE_COLS)
        b = items(B, first_col, m, d, TMA, TILE_COLS, WIDTH)
        s = tl.dot(a, b.T, input_precision=PRECISION)
        z = affine(s, Row, Col, i, j, n, m, DOT, OWN_SCALES, 1)
        col_z = affine(s, Row, Col, i, j, n, m, DOT, OWN_SCALES, 0) if OWN_SCALES else z
        valid, positive, drop = rules(
            Row, Col, label_words, Mask, mask_stride, first_row, first_col, n, m, row_origin, col_origin,
            KEEP, POSITIVES, KEEP_POSITIVES, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        g, of_cols, _ = slopes_of_each(
            z, col_z, z, valid, positive, drop, Row, Col, RowUpstream, ColUpstream, Nothing,
            first_row, first_col, n, m, row_origin, col_origin,
            REDUCE, POSITIVES, KEEP_POSITIVES, SPLIT, OWN_SCALES, 0, TILE_ROWS, TILE_COLS,
        )  # fmt: skip
        score_gradient, bias, by_col, _ = through_scales(g, of_cols, Row, Col, i, j, n, m, OWN_SCALES)
        if RowBiasGrad is not None:
            of_bias += tl.sum(bias, 1)
        if RowScaleGrad is not None:
            of_scale += tl.sum(by_col * s, 1)
        if Factor is not None:  # a power of two, against underflow
            score_gradient *= tl.load(Factor)
        gradient = tl.dot(score_gradient.to(b.dtype), b, gradient, input_precision=PRECISION)

    out, inside = part.to(tl.int64) * n + i, i < n
    if RowBiasGrad is not None:
        tl.store(RowBiasGrad + out, of_bias, mask=inside)
    if RowScaleGrad is not None:
        tl.store(RowScaleGrad + out, of_scale, mask=inside)
    if RowGrad is not None:
        tl.store(RowGrad + out[:, None] * d + k[None, :], gradient, mask=inside[:, None] & (k < d)[None, :])
