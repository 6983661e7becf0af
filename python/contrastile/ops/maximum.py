"""reduce="max": kernels find where each maximum is, ordinary torch takes z there. Autograd needs no second sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..monoid import stat_dtype
from ..ranks import Ranks
from ..ranks.global_batch import rows_of_all_ranks
from . import across_ranks
from .record import Arguments, needs_of, packed


class Found(NamedTuple):
    """What the kernels saw."""

    row_peak: Tensor
    col_peak: Tensor
    integers: tuple[Tensor, Tensor]  # of rows and columns: the global index, -1: none; counts

    @property
    def row(self) -> tuple[Tensor, Tensor]:
        return self.integers[0][0], self.row_peak

    @property
    def col(self) -> tuple[Tensor, Tensor]:
        arg = self.integers[1][0] if len(self.integers[1]) else self.integers[0][0]
        return arg, self.col_peak


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


def maximum(args: Arguments, ranks: Ranks | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest z of every row and, where wanted, of every column; -inf of an item that keeps nothing. Then the
    integers of both, the index first."""
    found, everywhere = positions(args, ranks)
    (row_arg, row_peak), (col_arg, col_peak) = found.row, found.col
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

    own = args.own_scales
    scales = [scale, None if own else column(col_scale)]
    rows = z_of(left, column(right), scales, [row_bias, column(col_bias)], row_arg, row_peak)
    if not args.cols:
        return rows, rows.new_empty(0), *found.integers
    scales = [None if own else row(scale), col_scale]
    cols = z_of(row(left), right, scales, [row(row_bias), col_bias], col_arg, col_peak)
    both = Together.apply(rows, cols) if ranks is not None else (rows, cols)  # type: ignore[no-untyped-call]
    return *both, *found.integers


class Together(torch.autograd.Function):
    """The identity on both: where a rank uses one alone, the backward pass of the other still meets the other ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return rows.view_as(rows), cols.view_as(cols)

    @staticmethod
    def backward(ctx: Any, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return rows, cols


def positions(args: Arguments, ranks: Ranks | None) -> tuple[Found, Everywhere]:
    """Where the largest z of every row and column is, and what it is there."""
    needs = needs_of(args)
    with torch.no_grad():
        if ranks is None:
            found, sizes = torch.ops.contrastile.pair_stats.default(*packed(args), 0)[:-1], [[0]]
        else:
            sizes = across_ranks.agreed(ranks, args, "pair_reduce", needs)
            found = across_ranks.statistics(ranks, args, sizes)
        row, col, *_, row_integers, col_integers = found
        return Found(row[:, 0], col[:, 0], (row_integers, col_integers)), Everywhere(args, ranks, sizes)


def taken(x: Tensor, index: Tensor) -> Tensor:
    """x at the indices; where there is nothing to take from, zeros that are still a part of the graph."""
    if not x.shape[0]:
        return x.sum(0).expand(len(index), *x.shape[1:])
    return x[index.clamp_min(0)]


def z_of(
    left: Tensor | None, right: Tensor | None, scales: Sequence[Tensor | None], biases: Sequence[Tensor | None],
    found: Tensor, peak: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of z of pairs, one for each entry of `found`, with the value that the kernel has seen: it is what
    limits compare."""
    assert left is not None and right is not None
    z = (left * right).sum(1)
    for scale in scales:
        z = z if scale is None else z * scale
    for bias in biases:
        z = z if bias is None else z + bias
    rounding = torch.where(z == peak, 0.0, peak - z).detach()  # of infinities there is no difference
    return torch.where(found < 0, -torch.inf, z + rounding).to(left.dtype)
