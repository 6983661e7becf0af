"""The `cpu` backend: C++ tiles with the epilogue fused into the product, so scores stay in the first-level cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import Limits, Needs, PairBlock, ScoreGradients
from . import native
from .base import CPU_LIMITS, Backend, Bases, SmallExtras, SmallLoss, SmallWeights
from .cpu_basis import cpu_bases
from .cpu_small import fits, small_loss
from .native_block import (
    BFLOAT16,
    describe,
    dtype_code,
    new_stats,
    score_gradients,
    set_grad,
    set_weighted_sides,
    threads_for,
)

CPU = torch.device("cpu")


@dataclass
class PackedColumns:
    """Panels of columns, one row per panel of `width` columns."""

    panels: Tensor  # (directions, panels, bytes of one panel) uint8
    width: int

    def at(self, start: int) -> PackedColumns:
        return PackedColumns(self.panels[:, start // self.width :], self.width)


class CpuBackend(Backend):
    name = "cpu"
    saves_scores = True

    def __init__(self) -> None:
        self.module: Any = native.cpu
        self.padding = self.granularity = self.module.column_padding() if self.module else 1
        self.native_bf16 = bool(self.module and self.module.native_bf16())

    def unavailable(self) -> str | None:
        if self.module is None:
            return f"the compiled module is not installed ({native.import_errors['_cpu']})"
        return None

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"features are on {device}, it needs cpu"
        if dtype == torch.float64:
            return "it computes in float32; float64 features need the torch backend"
        return None

    def limits(self, device: torch.device) -> Limits:
        return CPU_LIMITS

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return torch.bfloat16 if dtype == torch.bfloat16 and self.native_bf16 else torch.float32

    def prepare(self, features: Tensor) -> PackedColumns:
        directions = features if features.dim() == 3 else features.unsqueeze(0)
        (count, m, d), code, width = directions.shape, dtype_code(features), self.padding
        size = self.module.packed_bytes(width, d, code)
        out = torch.empty(count, -(-m // width), size, dtype=torch.uint8, device="cpu")
        for direction, panels in zip(directions, out, strict=True):
            self.module.pack(direction.data_ptr(), m, d, code, panels.data_ptr(), threads_for(m * d * 64))
        return PackedColumns(out, width)

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        if x.dtype == torch.float32:
            out.addmm_(x, y)
            return
        (p, q), d = x.shape, y.shape[1]
        self.module.gemm(
            x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), y.stride(1), y.stride(0),
            out.data_ptr(), out.stride(0), p, d, q, BFLOAT16, threads_for(p * q * d),
        )  # fmt: skip

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        native_block = self.native_block(block)
        row, native_block.row = new_stats(self.module, block, block.row)
        col = None
        if block.both_sides:
            col, native_block.col = new_stats(self.module, block, block.col)
        self.module.stats(native_block)
        return row, col

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        native_block = self.native_block(block)
        n, width = len(block.row), -(-len(block.col) // self.padding) * self.padding
        planes, dtype = len(block.col.directions) + needs.second, block.row.features.dtype
        grad = block.room.take(planes, n, width, dtype=dtype, device=CPU)
        set_grad(native_block, grad)
        result = score_gradients(block, needs, grad)
        set_weighted_sides(self.module, native_block, block, result)
        self.module.score_grad(native_block)
        return result

    def small_loss(
        self, args: Any, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
    ) -> SmallLoss | None:
        if not fits(args, weights, extras):
            return None
        kind = self.compute_dtype(args.compute, CPU)
        return partial(small_loss, self.module, args, kind, weights, needs, extras)

    def bases(self, vectors: Sequence[Tensor]) -> Bases | None:
        return cpu_bases(self.module, vectors)

    def native_block(self, block: PairBlock) -> Any:
        """The C++ view of a block; the tensors behind its pointers are owned by `block`."""
        assert isinstance(block.col.prepared, PackedColumns)
        columns = block.col.prepared.panels
        x = describe(self.module, block)
        x.a, x.b, x.b_direction = block.row.features.data_ptr(), columns.data_ptr(), columns.stride(0)
        x.d = block.row.features.shape[1]
        x.dtype = dtype_code(block.row.features)
        x.threads = threads_for(x.n * x.m * max(x.d, 16))
        return x
