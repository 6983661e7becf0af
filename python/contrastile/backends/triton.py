"""The `triton` backend: products with the epilogue fused in Triton kernels, so that scores never reach memory.

Under TRITON_INTERPRET=1 it runs on the CPU, slowly: that is how it is tested without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    Reduce,
    Score,
    Side,
    SideStats,
    Weights,
)
from . import measured
from .base import (
    GPU_LIMITS,
    add_float_product,
    coefficient_dtype,
    fits_at_once,
    narrow_dots,
    only_block,
    set_products,
)
from .triton_merge import Partials, finish, on_device

SUMS = ("row_scale", "col_scale", "row_bias", "col_bias")
KERNEL_SUMS = {
    "row_scale": "RowScaleGrad", "col_scale": "ColScaleGrad", "row_bias": "RowBiasGrad", "col_bias": "ColBiasGrad"
}  # fmt: skip
PARTIALS = ("Peak", "Total", "Positive", "Arg")
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

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        # the interpreter computes with the bits of bfloat16 as if they were integers
        return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype

    def prepare(self, features: Tensor) -> None:
        return None

    def narrow(self, call: PairCall) -> bool:
        return narrow_dots(call)

    def takes_whole(self, call: PairCall) -> bool:
        return fits_at_once(call)

    def whole(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        block = only_block(call)
        block.row = replace(block.row, weight=weights.row, positive_weight=weights.row_positive)
        block.col = replace(block.col, weight=weights.col, positive_weight=weights.col_positive)
        sums = block.spec.reduce != Reduce.LSE
        value = None if sums else finish(self.stats_tiles(block))
        wanted = {name: getattr(grads, name) is not None for name in SUMS}
        part, found = self.coeff_tiles(block, Needs(False, [], **wanted, stats=sums))
        for name in SUMS:  # by reference: they have memory already
            setattr(grads, name, getattr(part, name))
        set_products(block, part.grad, grads.a, grads.a if call.spec.square else grads.blocks[0])
        return finish(found) if value is None else value

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        return joined(self.stats_tiles(block))

    def stats_tiles(self, block: PairBlock) -> list[Partials]:
        from ..triton_kernels import pair

        launch = Launch(block)
        found = launch.partials()
        launch.run(pair.stats, named(found))
        return found

    def coeff(self, block: PairBlock, needs: Needs) -> Coefficients:
        result, found = self.coeff_tiles(block, needs)
        if found:
            result.row_stats, result.col_stats = joined(found)
        return result

    def coeff_tiles(self, block: PairBlock, needs: Needs) -> tuple[Coefficients, list[Partials]]:
        """With needs.stats also the partial statistics, else none."""
        from ..triton_kernels import pair

        launch = Launch(block, needs)
        n, m = len(block.row), len(block.col)
        width = -(-m // 16) * 16  # rows begin at multiples of 16 bytes
        grad = launch.empty(len(block.col.tiles), n, width, dtype=coefficient_dtype(block))
        row_shape, col_shape = (launch.col_tiles, n), (launch.row_tiles, m)
        shapes = {"row_scale": row_shape, "col_scale": col_shape, "row_bias": row_shape, "col_bias": col_shape}
        sums = {name: launch.empty(*shapes[name]) if getattr(needs, name) else None for name in SUMS}
        found = launch.partials() if needs.stats else []
        launch.run(
            pair.coeff,
            {"Grad": grad, "grad_stride": width, "grad_tile": n * width, "Factor": block.factor}
            | {KERNEL_SUMS[name]: x for name, x in sums.items()}
            | {name: x for name, x in named(found).items() if name.endswith(("Total", "Positive"))}
            | launch.upstream("Row", block.row)
            | launch.upstream("Col", block.col),
        )
        result = Coefficients(grad[:, :, :m])
        for name, parts in sums.items():
            setattr(result, name, None if parts is None else parts.sum(0))
        return result, found


class Launch:
    """One block's tile, grid and arguments, the same for both kernels."""

    def __init__(self, block: PairBlock, needs: Needs | None = None) -> None:
        self.block, self.device = block, block.row.features.device
        self.precision = precision(block.row.features)
        kind = self.precision if block.row.features.dtype == torch.float32 else "half"
        coeff, with_stats = needs is not None, needs is not None and needs.stats
        self.tile = tile_for(self.device, kind, coeff, with_stats, many_rules(block))
        self.row_tiles = -(-len(block.row) // self.tile.rows)
        self.col_tiles = -(-len(block.col) // self.tile.cols)
        self.cols = block.both_roles
        self.tma = copies_tensors(self.device, kind) and copyable(block.row.features) and copyable(block.col.tiles)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def partials(self) -> list[Partials]:
        """What the tiles write, of rows and, where wanted, of columns."""
        row = Partials(self.block, "Row", self.col_tiles)
        return [row, Partials(self.block, "Col", self.row_tiles)] if self.cols else [row]

    def upstream(self, role: str, side: Side) -> dict[str, Tensor | None]:
        given = {"Stat": side.stat, "Weight": side.weight, "PositiveWeight": side.positive_weight}
        on = role == "Row" or self.cols
        return {f"{role}{k}": x.contiguous() if on and x is not None else None for k, x in given.items()}

    def run(self, kernel: Any, more: dict[str, Any]) -> None:
        grid = (self.tile.programs(self.row_tiles * self.col_tiles, processors(self.device)),)
        with on_device(self.device):
            kernel[grid](**self.operands(), **self.tensors(), **more, **self.constants(), **self.tile.options())

    def operands(self) -> dict[str, Any]:
        """A and B (tiles, m, d): descriptors for the tensor copy engine where there is one and alignment allows it."""
        a, b = self.block.row.features, self.block.col.tiles
        return dict(zip("AB", descriptors(a, b, self.tile) if self.tma else (a, b), strict=True))

    def tensors(self) -> dict[str, Any]:
        row, col, mask = self.block.row, self.block.col, self.block.mask
        tiles = col.tiles
        both = {
            f"{role}{name}": x
            for role, side in (("Row", row), ("Col", col))
            for name, x in (
                ("Scale", side.scale), ("Bias", side.bias), ("Ids", side.ids), ("Threshold", side.threshold)
            )
        }  # fmt: skip
        return both | {
            "b_tile": tiles.stride(0), "tiles": len(tiles),
            "n": len(row), "m": len(col), "d": row.features.shape[1],
            "row_origin": row.origin, "col_origin": col.origin,
            "Mask": None if mask is None else mask.view(torch.uint8),
            "mask_stride": 0 if mask is None else mask.stride(0),
        }  # fmt: skip

    def constants(self) -> dict[str, Any]:
        spec, tile = self.block.spec, self.tile
        return {
            "REDUCE": int(spec.reduce), "KEEP": int(spec.keep), "POSITIVES": int(spec.positives),
            "KEEP_POSITIVES": spec.keep_positives, "SAME": spec.same, "SCORE": int(spec.score),
            "OFFSET": int(spec.offset), "COLS": self.cols, "PRECISION": self.precision,
            "TMA": self.tma, "EVEN": self.block.row.features.shape[1] % tile.depth == 0,
            "PERSISTENT": tile.per_processor > 0,
            "TILE_ROWS": tile.rows, "TILE_COLS": tile.cols, "DEPTH": tile.depth,
        }  # fmt: skip


def named(found: Sequence[Partials]) -> dict[str, Tensor | None]:
    """The kernels' arguments for partial statistics; None: not wanted."""
    wanted = {f"{x.role}{name}": tensor for x in found for name, tensor in x.tensors.items()}
    return dict.fromkeys(f"{role}{name}" for role in ("Row", "Col") for name in PARTIALS) | wanted


def joined(found: Sequence[Partials]) -> tuple[SideStats, SideStats | None]:
    return found[0].merged(), found[1].merged() if len(found) > 1 else None


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


def tf32_allowed() -> bool:
    """torch's switch. From 2.9 on it has two names, and reading the old one raises once the new one was set."""
    switch = torch.backends.cuda.matmul
    if hasattr(switch, "fp32_precision"):
        return bool(switch.fp32_precision == "tf32")
    return bool(switch.allow_tf32)


def many_rules(block: PairBlock) -> bool:
    sides = (block.row, block.col)
    extra = block.mask is not None or any(x is not None for side in sides for x in (side.ids, side.threshold))
    return extra or block.spec.score != Score.DOT


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


def descriptors(a: Tensor, b: Tensor, tile: Any) -> tuple[Any, Any]:
    """Of a (n, d) and b (tiles, m, d), for the tensor copy engine."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return (
        TensorDescriptor(a, list(a.shape), list(a.stride()), [tile.rows, tile.depth]),
        TensorDescriptor(b, list(b.shape), list(b.stride()), [1, tile.cols, tile.depth]),
    )


@cache
def processors(device: torch.device) -> int:
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count
