"""One pair reduction of all ranks: this rank's rows against the columns of every rank.

A part is a call of the driver on this rank's rows and the columns of one rank, or of all at once. In a square call
(b is a) every pair of ranks is met once: by the one that comes first within half a turn, or half by each of them where
they lie exactly half a turn apart. So the work of all ranks is equal, half that of a rectangular call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backends.base import Backend
from ..driver.weights import attached, with_upstream
from ..spec import Needs, PairCall, Side, Upstream
from .group import Ranks

Span = tuple[int, int]


@dataclass
class Part:
    """Some rows of this rank against columns of `owner` (None: of all ranks); the first `shared` blocks travelled."""

    owner: int | None
    call: PairCall
    needs: Needs
    rows: Span
    cols: Span  # within the owner's columns
    width: int  # columns of the owner
    shared: int
    buffer: Tensor | None = None  # scores saved from statistics to gradients


@dataclass
class GlobalCall:
    own: PairCall  # this rank's rows and its own columns; its mask has the columns of all ranks
    backend: Backend
    ranks: Ranks
    blocks: list[list[int]]  # columns of every rank, for each block of columns that ranks share
    local: list[Side]  # replicated columns

    @property
    def square(self) -> bool:
        return self.own.spec.square

    @property
    def columns(self) -> list[int]:
        """Shared columns of every rank."""
        return [sum(sizes) for sizes in zip(*self.blocks, strict=True)]

    def owners(self) -> list[int]:
        """Ranks whose columns this one meets, in the order of a ring."""
        rank, size = self.ranks.rank, self.ranks.size
        return [(rank - step) % size for step in range(size // 2 + 1 if self.square else size)]

    def spans(self, owner: int | None) -> list[Span]:
        """(origin, rows) of a rank's blocks (None: of all ranks' in their order). Origins count block by block through
        all ranks."""
        if owner is None:
            if len(self.blocks) == 1:
                return [(0, sum(self.blocks[0]))]
            return [span for rank in range(self.ranks.size) for span in self.spans(rank)]
        found, start = [], 0
        for sizes in self.blocks:
            found.append((start + sum(sizes[:owner]), sizes[owner]))
            start += sum(sizes)
        return found

    def part(self, owner: int | None, sides: list[Side], needs: Needs) -> Part:
        n, m = len(self.own.rows), sum(map(len, sides))
        spec, here = self.own.spec, owner in (None, self.ranks.rank)
        if self.square and here:
            return Part(owner, PairCall(spec, self.own.rows, sides), needs, (0, n), (0, m), m, 1)
        if self.square:
            rows, cols = self.half(owner, n, m)
            call = PairCall(
                replace(spec, square=False, cols=True),
                self.own.rows.slice(*rows),
                [replace(sides[0].slice(*cols), on=True)],
            )
            return Part(owner, call, replace(needs, blocks=[needs.a]), rows, cols, m, 1)
        extra, kinds = self.local if here else [], len(self.blocks)

        def flags(own: Sequence[bool]) -> list[bool]:
            return list(own[:kinds]) * (len(sides) // kinds) + list(own[kinds:][: len(extra)])

        call = PairCall(spec, self.own.rows, [*sides, *extra], self.mask([*sides, *extra]))
        needs = replace(needs, blocks=flags(needs.blocks), second_blocks=flags(needs.second_blocks))
        return Part(owner, call, needs, (0, n), (0, m), m, len(sides))

    def mask(self, sides: Sequence[Side]) -> Tensor | None:
        """The mask of these columns, side by side."""
        mask = self.own.mask
        if mask is None:
            return None
        return torch.cat([mask[:, side.origin : side.origin + len(side)] for side in sides], 1)

    def half(self, owner: int | None, n: int, m: int) -> tuple[Span, Span]:
        """Which rows meet which columns of another rank in a square call."""
        rank, size = self.ranks.rank, self.ranks.size
        if owner is None or 2 * ((rank - owner) % size) != size:
            return (0, n), (0, m)
        return ((0, n // 2), (0, m)) if rank < owner else ((0, n), (m // 2, m))


def global_call_of(call: PairCall, backend: Backend, ranks: Ranks, sizes: Sequence[Sequence[int]]) -> GlobalCall:
    """sizes: of every rank, its rows and its columns block by block."""
    rank, rows = ranks.rank, [own[0] for own in sizes]
    shared = 1 if ranks.replicated_negatives else len(call.blocks)
    blocks = [rows] if call.spec.square else [[own[1 + k] for own in sizes] for k in range(shared)]
    call = PairCall(call.spec, replace(call.rows, origin=sum(rows[:rank])), call.blocks, call.mask)
    made = GlobalCall(call, backend, ranks, blocks, [])
    start = sum(map(sum, blocks))
    for side in call.blocks[len(blocks) :]:
        made.local.append(replace(side, origin=start))
        start += len(side)
    own = made.spans(rank)
    call.blocks = [replace(side, origin=origin) for side, (origin, _) in zip(call.blocks, own, strict=False)]
    return made


def attach(call: GlobalCall, row: Upstream, col: Upstream | None) -> None:
    """Gives rows, and own and replicated columns that have statistics, what belongs to them."""
    own = call.own
    own.rows = with_upstream(own.rows, row)
    if call.square:
        own.blocks = [with_upstream(own.blocks[0], row)]
    elif col is not None:
        sides, count = attached([*own.blocks, *call.local], col), len(own.blocks)
        own.blocks, call.local = sides[:count], sides[count:]
