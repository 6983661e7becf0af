"""The scores of a call as its rows see them, a tile of rows and columns at a time: of one process, or of this rank's
rows with the columns of all ranks.

Plain torch on every backend: what is done with a tile, as torch.topk, costs a fraction of its product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backends.torch_rules import holds
from ..backends.torch_tiles import TorchBackend, kept_logits
from ..monoid import stat_dtype
from ..ranks import Ranks, sweep
from ..ranks.global_call import Part
from ..spec import NO_TEST, PairBlock, PairCall, PairTest
from . import across_ranks
from .library import build_call, no_autocast
from .record import Arguments, needs_of

COPIES = 4  # of a tile's scores at a time: products, scaled, masked


@dataclass
class Tile:
    rows: slice  # of this rank
    block: PairBlock
    positives: int  # the rule of the call's positives, which the block's scores know nothing of

    @property
    def start(self) -> int:
        """Global index of the first column."""
        return self.block.col.origin

    def logits(self) -> Tensor:
        """(n, m): z, -inf where a pair is dropped. Equal tiles have equal bits."""
        return kept_logits(self.block)

    def positive(self) -> Tensor | None:
        """(n, m) bool, kept or not; None: none by their indices."""
        row, col = self.block.row, self.block.col
        apart = row.origin >= col.origin + len(col) or col.origin >= row.origin + len(row)
        return None if apart and self.positives & PairTest.SAME_INDEX else holds(self.positives, self.block)


def tiles(call: PairCall, width: int) -> Iterator[Tile]:
    """Of all rows with all columns, by columns, then by rows. width: columns of a tile; the last ones of a block of
    columns may have fewer."""
    start, spec = 0, replace(call.spec, positives=NO_TEST)
    scores = TorchBackend().limits(call.rows.features.device).workspace // (stat_dtype(call.dtype).itemsize * COPIES)
    height = max(scores // (width * call.products), 1)
    for side in call.blocks:
        for low, high in spans(len(side), width):
            for first, last in spans(len(call.rows), height):
                mask = None if call.mask is None else call.mask[first:last, start + low : start + high]
                block = PairBlock(spec, call.rows.slice(first, last), side.slice(low, high), mask)
                yield Tile(slice(first, last), block, call.spec.positives)
        start += len(side)


def spans(size: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, size)) for start in range(0, size, width))


class Stream:
    """The columns that the rows of a call meet, as often as they are asked for. Ranks must ask equally often."""

    def __init__(self, args: Arguments, ranks: Ranks | None) -> None:
        self.args, self.ranks, self.sizes = args, ranks, [[args.n, *(x.shape[-2] for x in args.blocks)]]
        needs = needs_of(args)
        with no_autocast(args.a), torch.no_grad():
            if ranks is None:
                self.call, self.sweep = build_call(args)[0], None
            else:
                self.sizes = across_ranks.agreed(ranks, args, "pair_reduce", needs)
                joint = across_ranks.global_call(ranks, args, self.sizes)
                self.call, self.sweep = joint.own, sweep.sweep_of(joint, sweep.NONE)

    @property
    def columns(self) -> int:
        """Of all ranks."""
        return self.args.m if self.ranks is None else across_ranks.columns_of_all(self.ranks, self.sizes)

    def visit(self, see: Callable[[PairCall], None]) -> None:
        """Shows all rows with blocks of columns, in any order of these."""

        def meet(part: Part) -> list[Tensor]:
            see(part.call)
            return []

        with no_autocast(self.args.a), torch.no_grad():
            if self.sweep is None:
                see(self.call)
            else:
                self.sweep.travel(meet, statistics=False)
