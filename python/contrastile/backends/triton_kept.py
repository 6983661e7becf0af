"""Exponentials that the Triton kernels keep from statistics to score gradients, see triton_kernels/kept.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..spec import Needs, PairBlock, PairCall, Reduce, Score, ScoreGradients
from .base import score_grad_dtype
from .triton_device import architecture, on_device
from .triton_fused import fits_fused
from .triton_launch import Launch, arguments, is_lean, outputs, upstream
from .triton_merge import PartialStats

KINDS = (torch.bfloat16,)  # whose score gradients have no more digits than what is kept
ALIGNED = 16  # numbers of two bytes; what begins there is copied in one go
LEAST_COLS = 64  # of a tile that keeps its peaks


def keeps(call: PairCall) -> bool:
    """Whether the call's exponentials can be kept, with an error like that of the rounding of score gradients."""
    from ..triton_kernels import config

    arch = architecture(call.rows.features.device)
    if call.dtype not in KINDS or not (arch is None or arch in config.KEPT):
        return False
    if call.spec.reduce != Reduce.LSE or call.spec.score != Score.DOT:
        return False
    lean = all(is_lean(PairBlock(call.spec, call.rows, block, call.mask)) for block in call.blocks)
    return lean and not fits_fused(call.rows.features, call)


def exponentials_width(columns: int) -> int:
    return -(-columns // ALIGNED) * ALIGNED


def kept_width(columns: int) -> int:
    """Numbers of a row in bfloat16: exponentials, then peaks, which take two each."""
    peaks = 2 * -(-columns // LEAST_COLS)
    return exponentials_width(columns) + exponentials_width(peaks)


def kept(block: PairBlock) -> dict[str, Any]:
    """The kernels' arguments for what block.scores holds."""
    assert block.scores is not None
    (memory,), width = block.scores, exponentials_width(len(block.col))
    peaks = memory.view(torch.float32)[:, width // 2 :]
    return {"Kept": memory, "kept_stride": memory.stride(0), "Peaks": peaks, "peaks_stride": peaks.stride(0)}


def run(launch: Launch, kernel: Any, more: dict[str, Any]) -> None:
    features = launch.features.arguments(launch.block.row.features, launch.block.col.features)
    given = features | arguments(launch.block) | launch.constants() | kept(launch.block) | more
    with on_device(launch.device):
        kernel[launch.grid](**{name: given[name] for name in kernel.arg_names}, **launch.tile.options())


def tiles(device: torch.device) -> tuple[Any, Any]:
    """Of statistics and of score gradients, which must not be wider."""
    from ..triton_kernels import config

    arch = architecture(device)
    return (config.INTERPRETER,) * 2 if arch is None else config.KEPT[arch]


def stats_tiles(block: PairBlock) -> list[PartialStats]:
    from ..triton_kernels import kept as kernels

    launch = Launch(block)
    launch.use(tiles(launch.device)[0])
    found = launch.partials()
    run(launch, kernels.stats, outputs(found))
    return found


def score_grad(block: PairBlock, needs: Needs) -> ScoreGradients:
    from ..triton_kernels import kept as kernels

    launch, n, m = Launch(block, needs), len(block.row), len(block.col)
    of_stats, own = tiles(launch.device)
    launch.use(own)
    width = exponentials_width(m)
    grad = launch.empty(1, n, width, dtype=score_grad_dtype(block))
    sums: Tensor | None = launch.empty(launch.col_tiles, n) if needs.row_scale else None
    more = {
        "Grad": grad,
        "grad_stride": width,
        "Factor": block.factor,
        "RowScaleGrad": sums,
        "KEPT_COLS": of_stats.cols,
    }
    run(launch, kernels.score_grad, more | upstream(block.row, block.col, True, launch.cols))
    return ScoreGradients(grad[:, :, :m], row_scale=None if sums is None else sums.sum(0))
