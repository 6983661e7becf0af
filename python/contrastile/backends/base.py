"""What a backend is: two tile functions, one product, and an honest answer to whether it can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..spec import Coefficients, Gradients, Limits, Needs, Packed, PairBlock, PairCall, Score, SideStats, Weights

CPU_LIMITS = Limits(workspace=32 << 20, max_chunk=768, square_chunk=384)  # measured on CPUs
# Chosen by reasoning, not measured. A block of p rows and q columns adds (p + q, d) products to float32 gradients, 8
# bytes read and written for 2 p or 2 q operations each: from 2048 on the moves cost less than the products on an H100,
# which has 200 to 300 operations for a byte.
GPU_LIMITS = Limits(workspace=1 << 30, max_chunk=4096, square_chunk=2048, min_chunk=2048)


WHOLE_PAIRS = 1 << 24  # pairs of a call that is done at once on a GPU: its small operations would cost more than chunks
WHOLE_ITEMS = 1 << 16  # rows and columns of such a call: beyond, one side is so short that chunks cost less memory
HALVES = (torch.bfloat16, torch.float16)


class BackendUnsupported(RuntimeError):
    """A backend named by the caller cannot run this call; the message says why, for every backend."""


class Backend(Protocol):
    """A way to compute tiles. `granularity`: chunk sizes are multiples of it; `padding`: of score columns."""

    name: str
    granularity: int
    padding: int
    keeps_scores: bool

    sums_with_coeff: bool  # whether coeff can return the statistics of a sum: one product per pair instead of two

    def limits(self, device: torch.device) -> Limits:
        """How much at once."""

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine at all; None if it can."""

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the backend cannot run features of this device and dtype; None if it can."""

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type features are converted to, once, before the sweeps (exact: wider or equal)."""

    def prepare(self, features: Tensor) -> Packed | None:
        """Columns in the layout the tile functions want, made once per call."""

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        """Partial statistics of the block's rows and, where block.col.on, of its columns."""

    def coeff(self, block: PairBlock, needs: Needs) -> Coefficients:
        """dL/d<a, b> of the block from the finished statistics and their upstream gradients."""

    def narrow(self, call: PairCall) -> bool:
        """Whether `coeff` writes float16, so that coefficients must be scaled against underflow (PairCall.factor)."""

    def takes_whole(self, call: PairCall) -> bool:
        """Whether a scalar-mode call is so small that `whole` should do it all at once."""

    def whole(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        """The weighted sum of the statistics; writes every gradient, whose memory has no content yet, or
        puts a tensor of its own in its place."""

    def fuses(self, call: PairCall) -> bool:
        """Whether gradients from finished statistics should come from `fused` instead of coefficients in memory."""

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        """Adds the gradients of a block of any size to the accumulators; in a square call as both roles, to the
        rows'."""

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """out (p, d) += x (p, q) @ y (q, d), accumulated in out's type (float32 or float64)."""


class InSteps:
    """What a backend without shortcuts answers."""

    def takes_whole(self, call: PairCall) -> bool:
        return False

    def whole(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        raise NotImplementedError

    def fuses(self, call: PairCall) -> bool:
        return False

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        raise NotImplementedError


def only_block(call: PairCall) -> PairBlock:
    """The block that a call done at once is."""
    return PairBlock(call.spec, call.rows, replace(call.blocks[0], on=call.spec.cols), call.mask, factor=call.factor)


def fits_at_once(call: PairCall) -> bool:
    """`Backend.takes_whole` of backends on a GPU."""
    sides = [len(call.rows), *map(len, call.blocks)]
    return len(sides) == 2 and sum(sides) <= WHOLE_ITEMS and 0 < call.tiles * sides[0] * sides[1] <= WHOLE_PAIRS


def set_products(block: PairBlock, grad: Tensor, rows: Tensor | None, cols: Tensor | None) -> None:
    """rows = G B and cols = G^T A of all tiles; their sum where both are one tensor. None: not wanted."""
    for tile, coefficients in enumerate(grad):
        if rows is not None:
            (add_float_product if tile else set_float_product)(rows, coefficients, block.col.tiles[tile])
        if cols is not None:
            out = cols[tile] if cols.dim() == 3 else cols
            (add_float_product if cols is rows else set_float_product)(out, coefficients.T, block.row.features)


def narrow_dots(call: PairCall) -> bool:
    """`Backend.narrow` of backends that write coefficients in the features' type. The slope of a distance has no bound
    that would tell the factor: its coefficients stay float32."""
    return call.dtype == torch.float16 and call.spec.score == Score.DOT


def coefficient_dtype(block: PairBlock) -> torch.dtype:
    """What those backends write: bfloat16 as it is, float16 with a factor, else float32."""
    dtype = block.row.features.dtype
    return dtype if dtype == torch.bfloat16 or block.factor is not None else torch.float32


def mixed_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies this type into float32; else it is widened first. Sums in float16, which a switch of
    torch's allows, are nobody's wish here, and torch refuses to give them out as float32."""
    narrow_sums = dtype == torch.float16 and getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False)
    return dtype in HALVES and not narrow_sums and mixed_products(device)


def mixes(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and mixed_product(x.device, x.dtype)


@cache
def mixed_products(device: torch.device) -> bool:
    """torch >= 2.8 on CUDA devices with tensor cores for bfloat16."""
    there = device.type == "cuda" and torch.version.hip is None and hasattr(torch.ops.aten.mm, "dtype")
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


def float_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y in float32 (float64 of float64), products and sums not rounded to half precision."""
    if x.dtype == y.dtype and x.dtype not in HALVES:
        return x @ y
    if mixes(x, y):
        return torch.mm(x, y, out_dtype=torch.float32)
    return x.float() @ y.float()


@cache
def writes_in_place(device: torch.device) -> bool:
    """Whether torch writes and adds products of halves to a float32 matrix; early versions of the overloads refuse."""
    if not all(hasattr(operator, "dtype_out") for operator in (torch.ops.aten.mm, torch.ops.aten.addmm)):
        return False
    x = torch.zeros(16, 16, dtype=torch.bfloat16, device=device)
    out = x.float()
    try:
        torch.ops.aten.mm.dtype_out(x, x, torch.float32, out=out)
        torch.ops.aten.addmm.dtype_out(out, x, x, torch.float32, out=out)
    except torch.OutOfMemoryError:
        raise  # says nothing about the operators
    except RuntimeError:
        return False
    return True


def set_float_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out = float_product(x, y), without a second matrix where torch can."""
    if x.dtype == y.dtype == out.dtype:
        torch.mm(x, y, out=out)
    elif mixes(x, y) and writes_in_place(x.device):
        torch.ops.aten.mm.dtype_out(x, y, torch.float32, out=out)
    else:
        out.copy_(float_product(x, y))


def add_float_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out += float_product(x, y), without a second matrix where torch can."""
    if x.dtype == y.dtype == out.dtype:
        out.addmm_(x, y)
    elif mixes(x, y) and writes_in_place(x.device):
        torch.ops.aten.addmm.dtype_out(out, x, y, torch.float32, out=out)
    elif mixes(x, y):
        out.add_(float_product(x, y))
    else:
        out.addmm_(x.float(), y.float())


def row_chunks(limit: Limits, rows: int, columns: int) -> Iterator[slice]:
    """Rows whose scores with all columns, at four bytes each, fit the workspace; never very few, so that a product
    stays one of matrices."""
    step = max(min(limit.workspace // (4 * max(columns, 1)), limit.max_chunk), 64)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
