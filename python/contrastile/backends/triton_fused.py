"""Gradients of few features by the fused kernel, which writes no score gradients."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..spec import Gradients, PairBlock, PairCall, Score, Upstream
from . import measured
from .triton_device import architecture, copies_tensors, copyable, described, kind_of, on_device, precision, processors
from .triton_launch import arguments, rule_constants, rule_level, upstream

UPSTREAM = [field.name for field in fields(Upstream)]


def add_row_gradients(
    block: PairBlock, grad: Tensor | None, bias: Tensor | None, scale: Tensor | None, share: float = 1.0
) -> None:
    """Adds the gradients of the block's rows to grad (n, d), bias and scale (n,), to the last one times `share`."""
    from ..triton_kernels import fused

    targets = [(name, x) for name, x in (("Grad", grad), ("BiasGrad", bias), ("ScaleGrad", scale)) if x is not None]
    if not targets:
        return
    a, b = block.row.features, block.col.features
    tile, tma = fused_tile(a, block), copies_tensors(a.device, kind_of(a)) and copyable(a) and copyable(b)
    row_tiles, col_tiles = -(-len(a) // tile.rows), -(-len(b) // tile.cols)
    # where rows alone would leave half of the device idle, columns are shared out
    parts = max(1, min(processors(a.device) // max(row_tiles, 1), col_tiles))
    sums = {name: torch.empty(parts, *x.shape, dtype=torch.float32, device=a.device) for name, x in targets}
    features = {"A": described(a, tile.rows, tile.depth), "B": described(b, tile.cols, tile.depth)} if tma else {}
    weights = upstream(block.row, block.col, block.row.on, block.col.on)
    with on_device(a.device):
        fused.fused[(row_tiles, parts)](
            **{"A": a, "B": b} | features, **arguments(block), **rule_constants(block.spec), **weights,
            **{f"Row{name}": sums.get(name) for name in ("Grad", "BiasGrad", "ScaleGrad")}, Factor=block.factor,
            TMA=tma, PRECISION=precision(a), TILE_ROWS=tile.rows, TILE_COLS=tile.cols, WIDTH=tile.depth,
            **tile.options(),
        )  # fmt: skip
    for name, x in targets:
        x.add_(sums[name].sum(0), alpha=share if name == "ScaleGrad" else 1.0)


def fits_fused(features: Tensor, x: PairBlock | PairCall) -> bool:
    """Whether there is a tile for the problem, and the kernel was measured to be faster."""
    short = features.shape[1] <= measured.fused_features(features.device, features.dtype, rule_level(x) > 0)
    dots = x.spec.score == Score.DOT and not x.spec.second
    return short and dots and fused_tile(features, x) is not None


def add_gradients(block: PairBlock, grads: Gradients) -> None:
    """See base.FusedGradients."""
    if block.spec.square:  # z is symmetric, a row has both sides: its scale meets every pair twice
        twin = replace(block.col, on=True, **{name: getattr(block.row, name) for name in UPSTREAM})
        add_row_gradients(replace(block, col=twin), grads.a, grads.row_bias, grads.row_scale, 0.5)
        return
    block = replace(block, col=replace(block.col, on=block.both_sides))  # what `on` says survives the swap
    add_row_gradients(block, grads.a, grads.row_bias, grads.row_scale)
    if any(x is not None for x in (grads.blocks[0], grads.col_bias, grads.col_scale)):
        add_row_gradients(swapped(block), grads.blocks[0], grads.col_bias, grads.col_scale)


def swapped(block: PairBlock) -> PairBlock:
    """Rows are the columns of `block`; all tests but that of the order are symmetric. What columns have as partners is
    nobody's: where b is a they are those of the rows."""
    mask = None if block.mask is None else block.mask.T.contiguous()
    row, col = (replace(x, order=None if x.order is None else ~x.order) for x in (block.col, block.row))
    row.partner = row.share = None
    return replace(block, row=row, col=col, mask=mask)  # ~x < ~y where y < x


def fused_tile(features: Tensor, x: PairBlock | PairCall) -> Any:
    """None: the fused kernel has none for so many features, or for their type."""
    from ..triton_kernels import config

    arch, kind = architecture(features.device), kind_of(features)
    sides = (x.row, x.col) if isinstance(x, PairBlock) else (x.rows,)
    shares = any(side.share is not None for side in sides)
    return config.fused_tile(arch, kind, features.shape[1], rule_level(x), x.spec.split, shares)
