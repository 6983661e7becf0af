"""Scores of pairs that were found, with their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..monoid import stat_dtype
from ..ops import Pairs, Stream, gathered_dots
from ..ops.maximum import Everywhere
from ..spec import FLOOR


def differentiable(pairs: Pairs, stream: Stream, index: Tensor, seen: Tensor) -> Tensor:
    """`seen`, the z of row i with column index_ik, (N, k), with the gradient of its formula; index -1 has none.

    Columns that many rows found add up their gradients in a fixed order. Ranks that want a gradient gather the columns
    of all.
    """
    args = stream.args
    everywhere = Everywhere(args, stream.ranks, stream.sizes)
    wide = stat_dtype(args.a.dtype)
    rows, there = args.a.to(args.compute).to(wide), index.clamp_min(0)

    def column(x: Tensor | None) -> Tensor:
        """Numbers of columns at the index."""
        if x is None:
            return seen.new_zeros(())
        every = everywhere.columns(x)
        return every[there] if len(every) else every.sum().expand_as(seen)

    blocks = [block.to(args.compute) for block in args.blocks]
    tiles = zip(*(block if block.dim() == 3 else [block] for block in blocks), strict=True)
    z = [gathered_dots(rows, everywhere.columns(torch.cat(tile)), index) for tile in tiles]
    bias, scale = column(args.col_bias), args.scale if args.scale.dim() == 0 else args.scale.unsqueeze(1)
    if pairs.score == "dot":
        score = z[0] * scale + bias
    else:
        assert args.row_bias is not None
        score = distance(z, args.row_bias.unsqueeze(1) + bias, pairs.offset)
        score = (score.sqrt() if pairs.score == "distance" else score) * scale * column(args.col_scale)
    missing = torch.where(score == seen, 0.0, seen - score).detach()  # of infinities there is no difference
    return torch.where(index < 0, seen, score + missing).to(seen.dtype)


def distance(dots: list[Tensor], norms: Tensor, offset: bool) -> Tensor:
    """The squared distance of a row from the flat of a column, see spec.Score."""
    q = norms - 2.0 * dots[0] if offset else norms
    for dot in dots[offset:]:
        q = q - dot.square()
    floor = (norms * FLOOR[dots[0].dtype] + 1e-30).detach()
    return torch.where(q <= floor, floor, q)
