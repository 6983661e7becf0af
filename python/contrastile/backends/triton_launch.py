"""A block as the Triton kernels want it: tile, grid and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..spec import NO_TEST, READERS, Needs, PairBlock, PairCall, PairSpec, PairTest, Reduce, Side
from .triton_device import copies_tensors, copyable, described, kind_of, on_device, precision, processors, tile_for
from .triton_kernel import Kernel
from .triton_merge import PartialStats

COMPARED = (*READERS, "partner", "low", "high")  # fields of Side that a kernel compares pair by pair
# tests that few pairs of a large block pass, and that few do not pass
ONES, OTHERS = PairTest.SAME_INDEX | PairTest.PARTNER, PairTest.OTHER_INDEX | PairTest.NO_PARTNER
WIDE = {"groups", "labels", "order"}  # what comes on top of ids

# arguments of calls without second operands
NO_SECOND = {"SecondA": None, "SecondB": None, "second_d": None, "SECOND_TMA": False, "SECOND_EVEN": True}


TENSORS = {"Row", "Col", "Mask"}  # arguments of a block that are, or hold, tensors


class Features(NamedTuple):
    """How features are handed over: as descriptors for the tensor copy engine, where one exists and alignment allows,
    with the shape of a tile."""

    tile: Any
    tma: bool

    def arguments(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        """a (n, d), b (m, d) or (directions, m, d)."""
        if not self.tma:
            return {"A": a, "B": b}
        rows, cols, depth = self.tile.rows, self.tile.cols, self.tile.depth
        directions = b if b.dim() == 3 else b.unsqueeze(0)
        return {"A": described(a, rows, depth), "B": described(directions, 1, cols, depth)}


class Launch:
    """One block's tile, grid and arguments, the same for both kernels."""

    def __init__(self, block: PairBlock, needs: Needs | None = None, copies: bool = True) -> None:
        """needs: of score gradients. copies: whether tiles may be copied by tensor descriptors."""
        self.block, self.device = block, block.row.features.device
        self.precision = precision(block.row.features)
        kind = kind_of(block.row.features)
        self.lean = is_lean(block)
        self.use(tile_for(self.device, kind, weight_of(block, needs is not None, needs is not None and needs.stats)))
        self.cols = block.both_sides
        self.tma = (
            copies
            and copies_tensors(self.device, kind)
            and copyable(block.row.features)
            and copyable(block.col.directions)
        )

    def use(self, tile: Any) -> None:
        self.tile = tile
        self.row_tiles = -(-len(self.block.row) // tile.rows)
        self.col_tiles = -(-len(self.block.col) // tile.cols)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def partials(self) -> list[PartialStats]:
        """What the tiles write, of rows and, where wanted, of columns."""
        row = PartialStats(self.block, "Row", self.col_tiles)
        return [row, PartialStats(self.block, "Col", self.row_tiles)] if self.cols else [row]

    def run(self, kernel: Any, more: dict[str, Any]) -> None:
        given = self.features.arguments(self.block.row.features, self.block.col.features) | arguments(self.block)
        with on_device(self.device):
            kernel[self.grid](**given, **more, **self.constants(), **self.tile.options())

    def kernel(self, kernel: Any, more: dict[str, Any]) -> Kernel:
        """The kernel for blocks like this one. more: its further arguments that are the same of all of them."""
        numbers = {name: x for name, x in arguments(self.block).items() if name not in TENSORS}
        return Kernel(kernel, self.grid, numbers | more | self.constants(), self.tile.options())

    @property
    def grid(self) -> tuple[int]:
        return (self.tile.programs(self.row_tiles * self.col_tiles, processors(self.device)),)

    @property
    def features(self) -> Features:
        return Features(self.tile, self.tma)

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
        spec, tile, b = self.block.spec, self.tile, self.block.col.directions
        return rule_constants(spec) | self.second() | {
            "b_direction": b.stride(0), "directions": len(b), "TARGET": int(spec.target), "LEAN": self.lean,
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


class Tuples(NamedTuple):
    """Types of the kernels' arguments that are tuples."""

    operands: Any
    numbers: Any
    upstream: Any
    finish: Any


@cache
def tuples() -> Tuples:
    """Looked up once: an import within a function takes a microsecond each time."""
    from ..triton_kernels.merge import Finish
    from ..triton_kernels.rules import Numbers, Operands, Upstream

    return Tuples(Operands, Numbers, Upstream, Finish)


def operands(side: Side) -> Any:
    given = {name: getattr(side, name) for name in operand_names()}
    return tuples().operands(**given, partners=None if side.partner is None else side.partner.shape[1])


def operand_names() -> list[str]:
    """The fields of Operands that are fields of Side."""
    return [name for name in tuples().operands._fields if name not in ("partners", "one_scale")]


def rule_constants(spec: PairSpec) -> dict[str, Any]:
    return {
        "REDUCE": int(spec.reduce), "KEEP": int(spec.keep), "POSITIVES": int(spec.positives),
        "KEEP_POSITIVES": spec.keep_positives, "SPLIT": spec.split, "OWN_SCALES": spec.own_scales,
    }  # fmt: skip


def upstream(row: Side, col: Side, row_on: bool, col_on: bool) -> dict[str, Any]:
    """The kernels' arguments for upstream gradients, of sides that are on."""
    from ..triton_kernels.rules import Upstream

    def given(side: Side, on: bool) -> Upstream:
        found = {name: getattr(side, name) for name in Upstream._fields if on}
        return Upstream(**{name: None if x is None else x.contiguous() for name, x in found.items()})

    return {"RowUpstream": given(row, row_on), "ColUpstream": given(col, col_on), "Nothing": Upstream()}


def outputs(found: Sequence[PartialStats]) -> dict[str, Any]:
    """The kernels' arguments for partial statistics."""
    from ..triton_kernels.rules import Numbers

    return {"RowOut": Numbers(), "ColOut": Numbers()} | {f"{x.place}Out": Numbers(**x.tensors) for x in found}


def is_lean(block: PairBlock) -> bool:
    """Whether the epilogues of triton_kernels/lean.py do the block: sums, log-sum-exps of products times a scale of the
    rows, or of distances. Their rules drop pairs of one index or of a row and its one partner alone, and sum no others;
    of distances they drop those of one index and sum all that are kept."""
    spec, row, col = block.spec, block.row, block.col
    plain = not (spec.second or spec.own_scales or spec.counts)
    if spec.biased:
        plain = plain and spec.reduce != Reduce.MAX
        # positives of partners apart would spill
        one = row.partner is None or (row.partner.shape[1] == 1 and not spec.split)
        few = one and spec.keep & ~OTHERS == 0 and spec.positives & ~(ONES | OTHERS) == 0
        few = few and (spec.positives == NO_TEST or spec.positives & ONES != 0)
    else:
        plain = plain and spec.reduce == Reduce.LSE and not spec.split
        few = spec.keep & ~PairTest.OTHER_INDEX == 0 and spec.positives in (NO_TEST, PairTest.KEPT)
    more = [block.mask, row.share, *(x for side in (row, col) for x in (side.low, side.high))]
    if spec.biased and not spec.reduce.traits.additive:
        more += [col.scale, row.bias, col.bias]
    return plain and few and all(x is None for x in more)


def takes_more(block: PairBlock) -> bool:
    """Whether positives cost a lean epilogue many registers: their own statistics, or sums of columns over partners."""
    return block.spec.split or (block.both_sides and block.spec.positives & PairTest.PARTNER != 0)


def weight_of(block: PairBlock, score_grad: bool, stats: bool) -> int:
    """Of the epilogue of `stats` or `score_grad`, which may store statistics as well: the tile's number in
    triton_kernels/config.py."""
    from ..triton_kernels import config

    spec, level, lean = block.spec, rule_level(block), is_lean(block)
    if lean and not spec.biased:
        weight = config.OF_DISTANCES + score_grad
    elif lean and not spec.reduce.traits.additive:
        weight = config.weight_of(score_grad, takes_more(block), False, lean=True)
    else:
        more = stats or spec.own_scales if score_grad else more_numbers(spec, level)
        weight = config.weight_of(score_grad, more, level > 0, spec.second)
    return int(weight)


def more_numbers(spec: PairSpec, level: int) -> bool:
    """Whether the statistics of a tile take more registers than peaks and totals of one z, for rules of this level.
    Positives of which all are kept, one an item, are apart at no cost."""
    at_no_cost = spec.positives == PairTest.SAME_INDEX and spec.keep == NO_TEST and level == 0
    return spec.counts or spec.own_scales or (spec.split and not at_no_cost)


def rule_level(x: PairBlock | PairCall) -> int:
    """What the rules cost an epilogue in registers. 0: those of indices; 1: ids, partners, limits, a mask or distances;
    2: groups, labels or an order."""
    sides = (x.row, x.col) if isinstance(x, PairBlock) else (x.rows, *x.blocks)
    given = {name for side in sides for name in COMPARED if getattr(side, name) is not None}
    if given & WIDE:
        return 2
    return int(bool(given) or x.mask is not None or not x.spec.biased)
