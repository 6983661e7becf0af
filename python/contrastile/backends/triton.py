"""The `triton` backend: products with the epilogue fused in Triton kernels, so that scores never reach memory.

Under TRITON_INTERPRET=1 it runs on the CPU, slowly: that is how it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import Limits, Needs, PairBlock, PairCall, ScoreGradients
from .base import (
    Backend,
    FusedGradients,
    SmallExtras,
    SmallLoss,
    SmallWeights,
    fits_at_once,
    gpu_limits,
    score_grad_dtype,
)
from .products import add_float_product, set_float_product
from .triton_device import interpreting, missing_triton, old_device
from .triton_fused import add_gradients, fits_fused
from .triton_kept import keeps, kept_width
from .triton_kept import score_grad as kept_score_grad
from .triton_kept import stats_tiles as kept_stats_tiles
from .triton_launch import Launch, outputs, upstream
from .triton_merge import PartialStats, joined
from .triton_segments import TritonSegments
from .triton_small import SmallCall

SUMS = ("row_scale", "col_scale", "row_bias", "col_bias", "second_scale")
KERNEL_SUMS = {
    "row_scale": "RowScaleGrad", "col_scale": "ColScaleGrad", "row_bias": "RowBiasGrad", "col_bias": "ColBiasGrad",
    "second_scale": "SecondScaleGrad",
}  # fmt: skip


class TritonBackend(Backend):
    name = "triton"
    granularity = 128  # the tallest tile; slices by it also keep the alignment Triton compiles for
    takes_second = True
    writes_halves = True
    sums_with_score_grad = True

    def unavailable(self) -> str | None:
        if not interpreting() and not torch.cuda.is_available():
            return "torch finds no CUDA or ROCm device (and TRITON_INTERPRET=1 is not set)"
        here = None if interpreting() else old_device(torch.device("cuda", torch.cuda.current_device()))
        return missing_triton() or here

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        wanted = "cpu" if interpreting() else "cuda"
        if device.type != wanted:
            return f"features are on {device}, it needs {wanted}{' (TRITON_INTERPRET=1)' if interpreting() else ''}"
        if dtype == torch.float64:
            return "it computes in float32; float64 features need the torch backend"
        return None if interpreting() else old_device(device)

    def limits(self, device: torch.device) -> Limits:
        return gpu_limits(device, 1 << 30)

    def saved_dtype(self, call: PairCall) -> torch.dtype | None:
        """Exponentials of lean calls; raw scores would need four bytes."""
        return torch.bfloat16 if keeps(call) else None

    def saved_width(self, columns: int) -> int:
        return kept_width(columns)

    def pair_bytes(self, call: PairCall) -> int:
        """Of a score gradient, see score_grad_dtype."""
        return 2 if call.dtype == torch.bfloat16 or self.narrow(call) else 4

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        # the interpreter computes with the bits of bfloat16 as if they were integers
        return torch.float32 if dtype == torch.bfloat16 and interpreting() else dtype

    def small_loss(
        self, args: Any, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
    ) -> SmallLoss | None:
        if not fits_at_once(args, weights, extras):
            return None
        return SmallCall(args, self.compute_dtype(args.compute, args.a.device), weights, needs)

    def segments(self) -> TritonSegments:
        return TritonSegments(self)

    def gradients(self, call: PairCall) -> FusedGradients | None:
        return add_gradients if fits_fused(call.rows.features, call) else None

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def put(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        set_float_product(out, x, y)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        return joined(self.stats_tiles(block))

    def stats_tiles(self, block: PairBlock) -> list[PartialStats]:
        from ..triton_kernels import pair

        if block.scores is not None:
            return kept_stats_tiles(block)
        launch = Launch(block)
        found = launch.partials()
        launch.run(pair.stats, outputs(found))
        return found

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        if block.scores is not None:
            return kept_score_grad(block, needs)
        result, found = self.score_grad_tiles(block, needs)
        if found:
            result.row_stats, result.col_stats = joined(found)
        return result

    def score_grad_tiles(self, block: PairBlock, needs: Needs) -> tuple[ScoreGradients, list[PartialStats]]:
        """With needs.stats also the partial statistics, else none."""
        from ..triton_kernels import pair

        launch = Launch(block, needs)
        n, m = len(block.row), len(block.col)
        width = -(-m // 16) * 16  # rows begin at multiples of 16 bytes
        planes = len(block.col.directions) + needs.second
        grad = launch.empty(planes, n, width, dtype=score_grad_dtype(block))
        row_shape, col_shape = (launch.col_tiles, n), (launch.row_tiles, m)
        shapes = {"row_scale": row_shape, "col_scale": col_shape, "row_bias": row_shape, "col_bias": col_shape}
        shapes["second_scale"] = row_shape
        sums = {name: launch.empty(*shapes[name]) if getattr(needs, name) else None for name in SUMS}
        found = launch.partials() if needs.stats else []
        launch.run(
            pair.score_grad,
            {"Grad": grad, "grad_stride": width, "grad_direction": n * width, "Factor": block.factor}
            | {"SecondGrad": grad[-1] if needs.second else None}
            | {KERNEL_SUMS[name]: x for name, x in sums.items()}
            | outputs(found)
            | upstream(block.row, block.col, True, launch.cols),
        )
        result = ScoreGradients(grad[:, :, :m])
        for name, parts in sums.items():
            setattr(result, name, None if parts is None else parts.sum(0))
        return result, found
