"""What a backend is: two tile functions, one product, and an honest answer to whether it can run."""

from __future__ import annotations

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

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
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
        """The weighted sum of the statistics; adds the gradients to the (zeroed) accumulators."""

    def fuses(self, call: PairCall) -> bool:
        """Whether gradients from finished statistics should come from `fused` instead of coefficients in memory."""

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        """Adds the gradients of a block of any size to the accumulators; in a square call as both roles, to the
        rows'."""

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """out (p, d) += x (p, q) @ y (q, d), accumulated in out's type (float32 or float64)."""


def narrow_dots(call: PairCall) -> bool:
    """`Backend.narrow` of backends that write coefficients in the features' type. The slope of a distance has no bound
    that would tell the factor: its coefficients stay float32."""
    return call.dtype == torch.float16 and call.spec.score == Score.DOT


def coefficient_dtype(block: PairBlock) -> torch.dtype:
    """What those backends write: bfloat16 as it is, float16 with a factor, else float32."""
    dtype = block.row.features.dtype
    return dtype if dtype == torch.bfloat16 or block.factor is not None else torch.float32


@cache
def mixed_product(device: torch.device) -> bool:
    """Whether torch multiplies halves into float32: torch >= 2.8 on CUDA. Elsewhere they are widened first."""
    return device.type == "cuda" and torch.version.hip is None and hasattr(torch.ops.aten.mm, "dtype")


def float_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y in float32, products and sums not rounded to half precision."""
    if x.dtype == y.dtype != torch.float32 and mixed_product(x.device):
        return torch.mm(x, y, out_dtype=torch.float32)
    return x.float() @ y.float()


@cache
def adds_in_place(device: torch.device) -> bool:
    """Whether torch adds products of halves to a float32 matrix; early versions of the overload refuse the types."""
    if not mixed_product(device) or not hasattr(torch.ops.aten.addmm, "dtype_out"):
        return False
    x = torch.zeros(16, 16, dtype=torch.bfloat16, device=device)
    out = x.float()
    try:
        torch.ops.aten.addmm.dtype_out(out, x, x, torch.float32, out=out)
    except RuntimeError:
        return False
    return True


def add_float_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out += float_product(x, y), without a second matrix where torch can."""
    if x.dtype != y.dtype or x.dtype == torch.float32 or not mixed_product(x.device):
        out.addmm_(x.float(), y.float())
    elif adds_in_place(x.device):
        torch.ops.aten.addmm.dtype_out(out, x, y, torch.float32, out=out)
    else:
        out.add_(float_product(x, y))
