"""The `triton` backend: products with the epilogue fused in Triton kernels, so that scores never reach memory.

Under TRITON_INTERPRET=1 it runs on the CPU, slowly: that is how it is tested without a GPU.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import (
    Gradients,
    Limits,
    Needs,
    PairBlock,
    PairCall,
    Score,
    ScoreGradients,
    Upstream,
    Weights,
)
from . import measured, triton_segments
from .base import (
    GPU_LIMITS,
    Backend,
    FusedGradients,
    Segments,
    Small,
    fits_at_once,
    only_block,
    score_grad_dtype,
)
from .products import add_float_product, set_products
from .triton_device import interpreting, missing_triton, old_device
from .triton_fused import add_row_gradients, fused_tile, swapped
from .triton_launch import Launch, outputs, rule_level, upstream
from .triton_merge import PartialStats, finish, joined

UPSTREAM = [field.name for field in fields(Upstream)]
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
        return GPU_LIMITS

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        # the interpreter computes with the bits of bfloat16 as if they were integers
        return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype

    def small(self, call: PairCall) -> Small | None:
        return self.small_call if fits_at_once(call) else None

    def segments(self) -> Segments:
        return triton_segments.segment_max

    def small_call(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        block = only_block(call)
        block.row = replace(block.row, weight=weights.row, positive_weight=weights.row_positive)
        block.col = replace(block.col, weight=weights.col, positive_weight=weights.col_positive)
        sums = block.spec.reduce.traits.additive
        value = None if sums else finish(self.stats_tiles(block), weights.cross_entropy)
        fused = None if value is None else self.gradients(call)
        if value is not None and fused is not None:
            for grad in (grads.a, grads.blocks[0], *(getattr(grads, name) for name in SUMS)):
                if grad is not None:  # the kernel's results are added
                    grad.zero_()
            fused(block, grads)
            return value
        wanted: dict[str, Any] = {name: getattr(grads, name) is not None for name in SUMS}
        part, found = self.score_grad_tiles(block, Needs(False, [], **wanted, stats=sums))
        for name in SUMS:
            setattr(grads, name, getattr(part, name))
        set_products(block, part.grad, grads.a, grads.a if call.spec.square else grads.blocks[0])
        return finish(found, False) if value is None else value

    def gradients(self, call: PairCall) -> FusedGradients | None:
        features, rules = call.rows.features, rule_level(call)
        short = features.shape[1] <= measured.fused_features(features.device, features.dtype, rules > 0)
        dots = call.spec.score == Score.DOT and not call.spec.second
        return self.fused if short and dots and fused_tile(features, call) is not None else None

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        if block.spec.square:  # z is symmetric, a row has both sides: its scale meets every pair twice
            twin = replace(block.col, on=True, **{name: getattr(block.row, name) for name in UPSTREAM})
            add_row_gradients(replace(block, col=twin), grads.a, grads.row_bias, grads.row_scale, 0.5)
            return
        block = replace(block, col=replace(block.col, on=block.both_sides))  # what `on` says survives the swap
        add_row_gradients(block, grads.a, grads.row_bias, grads.row_scale)
        if any(x is not None for x in (grads.blocks[0], grads.col_bias, grads.col_scale)):
            add_row_gradients(swapped(block), grads.blocks[0], grads.col_bias, grads.col_scale)

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        return joined(self.stats_tiles(block))

    def stats_tiles(self, block: PairBlock) -> list[PartialStats]:
        from ..triton_kernels import pair

        launch = Launch(block)
        found = launch.partials()
        launch.run(pair.stats, outputs(found))
        return found

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
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
