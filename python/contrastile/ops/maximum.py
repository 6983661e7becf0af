"""reduce="max": kernels find where each maximum is, ordinary torch takes z there. Autograd needs no second sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..monoid import stat_dtype
from ..ranks import Ranks
from ..ranks.global_batch import rows_of_all_ranks
from . import across_ranks
from .record import Arguments, needs_of, packed

Place = tuple[Tensor, Tensor]  # global index, -1: none; z


class Everywhere:
    """Rows and columns by their global index, those of all ranks where there are ranks."""

    def __init__(self, args: Arguments, ranks: Ranks | None, sizes: Sequence[Sequence[int]]) -> None:
        self.args, self.ranks, self.sizes = args, ranks, sizes

    def rows(self, x: Tensor) -> Tensor:
        return self.gathered(x, 0)

    def columns(self, x: Tensor) -> Tensor:
        """Of all blocks, one after the other, each through all ranks."""
        if self.ranks is None:
            return x
        widths = [block.shape[-2] for block in self.args.blocks] or [self.args.n]
        shared = 1 if self.ranks.replicated_negatives else len(widths)
        parts = [self.gathered(part, 1 + k) if k < shared else part for k, part in enumerate(x.split(widths))]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def gathered(self, x: Tensor, place: int) -> Tensor:
        """place: of its size in what every rank said. In a square call columns are rows."""
        if self.ranks is None:
            return x
        place = 0 if self.args.square else place
        return rows_of_all_ranks(self.ranks, x, [own[place] for own in self.sizes])


def maximum(args: Arguments, ranks: Ranks | None) -> tuple[Tensor, Tensor | None]:
    """The largest z of every row and, where wanted, of every column; -inf of an item that keeps nothing."""
    (row_arg, row_peak), (col_arg, col_peak), everywhere = positions(args, ranks)
    wide = stat_dtype(args.a.dtype)
    # widened before they are gathered: a column that many rows choose adds up its gradient in float32
    left = args.a.to(args.compute).to(wide).contiguous()
    right = left if args.square else torch.cat([block.to(args.compute).to(wide).contiguous() for block in args.blocks])
    scale, col_scale, row_bias = args.scale, args.col_scale, args.row_bias
    col_bias = row_bias if args.square else args.col_bias  # a square call has one bias for both sides

    def column(x: Tensor | None) -> Tensor | None:
        return None if x is None else taken(everywhere.columns(x), row_arg)

    def row(x: Tensor | None) -> Tensor | None:
        return x if x is None or not x.dim() else taken(everywhere.rows(x), col_arg)

    rows = z_of(left, column(right), scale, column(col_scale), row_bias, column(col_bias), row_arg, row_peak)
    if not args.cols:
        return rows, None
    cols = z_of(row(left), right, row(scale), col_scale, row(row_bias), col_bias, col_arg, col_peak)
    return Together.apply(rows, cols) if ranks is not None else (rows, cols)  # type: ignore[no-untyped-call]


class Together(torch.autograd.Function):
    """The identity on both: where a rank uses one alone, the backward pass of the other still meets the other ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return rows.view_as(rows), cols.view_as(cols)

    @staticmethod
    def backward(ctx: Any, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return rows, cols


def positions(args: Arguments, ranks: Ranks | None) -> tuple[Place, Place, Everywhere]:
    """Where the largest z of every row and column is, and what it is there."""
    needs = needs_of(args)
    with torch.no_grad():
        if ranks is None:
            row, col, *_, row_arg, col_arg, _ = torch.ops.contrastile.pair_stats.default(*packed(args), 0)
            return (row_arg, row[:, 0]), (col_arg, col[:, 0]), Everywhere(args, None, ())
        sizes = across_ranks.agreed(ranks, args, "pair_reduce", needs)
        done = across_ranks.positions(ranks, args, sizes)
        assert done.row_arg is not None
        rows = done.row_arg, done.row[:, 0]
        cols = rows if done.col is None or done.col_arg is None else (done.col_arg, done.col[:, 0])
        return rows, cols, Everywhere(args, ranks, sizes)


def taken(x: Tensor, index: Tensor) -> Tensor:
    """x at the indices; where there is nothing to take from, zeros that are still a part of the graph."""
    if not x.shape[0]:
        return x.sum(0).expand(len(index), *x.shape[1:])
    return x[index.clamp_min(0)]


def z_of(
    left: Tensor | None, right: Tensor | None, scale: Tensor | None, col_scale: Tensor | None,
    row_bias: Tensor | None, col_bias: Tensor | None, found: Tensor, peak: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of z of pairs, one for each entry of `found`, with the value that the kernel has seen: it is what
    limits compare."""
    assert left is not None and right is not None and scale is not None
    z = (left * right).sum(1) * scale
    z = z if col_scale is None else z * col_scale
    for bias in (row_bias, col_bias):
        z = z if bias is None else z + bias
    rounding = torch.where(z == peak, 0.0, peak - z).detach()  # of infinities there is no difference
    return torch.where(found < 0, -torch.inf, z + rounding).to(left.dtype)
