"""A block as the Triton kernels want it: tile, grid and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import NO_TEST, READERS, Needs, PairBlock, PairCall, PairSpec, PairTest, Side
from .triton_device import copies_tensors, copyable, described, kind_of, on_device, precision, processors, tile_for
from .triton_merge import PartialStats

COMPARED = (*READERS, "partner", "low", "high")  # fields of Side that a kernel compares pair by pair
WIDE = {"groups", "labels", "order"}  # what comes on top of ids

# arguments of calls without second operands
NO_SECOND = {"SecondA": None, "SecondB": None, "second_d": None, "SECOND_TMA": False, "SECOND_EVEN": True}


class Launch:
    """One block's tile, grid and arguments, the same for both kernels."""

    def __init__(self, block: PairBlock, needs: Needs | None = None) -> None:
        self.block, self.device = block, block.row.features.device
        self.precision = precision(block.row.features)
        kind = kind_of(block.row.features)
        level = rule_level(block)
        more = more_numbers(block.spec, level) if needs is None else needs.stats
        self.tile = tile_for(self.device, kind, needs is not None, more, level > 0, block.spec.second)
        self.row_tiles = -(-len(block.row) // self.tile.rows)
        self.col_tiles = -(-len(block.col) // self.tile.cols)
        self.cols = block.both_sides
        self.tma = copies_tensors(self.device, kind) and copyable(block.row.features) and copyable(block.col.directions)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def partials(self) -> list[PartialStats]:
        """What the tiles write, of rows and, where wanted, of columns."""
        row = PartialStats(self.block, "Row", self.col_tiles)
        return [row, PartialStats(self.block, "Col", self.row_tiles)] if self.cols else [row]

    def run(self, kernel: Any, more: dict[str, Any]) -> None:
        grid = (self.tile.programs(self.row_tiles * self.col_tiles, processors(self.device)),)
        with on_device(self.device):
            kernel[grid](**self.operands(), **arguments(self.block), **more, **self.constants(), **self.tile.options())

    def operands(self) -> dict[str, Any]:
        """A and B (directions, m, d): descriptors for the tensor copy engine where one exists and alignment allows."""
        a, b, tile = self.block.row.features, self.block.col.directions, self.tile
        shape = {"b_direction": b.stride(0), "directions": len(b)}
        if not self.tma:
            return {"A": a, "B": b} | shape
        return {"A": described(a, tile.rows, tile.depth), "B": described(b, 1, tile.cols, tile.depth)} | shape

    def second(self) -> dict[str, Any]:
        """The second operands, the last product of a pair; None: there are none."""
        if not self.block.spec.second:
            return NO_SECOND
        (a, b), tile = self.block.operands[-1], self.tile
        tma = copies_tensors(self.device, kind_of(a)) and copyable(a) and copyable(b)
        shape = {"second_d": a.shape[1], "SECOND_TMA": tma, "SECOND_EVEN": a.shape[1] % tile.depth == 0}
        if not tma:
            return {"SecondA": a, "SecondB": b} | shape
        col = described(b.unsqueeze(0), 1, tile.cols, tile.depth)
        return {"SecondA": described(a, tile.rows, tile.depth), "SecondB": col} | shape

    def constants(self) -> dict[str, Any]:
        spec, tile = self.block.spec, self.tile
        return rule_constants(spec) | self.second() | {
            "TARGET": int(spec.target),
            "SCORE": int(spec.score), "OFFSET": int(spec.offset), "COLS": self.cols, "PRECISION": self.precision,
            "TMA": self.tma, "EVEN": self.block.row.features.shape[1] % tile.depth == 0,
            "PERSISTENT": tile.per_processor > 0,
            "TILE_ROWS": tile.rows, "TILE_COLS": tile.cols, "DEPTH": tile.depth,
        }  # fmt: skip


def arguments(block: PairBlock) -> dict[str, Any]:
    """What all kernels take of a block, but for its features."""
    row, col, mask = block.row, block.col, block.mask
    return {
        "n": len(row), "m": len(col), "d": row.features.shape[1],
        "row_origin": row.origin, "col_origin": col.origin, "Row": operands(row), "Col": operands(col),
        "label_words": 0 if row.labels is None else row.labels.shape[1],
        "Mask": None if mask is None else mask.view(torch.uint8),
        "mask_stride": 0 if mask is None else mask.stride(0),
    }  # fmt: skip


def operands(side: Side) -> Any:
    from ..triton_kernels.rules import Operands

    given = {name: getattr(side, name) for name in Operands._fields if name != "partners"}
    return Operands(**given, partners=None if side.partner is None else side.partner.shape[1])


def rule_constants(spec: PairSpec) -> dict[str, Any]:
    return {
        "REDUCE": int(spec.reduce), "KEEP": int(spec.keep), "POSITIVES": int(spec.positives),
        "KEEP_POSITIVES": spec.keep_positives, "SPLIT": spec.split,
    }  # fmt: skip


def upstream(row: Side, col: Side, row_on: bool, col_on: bool) -> dict[str, Any]:
    """The kernels' arguments for upstream gradients, of sides that are on."""
    from ..triton_kernels.rules import Upstream

    def given(side: Side, on: bool) -> Upstream:
        found = {name: getattr(side, name) for name in Upstream._fields if on}
        return Upstream(**{name: None if x is None else x.contiguous() for name, x in found.items()})

    return {"RowUpstream": given(row, row_on), "ColUpstream": given(col, col_on)}


def outputs(found: Sequence[PartialStats]) -> dict[str, Any]:
    """The kernels' arguments for partial statistics."""
    from ..triton_kernels.rules import Numbers

    return {"RowOut": Numbers(), "ColOut": Numbers()} | {f"{x.place}Out": Numbers(**x.tensors) for x in found}


def more_numbers(spec: PairSpec, level: int) -> bool:
    """Whether the statistics of a tile take more registers than peaks and totals, for rules of this level. Positives of
    which all are kept, one an item, are apart at no cost."""
    at_no_cost = spec.positives == PairTest.SAME_INDEX and spec.keep == NO_TEST and level == 0
    return spec.counts or (spec.split and not at_no_cost)


def rule_level(x: PairBlock | PairCall) -> int:
    """What the rules cost an epilogue in registers. 0: those of indices; 1: ids, partners, limits, a mask or distances;
    2: groups, labels or an order."""
    sides = (x.row, x.col) if isinstance(x, PairBlock) else (x.rows, *x.blocks)
    given = {name for side in sides for name in COMPARED if getattr(side, name) is not None}
    if given & WIDE:
        return 2
    return int(bool(given) or x.mask is not None or not x.spec.biased)
