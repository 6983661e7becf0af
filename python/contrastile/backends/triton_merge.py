"""What the tiles of the Triton kernels write about one side of a block, and its way to a statistic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..monoid import NUMBERS, SPLIT_NUMBERS, SideStats, uninitialised
from ..spec import PairBlock, PairTest
from .triton_device import on_device

FINISHED = (  # arguments of the kernel for finished statistics
    "Stat", "Weight", "PositiveWeight", "Slope", "PositiveSlope", "PositiveStat", "PositiveStatSlope", "Share",
)  # fmt: skip
OF_POSITIVES = ("positive", "positives", *SPLIT_NUMBERS)  # numbers that positives make up


class PartialStats:
    """Partial statistics of the rows or the columns of a block, (parts, items): each tile writes its own."""

    def __init__(self, block: PairBlock, place: str, parts: int) -> None:
        self.spec, self.place, self.parts = block.spec, place, parts
        self.side, self.other = (block.row, block.col) if place == "Row" else (block.col, block.row)
        self.shares = block.row.share is not None
        written = dict.fromkeys(block.spec.numbers, parts)
        positives = block.spec.positives
        one_tile = bool(positives & PairTest.SAME_INDEX)  # meets an item's own index
        of_positives = (1 if one_tile else parts) if positives else 0
        written |= {name: of_positives for name in OF_POSITIVES if name in written}
        self.tensors = {name: self.number(name, count) for name, count in written.items() if count}

    def number(self, name: str, parts: int) -> Tensor:
        dtype = torch.int64 if NUMBERS[name].integer else torch.float32
        return torch.empty(parts, len(self.side), dtype=dtype, device=self.side.features.device)

    def merged(self) -> SideStats:
        found = uninitialised(self.spec.numbers, len(self.side), self.side.features.device)
        self.launch(found.present())
        return found

    def finish(self, share: Tensor, cross_entropy: bool) -> None:
        """Gives the side its statistics in parts, see monoid.finish, and for a cross entropy or positives apart its
        slopes in the place of its weights; share: what the side adds to the weighted sum."""
        side, n = self.side, len(self.side)
        weighed = {"Weight": side.weight, "PositiveWeight": side.positive_weight, "Share": share}
        empty = partial(torch.empty, dtype=torch.float32, device=share.device)
        side.stat = empty(n, 2)
        if cross_entropy or self.spec.split:
            side.weight, side.positive_weight = empty(2, n)
            weighed |= {"Slope": side.weight, "PositiveSlope": side.positive_weight}
        if self.spec.split:
            side.positive_stat, side.positive_stat_weight = empty(n, 2), empty(n)
            weighed |= {"PositiveStat": side.positive_stat, "PositiveStatSlope": side.positive_stat_weight}
        self.launch({}, Stat=side.stat, **weighed)

    @property
    def programs(self) -> int:
        from ..triton_kernels.merge import ITEMS

        return int(-(-len(self.side) // ITEMS))

    def launch(self, out: dict[str, Tensor], **finished: Tensor | None) -> None:
        from ..triton_kernels import merge
        from ..triton_kernels.rules import Numbers

        given: dict[str, Any] = dict.fromkeys(FINISHED) | finished
        numbers = {
            "parts": self.parts, "count": len(self.side),
            "shift": self.side.origin - self.other.origin, "others": len(self.other),
            "POSITIVES": int(self.spec.positives), "SHARES": self.shares,
            "PARTS": merge.PARTS, "ITEMS": merge.ITEMS, "num_warps": merge.WARPS,
        }  # fmt: skip
        with on_device(self.side.features.device):
            merge.merge[(self.programs,)](From=Numbers(**self.tensors), Out=Numbers(**out), **given, **numbers)


def joined(found: Sequence[PartialStats]) -> tuple[SideStats, SideStats | None]:
    return found[0].merged(), found[1].merged() if len(found) > 1 else None


def finish(sides: Sequence[PartialStats], cross_entropy: bool) -> Tensor:
    """Finishes the statistics of the sides, which have their weights, in place; returns their weighted sum."""
    counts = [partials.programs for partials in sides]
    shares = torch.empty(sum(counts), dtype=torch.float64, device=sides[0].side.features.device)
    for partials, share in zip(sides, shares.split(counts), strict=True):
        partials.finish(share, cross_entropy)
    return shares.sum().float()
