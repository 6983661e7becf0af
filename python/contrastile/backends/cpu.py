"""The `cpu` backend: C++ tiles with the epilogue fused into the product, so scores stay in the first-level cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import Limits, Needs, PairBlock, ScoreGradients
from . import native
from .base import CPU_LIMITS, Backend, Bases, SmallExtras, SmallLoss, SmallStats, SmallWeights
from .cpu_basis import cpu_bases
from .cpu_segments import CpuSegments
from .cpu_small import SmallCall, fits, loss_fits
from .cpu_small_stats import small_stats
from .native_block import (
    describe,
    dtype_code,
    new_stats,
    score_gradients,
    set_grad,
    set_weighted_sides,
    threads_for,
)

CPU = torch.device("cpu")
# Where a float32 product with at least so many columns takes our kernel no longer than torch: measured on these
# instruction sets. Torch splits a product into one part per thread, and waits for a thread whose core is taken.
FEWEST_COLUMNS = 128
FAST_PRODUCTS = ("avx2", "avx512", "avx512bf16")


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
    takes_second = True

    def __init__(self) -> None:
        self.module: Any = native.cpu
        self.padding = self.granularity = self.module.column_padding() if self.module else 1
        self.most_slices = self.module.most_slices if self.module else 0
        self.native_bf16 = bool(self.module and self.module.native_bf16())
        self.fast_products = bool(self.module and self.module.isa() in FAST_PRODUCTS)

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

    def memory(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        found = super().memory(size, dtype, device)
        self.module.use_large_pages(found.data_ptr(), found.nbytes)
        return found

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        self.product(out, x, y, True)

    def put(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        self.product(out, x, y, False)

    def product(self, out: Tensor, x: Tensor, y: Tensor, add: bool) -> None:
        (p, q), d = x.shape, y.shape[1]
        if x.dtype == torch.float32 and not (self.fast_products and d >= FEWEST_COLUMNS):
            torch.addmm(out, x, y, beta=float(add), out=out)
            return
        self.module.gemm(
            x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), y.stride(1), y.stride(0),
            out.data_ptr(), out.stride(0), p, d, q, dtype_code(x), threads_for(p * q * d),
            add,
        )  # fmt: skip

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        return self.slice_stats([block])[0]

    def slice_stats(self, blocks: Sequence[PairBlock]) -> list[tuple[SideStats, SideStats | None]]:
        native, found = [self.native_block(block) for block in blocks], []
        for x, block in zip(native, blocks, strict=True):
            row, x.row = new_stats(self.module, block, block.row)
            col = None
            if block.both_sides:
                col, x.col = new_stats(self.module, block, block.col)
            found.append((row, col))
        self.module.stats(native)
        return found

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        return self.slice_score_grad([block], needs)[0]

    def slice_score_grad(self, blocks: Sequence[PairBlock], needs: Needs) -> list[ScoreGradients]:
        native, found = [self.native_block(block) for block in blocks], []
        for x, block in zip(native, blocks, strict=True):
            n, m, dtype = len(block.row), len(block.col), block.row.features.dtype
            planes = len(block.col.directions) + needs.second
            grad = block.room.take(planes, n, self.grad_stride(m, dtype), dtype=dtype, device=CPU)
            set_grad(x, grad)
            result = score_gradients(block, needs, grad)
            set_weighted_sides(self.module, x, block, result)
            found.append(result)
        self.module.score_grad(native)
        return found

    def grad_stride(self, columns: int, dtype: torch.dtype) -> int:
        """Elements from one row to the next. A multiple of a page would put a column's elements, which the product
        dB = G^T A reads, into the same few sets of every cache."""
        stride = -(-columns // self.padding) * self.padding
        return stride if stride * dtype.itemsize % 4096 else stride + self.padding

    def small_loss(
        self, args: Any, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
    ) -> SmallLoss | None:
        if not loss_fits(args, weights, extras):
            return None
        kind = self.compute_dtype(args.compute, CPU)
        return SmallCall(self.module, args, kind, weights, needs, extras)

    def small_stats(self, args: Any) -> SmallStats | None:
        if not fits(args):
            return None
        return small_stats(self.module, self.compute_dtype(args.compute, CPU), self.padding)

    def segments(self) -> CpuSegments:
        return CpuSegments(self)

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
        if block.spec.second:
            set_second(x, block)
        x.threads = threads_for(x.n * x.m * max(x.d + x.second_d, 16))
        return x


def set_second(x: Any, block: PairBlock) -> None:
    assert block.row.second is not None and isinstance(block.col.second_prepared, PackedColumns)
    x.second_a, x.second_b = block.row.second.data_ptr(), block.col.second_prepared.panels.data_ptr()
    x.second_d = block.row.second.shape[1]
