"""The `triton` backend: products with the epilogue fused in Triton kernels, so that scores never reach memory.

Under TRITON_INTERPRET=1 it runs on the CPU, slowly: that is how it is tested without a GPU.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..spec import (
    Coefficients,
    Gradients,
    Limits,
    Needs,
    PairBlock,
    PairCall,
    PairSpec,
    Positives,
    Reduce,
    Score,
    Side,
    SideStats,
    Weights,
)
from . import measured
from .base import GPU_LIMITS, add_float_product, coefficient_dtype, narrow_dots

SUMS = ("Total", "Positive")
OLDEST_TRITON = (3, 4)
OLDEST_CAPABILITY = (8, 0)  # what Triton supports, and the first with bfloat16 products


class TritonBackend:
    name = "triton"
    granularity = 128  # the tallest tile; slices by it also keep the alignment Triton compiles for
    padding = 1
    keeps_scores = False
    sums_with_coeff = True

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

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        # the interpreter computes with the bits of bfloat16 as if they were integers
        return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype

    def prepare(self, features: Tensor) -> None:
        return None

    def narrow(self, call: PairCall) -> bool:
        return narrow_dots(call)

    def takes_whole(self, call: PairCall) -> bool:
        return False

    def whole(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        raise NotImplementedError

    def fuses(self, call: PairCall) -> bool:
        features, rules = call.rows.features, many_rules(call)
        short = features.shape[1] <= measured.fused_features(features.device, features.dtype, rules)
        return short and call.spec.score == Score.DOT and fused_tile(features, rules) is not None

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        if block.spec.square:  # z is symmetric, a row has both roles: its scale meets every pair twice
            add_row_gradients(block, grads.a, grads.row_bias, grads.row_scale, 0.5)
            return
        block = replace(block, col=replace(block.col, on=block.both_roles))  # what `on` says survives the swap
        add_row_gradients(block, grads.a, grads.row_bias, grads.row_scale)
        if any(x is not None for x in (grads.blocks[0], grads.col_bias, grads.col_scale)):
            mask = None if block.mask is None else block.mask.T.contiguous()
            swapped = replace(block, row=block.col, col=block.row, mask=mask)
            add_row_gradients(swapped, grads.blocks[0], grads.col_bias, grads.col_scale)

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        from ..triton_kernels import pair

        call = Launch(block)
        row, col = call.partials()
        call.run(pair.stats, named("Row", row) | named("Col", col))
        return merged(block.spec.reduce, row), merged(block.spec.reduce, col) if call.cols else None

    def coeff(self, block: PairBlock, needs: Needs) -> Coefficients:
        from ..triton_kernels import pair

        call = Launch(block, needs)
        n, m = len(block.row), len(block.col)
        width = -(-m // 16) * 16  # rows begin at multiples of 16 bytes
        grad = call.empty(len(block.col.tiles), n, width, dtype=coefficient_dtype(block))
        sums = {
            name: call.empty(*shape) if need else None
            for name, need, shape in (
                ("RowBiasGrad", needs.row_bias, (call.col_tiles, n)),
                ("ColBiasGrad", needs.col_bias, (call.row_tiles, m)),
                ("RowScaleGrad", needs.row_scale, (call.col_tiles, n)),
                ("ColScaleGrad", needs.col_scale, (call.row_tiles, m)),
            )
        }
        placed = {"Grad": grad, "grad_stride": width, "grad_tile": n * width, "Factor": block.factor}
        row, col = call.partials() if needs.stats else ({}, {})
        stats = {f"{role}{k}": x.get(k) for role, x in (("Row", row), ("Col", col)) for k in SUMS}
        weights = upstream("Row", block.row, True) | upstream("Col", block.col, call.cols)
        call.run(pair.coeff, placed | sums | stats | weights)
        row_bias, col_bias, row_scale, col_scale = (None if x is None else x.sum(0) for x in sums.values())
        result = Coefficients(grad[:, :, :m], row_bias, col_bias, row_scale, col_scale)
        if needs.stats:
            result.row_stats = merged(block.spec.reduce, row)
            result.col_stats = merged(block.spec.reduce, col) if call.cols else None
        return result


class Launch:
    """One block's tile, grid and arguments, the same for both kernels."""

    def __init__(self, block: PairBlock, needs: Needs | None = None) -> None:
        self.block, self.device = block, block.row.features.device
        self.precision = precision(block.row.features)
        kind = kind_of(block.row.features)
        coeff, with_stats = needs is not None, needs is not None and needs.stats
        self.tile = tile_for(self.device, kind, coeff, with_stats, many_rules(block))
        self.row_tiles = -(-len(block.row) // self.tile.rows)
        self.col_tiles = -(-len(block.col) // self.tile.cols)
        self.cols = block.both_roles
        self.tma = copies_tensors(self.device, kind) and copyable(block.row.features) and copyable(block.col.tiles)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def partials(self) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
        """What the tiles write, of rows and of columns."""
        row = self.side_partials(len(self.block.row), self.col_tiles)
        return row, self.side_partials(len(self.block.col), self.row_tiles) if self.cols else dict.fromkeys(row)

    def side_partials(self, count: int, parts: int) -> dict[str, Tensor | None]:
        reduce, positives = self.block.spec.reduce, self.block.spec.positives
        once = positives in (Positives.NONE, Positives.SAME_INDEX)  # at most one tile writes an item's sum
        return {
            "Peak": self.empty(parts, count) if reduce in (Reduce.LSE, Reduce.MAX) else None,
            "Total": self.empty(parts, count) if reduce != Reduce.MAX else None,
            "Positive": torch.zeros(1, count, device=self.device) if once else self.empty(parts, count),
            "Arg": self.empty(parts, count, dtype=torch.int64) if reduce == Reduce.MAX else None,
        }

    def run(self, kernel: Any, more: dict[str, Any]) -> None:
        grid = (self.tile.programs(self.row_tiles * self.col_tiles, processors(self.device)),)
        with on_device(self.device):
            kernel[grid](**self.operands(), **arguments(self.block), **more, **self.constants(), **self.tile.options())

    def operands(self) -> dict[str, Any]:
        """A and B (tiles, m, d): descriptors for the tensor copy engine where there is one and alignment allows it."""
        a, b, tile = self.block.row.features, self.block.col.tiles, self.tile
        shape = {"b_tile": b.stride(0), "tiles": len(b)}
        if not self.tma:
            return {"A": a, "B": b} | shape
        return {"A": described(a, tile.rows, tile.depth), "B": described(b, 1, tile.cols, tile.depth)} | shape

    def constants(self) -> dict[str, Any]:
        spec, tile = self.block.spec, self.tile
        return rule_constants(spec) | {
            "SCORE": int(spec.score), "OFFSET": int(spec.offset), "COLS": self.cols, "PRECISION": self.precision,
            "TMA": self.tma, "EVEN": self.block.row.features.shape[1] % tile.depth == 0,
            "PERSISTENT": tile.per_processor > 0,
            "TILE_ROWS": tile.rows, "TILE_COLS": tile.cols, "DEPTH": tile.depth,
        }  # fmt: skip


def add_row_gradients(
    block: PairBlock, grad: Tensor | None, bias: Tensor | None, scale: Tensor | None, share: float = 1.0
) -> None:
    """Adds the gradients of the block's rows to grad (n, d), bias and scale (n,), to the last one times `share`."""
    from ..triton_kernels import fused

    targets = [(name, x) for name, x in (("Grad", grad), ("BiasGrad", bias), ("ScaleGrad", scale)) if x is not None]
    if not targets:
        return
    a, b = block.row.features, block.col.features
    tile, tma = fused_tile(a, many_rules(block)), copies_tensors(a.device, kind_of(a)) and copyable(a) and copyable(b)
    row_tiles, col_tiles = -(-len(a) // tile.rows), -(-len(b) // tile.cols)
    # where rows alone would leave half of the device idle, columns are shared out
    parts = max(1, min(processors(a.device) // max(row_tiles, 1), col_tiles))
    sums = {name: torch.empty(parts, *x.shape, dtype=torch.float32, device=a.device) for name, x in targets}
    features = {"A": described(a, tile.rows, tile.depth), "B": described(b, tile.cols, tile.depth)} if tma else {}
    weights = upstream("Row", block.row, block.row.on) | upstream("Col", block.col, block.col.on)
    with on_device(a.device):
        fused.fused[(row_tiles, parts)](
            **{"A": a, "B": b} | features, **arguments(block), **rule_constants(block.spec), **weights,
            **{f"Row{name}": sums.get(name) for name in ("Grad", "BiasGrad", "ScaleGrad")}, Factor=block.factor,
            TMA=tma, PRECISION=precision(a), TILE_ROWS=tile.rows, TILE_COLS=tile.cols, WIDTH=tile.depth,
            **tile.options(),
        )  # fmt: skip
    for name, x in targets:
        x.add_(sums[name].sum(0), alpha=share if name == "ScaleGrad" else 1.0)


def described(x: Tensor, *block: int) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block))


def arguments(block: PairBlock) -> dict[str, Any]:
    """What all kernels take of a block, but for its features."""
    row, col, mask = block.row, block.col, block.mask
    both = {
        f"{role}{name}": x
        for role, side in (("Row", row), ("Col", col))
        for name, x in (("Scale", side.scale), ("Bias", side.bias), ("Ids", side.ids), ("Threshold", side.threshold))
    }
    return both | {
        "n": len(row), "m": len(col), "d": row.features.shape[1],
        "row_origin": row.origin, "col_origin": col.origin,
        "Mask": None if mask is None else mask.view(torch.uint8),
        "mask_stride": 0 if mask is None else mask.stride(0),
    }  # fmt: skip


def rule_constants(spec: PairSpec) -> dict[str, Any]:
    return {
        "REDUCE": int(spec.reduce), "KEEP": int(spec.keep), "POSITIVES": int(spec.positives),
        "KEEP_POSITIVES": spec.keep_positives, "SAME": spec.same,
    }  # fmt: skip


def upstream(role: str, side: Side, on: bool) -> dict[str, Tensor | None]:
    given = {"Stat": side.stat, "Weight": side.weight, "PositiveWeight": side.positive_weight}
    return {f"{role}{k}": x.contiguous() if on and x is not None else None for k, x in given.items()}


def named(role: str, tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {f"{role}{name}": x for name, x in tensors.items()}


def merged(reduce: Reduce, parts: dict[str, Tensor | None]) -> SideStats:
    """Joins the partial results of all tiles, (tiles, items), in a fixed order."""
    peaks, totals, args = parts["Peak"], parts["Total"], parts["Arg"]
    assert parts["Positive"] is not None
    positive = parts["Positive"].sum(0) if len(parts["Positive"]) != 1 else parts["Positive"][0]
    if peaks is None:
        assert totals is not None
        return SideStats(None, totals.sum(0), positive, None)
    peak = peaks.amax(0)
    if args is not None:
        top = (peaks == peak) | (peaks.isnan() & peak.isnan())
        arg = torch.where(top, args, torch.iinfo(torch.int64).max).amin(0)
        return SideStats(peak, None, positive, torch.where(peak == -torch.inf, -1, arg))
    assert totals is not None
    base = peak.clamp_min(torch.finfo(peak.dtype).min)  # an empty item has peak -inf: e^(-inf - base) is 0
    return SideStats(peak, (totals * (peaks - base).exp()).sum(0), positive, None)


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@cache
def missing_triton() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"the package triton cannot be imported ({error})"
    version = str(triton.__version__)
    if tuple(int(x) for x in version.split(".")[:2]) < OLDEST_TRITON:
        return f"it needs Triton {'.'.join(map(str, OLDEST_TRITON))} or newer, found {version}"
    return None


@cache
def old_device(device: torch.device) -> str | None:
    """Why the GPU is too old; ROCm devices have no such number."""
    if torch.version.hip is not None:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"it needs compute capability {OLDEST_CAPABILITY[0]}.0 or newer, {device} has {capability}"
    return None


def precision(features: Tensor) -> str:
    """How float32 is multiplied: as it is, unless torch's own switch allows TF32. Products of halves are exact."""
    possible = features.dtype == torch.float32 and features.is_cuda and torch.version.hip is None
    return "tf32" if possible and tf32_allowed() else "ieee"


def kind_of(features: Tensor) -> str:
    """The kind of product in the tile table."""
    return precision(features) if features.dtype == torch.float32 else "half"


def tf32_allowed() -> bool:
    """torch's switch. From 2.9 on it has two names, and reading the old one raises once the new one was set."""
    switch = torch.backends.cuda.matmul
    if hasattr(switch, "fp32_precision"):
        return bool(switch.fp32_precision == "tf32")
    return bool(switch.allow_tf32)


def many_rules(x: PairBlock | PairCall) -> bool:
    sides = (x.row, x.col) if isinstance(x, PairBlock) else (x.rows, *x.blocks)
    extra = x.mask is not None or any(y is not None for side in sides for y in (side.ids, side.threshold))
    return extra or x.spec.score != Score.DOT


@cache
def architecture(device: torch.device) -> str | None:
    """The entry of the tile table; None in the interpreter."""
    from ..triton_kernels import config

    if device.type == "cpu":
        return None
    return "gfx942" if torch.version.hip else config.architecture(torch.cuda.get_device_capability(device))


def tile_for(device: torch.device, kind: str, coeff: bool, with_stats: bool, rules: bool) -> Any:
    from ..triton_kernels import config

    weight = config.weight_of(coeff, with_stats, rules)

    arch = architecture(device)
    if arch is None:
        return config.INTERPRETER
    fastest = measured.fastest_tile(device, kind, weight)
    return config.Tile(*fastest) if fastest else config.tile(arch, kind, weight)


def fused_tile(features: Tensor, rules: bool) -> Any:
    """None: the fused kernel has none for so many features, or for their type."""
    from ..triton_kernels import config

    return config.fused_tile(architecture(features.device), kind_of(features), features.shape[1], rules)


@cache
def copies_tensors(device: torch.device, kind: str) -> bool:
    from ..triton_kernels import config

    arch = architecture(device)
    return arch is not None and config.has_tma(arch, kind)


def copyable(x: Tensor) -> bool:
    """What a tensor descriptor demands: something to copy, rows and matrices that begin at multiples of 16 bytes."""
    return (
        x.numel() > 0
        and x.stride(-1) == 1
        and all(offset % 16 == 0 for offset in (x.data_ptr(), *(step * x.itemsize for step in x.stride()[:-1])))
    )


@cache
def processors(device: torch.device) -> int:
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on torch's current device."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
