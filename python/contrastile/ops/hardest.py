"""Where the hardest columns of every row end: the largest scores, a block of rows and columns at a time.

Plain torch on every backend: torch.topk of a block costs a fraction of its product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..backends.torch_tiles import TorchBackend, kept_logits
from ..monoid import stat_dtype
from ..ranks import sweep
from ..spec import PairBlock, PairCall, Side
from . import across_ranks
from .arguments import Pairs, arguments
from .library import LIB, TAGS, build_call, no_autocast, operator
from .options import EngineOptions
from .record import SCHEMA, Arguments, needs_of, packed

ROUNDINGS = 8  # in units of |a| |b|, by how many two computations of one dot product may differ
COLUMNS = 4096  # of a block; more where each row keeps many
COPIES = 4  # of a block's scores at a time: products, scaled, masked

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
        sizes = across_ranks.agreed(engine.ranks, args, "pair_reduce", needs_of(args))
        if count >= across_ranks.columns_of_all(engine.ranks, sizes):
            return no_limit(args)
        with no_autocast(args.a):
            call = across_ranks.global_call(engine.ranks, args, sizes)
            found = Hardest(count, call.own.rows)
            sweep.visit(call, found.see)
            return found.limit()


def hardest(args: Arguments, count: int) -> Tensor:
    if count >= args.m:
        return no_limit(args)
    with no_autocast(args.a):
        call, _ = build_call(args)
        found = Hardest(count, call.rows)
        found.see(call)
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
        width, start = max(COLUMNS, 4 * self.count), 0
        scores = TorchBackend().limits(self.largest.device).workspace // (self.largest.dtype.itemsize * COPIES)
        for side in call.blocks:
            for low, high in spans(len(side), width):
                for first, last in spans(len(call.rows), max(scores // width, 1)):
                    mask = None if call.mask is None else call.mask[first:last, start + low : start + high]
                    block = PairBlock(call.spec, call.rows.slice(first, last), side.slice(low, high), mask)
                    found = kept_logits(block).topk(min(self.count + 1, high - low)).values
                    both = torch.cat([self.largest[first:last], found], 1)
                    self.largest[first:last] = both.topk(self.count + 1).values
            if len(side):
                self.rounding = torch.maximum(self.rounding, rounding(call.rows, side))
            start += len(side)

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


def spans(size: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, size)) for start in range(0, size, width))
