"""What the kernels of a small call are handed: its tensors and places in memory, or code in their stead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..spec import READERS, PairBlock, PairSpec, Side
from .base import WEIGHTS, SmallWeights
from .triton_launch import operand_names, tuples
from .triton_script import Code


class Setting(NamedTuple):
    """What a kind of call is, but for sizes and types."""

    spec: PairSpec
    cross_entropy: bool
    one_scale: bool  # for all rows
    partners: int | None  # of a row
    missing: tuple[str, ...]  # what columns do not have that rows have
    needs: tuple[bool, ...]
    names: tuple[str, ...]  # as SmallLoss.names
    weighed: tuple[bool, ...]  # which of the weights there are

    @classmethod
    def of(cls, args: Any, weights: SmallWeights, needs: Sequence[bool], names: tuple[str, ...]) -> Setting:
        partners = None if args.partner is None else args.partner.shape[1]
        missing = tuple(name for name in ("ids", "groups", "labels") if getattr(args, f"without_{name}"))
        there = tuple(x is not None for x in weights)
        return cls(args.spec, args.cross_entropy, args.scale.dim() == 0, partners, missing, tuple(needs), names, there)

    def given(self, values: Sequence[Any], numbers: Sequence[Any]) -> Given:
        """values: of the names, tensors or code. numbers: weights that are no tensors."""
        operands, x = tuples().operands, dict(zip(self.names, values, strict=True))
        of_row: dict[str, Any] = {name: x.get(f"row_{name}") for name in (*READERS, "bias", "low", "high")}
        row = operands(
            scale=x["scale"], one_scale=1 if self.one_scale else None, partner=x.get("partner"),
            partners=self.partners, share=x.get("share"), **of_row,
        )  # fmt: skip
        if self.spec.square:  # the rows' scale already multiplies the score; as columns they bring the rest
            col = row._replace(scale=None, one_scale=None)
        else:
            own = {name: x.get(f"col_{name}", of_row[name]) for name in READERS if name not in self.missing}
            col = operands(**own, **{name: x.get(f"col_{name}") for name in ("scale", "bias", "low", "high")})
        weights = [x.get(name, number) for name, number in zip(WEIGHTS, numbers, strict=True)]
        return Given(x["a"], x.get("blocks", x["a"]), row, col, x.get("mask"), weights)


class Given(NamedTuple):
    """A call's tensors as the kernels take them, or code in their places."""

    a: Any  # (n, d)
    b: Any  # (m, d) or (directions, m, d)
    row: Any  # triton_kernels.rules.Operands
    col: Any
    mask: Any
    weights: list[Any]  # of rows, of their sums over positives, of columns and of theirs: vectors, numbers, None

    def block(self, spec: PairSpec) -> PairBlock:
        """With scale as it is given."""
        row, col = (
            Side(x, on=on, **{name: getattr(given, name) for name in operand_names()})
            for x, given, on in ((self.a, self.row, True), (self.b, self.col, spec.cols))
        )
        return PairBlock(spec, row, col, None if self.mask is None else self.mask.view(torch.bool))


class Room:
    """Memory for many vectors in one piece, which costs less than piece by piece. Each begins at a multiple of 16
    bytes."""

    def __init__(self) -> None:
        self.size = 0
        self.offsets: dict[tuple[str, str], int] = {}
        self.types: dict[tuple[str, str], tuple[int, torch.dtype]] = {}

    def add(self, place: str, name: str, size: int, dtype: torch.dtype) -> None:
        self.offsets[place, name], self.types[place, name] = self.size, (size, dtype)
        self.size += -(-size * dtype.itemsize // 16) * 16

    def vectors(self, memory: Tensor) -> dict[tuple[str, str], Tensor]:
        parts = {at: memory[(start := self.offsets[at]) : start + n * t.itemsize] for at, (n, t) in self.types.items()}
        return {at: x.view(self.types[at][1]) for at, x in parts.items()}

    def code(self, start: int) -> dict[tuple[str, str], Code]:
        """Their addresses, where memory begins this many bytes before them."""
        return {at: Code(f"memory + {start + offset}") for at, offset in self.offsets.items()}
