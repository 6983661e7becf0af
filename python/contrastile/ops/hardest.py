"""Where the hardest columns of every row end: the largest scores, a tile of rows and columns at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..monoid import stat_dtype
from ..spec import PairCall, Side
from .arguments import Pairs, arguments
from .library import LIB, TAGS, operator
from .options import EngineOptions
from .record import SCHEMA, Arguments, packed
from .stream import Stream, tiles

ROUNDINGS = 8  # in units of |a| |b|, by how many two computations of one dot product may differ
COLUMNS = 4096  # of a block; more where each row keeps many

LIB.define(f"hardest({SCHEMA}, SymInt count) -> Tensor", tags=TAGS)


def hardest_limit(pairs: Pairs, count: int, engine: EngineOptions) -> Tensor:
    """(N,): the row_low with which each row keeps its `count` largest z and those that equal the last of them; -inf
    where there are no more. No gradient. pairs: of score "dot", without biases; keep says among which columns.

    It is the midpoint between the last that is kept and the next, or less where these are as near as two computations
    of one product.
    """
    pairs = replace(pairs, positives=None, cols=False, row_low=None, col_low=None, col_high=None)
    if pairs.own_scales:
        pairs.own_scales, pairs.col_scale = False, None
    args = arguments(pairs, engine)
    with torch.no_grad():
        if engine.ranks is None:
            limit: Tensor = torch.ops.contrastile.hardest.default(*packed(args), count)
            return limit
        stream = Stream(args, engine.ranks)
        if count >= stream.columns:
            return no_limit(args)
        found = Hardest(count, stream.call.rows)
        stream.visit(found.see)
        return found.limit()


def hardest(args: Arguments, count: int) -> Tensor:
    if count >= args.m:
        return no_limit(args)
    stream = Stream(args, None)
    found = Hardest(count, stream.call.rows)
    stream.visit(found.see)
    return found.limit()


def no_limit(args: Arguments) -> Tensor:
    return args.a.new_full((args.n,), -torch.inf, dtype=stat_dtype(args.a.dtype))


def fake_hardest(args: Arguments, count: Any) -> Tensor:
    return args.a.new_empty(args.n, dtype=stat_dtype(args.a.dtype))


hardest_operator = operator("hardest", hardest, fake_hardest)


class Hardest:
    """What the columns that were seen so far have."""

    def __init__(self, count: int, rows: Side) -> None:
        assert rows.scale is not None
        self.count, n = count, len(rows)
        self.largest = rows.scale.new_full((n, count + 1), -torch.inf)  # z of each row, in falling order
        self.rounding = rows.scale.new_zeros(n)  # by how much a z may be off

    def see(self, call: PairCall) -> None:
        for tile in tiles(call, max(COLUMNS, 4 * self.count)):
            z = tile.logits()
            both = torch.cat([self.largest[tile.rows], z.topk(min(self.count + 1, z.shape[1])).values], 1)
            self.largest[tile.rows] = both.topk(self.count + 1).values
        for side in call.blocks:
            if len(side):
                self.rounding = torch.maximum(self.rounding, rounding(call.rows, side))

    def limit(self) -> Tensor:
        last, following = self.largest[:, -2:].unbind(1)
        below = self.rounding.clamp_min(torch.finfo(last.dtype).tiny)  # rows of zeros have no rounding
        return torch.minimum(0.5 * (last + following), last - below)


def rounding(rows: Side, side: Side) -> Tensor:
    assert rows.scale is not None
    kind = rows.scale.dtype
    longest = torch.linalg.vector_norm(side.features, dim=1, dtype=kind).amax()
    length = torch.linalg.vector_norm(rows.features, dim=1, dtype=kind)
    found: Tensor = rows.scale.abs() * length * longest * (ROUNDINGS * torch.finfo(kind).eps)
    return found
