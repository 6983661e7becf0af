"""Reduces over segments by Triton: no scores in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .segments import SegmentCall, SegmentReduces, SoftmaxUpstream
from .triton_device import architecture, copies_tensors, copyable, described, on_device, precision

FEWEST_COLUMNS = 32  # of a tile


class TritonSegments(SegmentReduces):
    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        from ..triton_kernels import segment_max as kernels

        rows, cols, mask = call.rows, call.cols, call.mask
        device, count, d = rows.device, values.shape[1], rows.shape[1]
        how = precision(rows)
        kind = how if rows.dtype == torch.float32 else "half"
        tile = tile_for(device, kind, len(cols) // count)
        tma = copies_tensors(device, kind) and copyable(rows) and copyable(cols)
        a, b = rows, cols
        if tma:
            a, b = described(rows, tile.rows, tile.depth), described(cols.unsqueeze(0), 1, tile.cols, tile.depth)
        with on_device(device):
            kernels.segment_max[(-(-len(rows) // tile.rows) * count,)](
                a, b, call.offsets, None if mask is None else mask.view(torch.uint8), values, args,
                len(rows), len(cols), d, count,
                TMA=tma, EVEN=d % tile.depth == 0, PRECISION=how,
                TILE_ROWS=tile.rows, TILE_COLS=tile.cols, DEPTH=tile.depth, **tile.options(),
            )  # fmt: skip

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        raise NotImplementedError

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        raise NotImplementedError


def tile_for(device: torch.device, kind: str, average: int) -> Any:
    """The table's tile, not wider than segments are on average: a tile holds columns of one segment alone."""
    from ..triton_kernels import config

    arch = architecture(device)
    return narrowed(config.INTERPRETER if arch is None else config.tile(arch, kind, 0), average)


def narrowed(tile: Any, average: int) -> Any:
    cols = tile.cols
    while cols > FEWEST_COLUMNS and cols >= 2 * average:
        cols //= 2
    return replace(tile, cols=cols)
