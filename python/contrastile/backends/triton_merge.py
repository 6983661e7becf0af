"""What the tiles of the Triton kernels write about one side of a block, and its way to a statistic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..monoid import NUMBERS, SPLIT_NUMBERS, SideStats, uninitialised
from ..spec import PairBlock, PairSpec, PairTest
from .triton_device import on_device

OF_POSITIVES = ("positive", "positives", *SPLIT_NUMBERS)  # numbers that positives make up


class PartialStats:
    """Partial statistics of the rows or the columns of a block, (parts, items): each tile writes its own."""

    def __init__(self, block: PairBlock, place: str, parts: int) -> None:
        self.spec, self.place, self.parts = block.spec, place, parts
        self.side, self.other = (block.row, block.col) if place == "Row" else (block.col, block.row)
        self.tensors = {name: self.number(name, count) for name, count in parts_of(block.spec, parts).items()}

    def number(self, name: str, parts: int) -> Tensor:
        return torch.empty(parts, len(self.side), dtype=number_dtype(name), device=self.side.features.device)

    def merged(self) -> SideStats:
        found = uninitialised(self.spec.numbers, len(self.side), self.side.features.device)
        self.launch(found.present())
        return found

    def launch(self, out: dict[str, Tensor]) -> None:
        from ..triton_kernels import merge
        from ..triton_kernels.rules import Numbers

        numbers = {
            "parts": self.parts, "count": len(self.side),
            "shift": self.side.origin - self.other.origin, "others": len(self.other),
            "POSITIVES": int(self.spec.positives), "PARTS": merge.PARTS, "ITEMS": merge.ITEMS,
        }  # fmt: skip
        programs = -(-len(self.side) // merge.ITEMS)
        with on_device(self.side.features.device):
            merge.merge[(programs,)](
                From=Numbers(**self.tensors), Out=Numbers(**out), **numbers, num_warps=merge.WARPS
            )  # fmt: skip


def number_dtype(name: str) -> torch.dtype:
    return torch.int64 if NUMBERS[name].integer else torch.float32


def parts_of(spec: PairSpec, parts: int) -> dict[str, int]:
    """How many partial results each number of a side has: one for each tile, of positives at the item's own index,
    which one tile meets, a single one."""
    of_positives = (1 if spec.positives & PairTest.SAME_INDEX else parts) if spec.positives else 0
    found = {name: of_positives if name in OF_POSITIVES else parts for name in spec.numbers}
    return {name: count for name, count in found.items() if count}


def joined(found: Sequence[PartialStats]) -> tuple[SideStats, SideStats | None]:
    return found[0].merged(), found[1].merged() if len(found) > 1 else None
