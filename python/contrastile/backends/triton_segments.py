"""Reduces over segments by Triton: no scores in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .segments import LANE, SegmentCall, SegmentReduces, SoftmaxUpstream
from .triton_device import architecture, copies_tensors, copyable, described, on_device, precision

FEWEST_COLUMNS = 32  # of a tile
WEIGHTS = {"max": 0, "softmax": 1, "score_grad": 3}  # of epilogues in the table of tiles
OPTIONAL = {"max": ("Sharpness", "Stat", "Mean"), "softmax": ("Values", "Args"), "score_grad": ()}  # not given


class TritonSegments(SegmentReduces):
    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        launch("max", call, values.shape[1], Values=values, Args=args)

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        launch("softmax", call, stat.shape[1], Sharpness=sharpness, Stat=stat, Mean=mean)

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        columns = len(call.cols)
        # where segments are of one length, every column is in one
        room = torch.empty if call.length else torch.zeros
        stride = -(-columns // LANE) * LANE
        grad = room(len(call.rows), stride, dtype=call.rows.dtype, device=call.rows.device)
        launch(
            "score_grad", call, up.stat.shape[1], Sharpness=up.sharpness, Stat=up.stat, Mean=up.mean,
            Constant=up.constant, Slope=up.slope, Variance=up.variance, Grad=grad, grad_stride=stride,
        )  # fmt: skip
        return grad[:, :columns]


def launch(what: str, call: SegmentCall, count: int, **given: Any) -> None:
    """The kernel for `what` with these arguments; the others that it takes are None."""
    from ..triton_kernels import segments as kernels

    rows, cols, mask = call.rows, call.cols, call.mask
    device, d, how = rows.device, rows.shape[1], precision(rows)
    kind = how if rows.dtype == torch.float32 else "half"
    tile = tile_for(device, kind, len(cols) // count, WEIGHTS[what])
    tma = copies_tensors(device, kind) and copyable(rows) and copyable(cols)
    a, b = rows, cols
    if tma:
        a, b = described(rows, tile.rows, tile.depth), described(cols.unsqueeze(0), 1, tile.cols, tile.depth)
    kernel: Any = kernels.score_grad if what == "score_grad" else kernels.reduce
    given |= {
        "A": a, "B": b, "Offsets": call.offsets, "Mask": None if mask is None else mask.view(torch.uint8),
        "n": len(rows), "m": len(cols), "d": d, "count": count,
        "TMA": tma, "EVEN": d % tile.depth == 0, "PRECISION": how,
        "TILE_ROWS": tile.rows, "TILE_COLS": tile.cols, "DEPTH": tile.depth,
    }  # fmt: skip
    absent = {argument: None for argument in OPTIONAL[what]}
    with on_device(device):
        kernel[(-(-len(rows) // tile.rows) * count,)](**given, **absent, **tile.options())


def tile_for(device: torch.device, kind: str, average: int, weight: int) -> Any:
    """The table's tile, not wider than segments are on average: a tile holds columns of one segment alone."""
    from ..triton_kernels import config

    arch = architecture(device)
    return narrowed(config.INTERPRETER if arch is None else config.tile(arch, kind, weight), average)


def narrowed(tile: Any, average: int) -> Any:
    cols = tile.cols
    while cols > FEWEST_COLUMNS and cols >= 2 * average:
        cols //= 2
    return replace(tile, cols=cols)
