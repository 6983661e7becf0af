"""Where the fields of native blocks and sides come from: numbers and raw addresses, the same for every module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats, uninitialised
from ..spec import FLOOR, INDEX_TESTS, NO_GATE, Needs, PairBlock, Score, ScoreGradients, Side
from .native_struct import new

FLOAT32, BFLOAT16 = 0, 1  # DType in csrc/cpu/block.h
GRAD_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # GradType in csrc/common/pairs.h

SERIAL_WORK = 1 << 20  # multiply-adds below which starting a second thread on a CPU costs more than it gives


def describe(module: Any, block: PairBlock) -> Any:
    """The module's Block with all that does not depend on how features are stored. The tensors behind its addresses
    are owned by `block`."""
    spec, row, col = block.spec, block.row, block.col
    x = new(module, "Block")
    x.directions, x.n, x.m = len(col.directions), len(row), len(col)
    x.row_origin, x.col_origin = row.origin, col.origin
    x.row_scale, x.col_scale = address(row.scale), address(col.scale)
    x.score = int(spec.score)
    if spec.biased:
        x.row_bias, x.col_bias = address(row.bias), address(col.bias)
    else:
        x.row_norm, x.col_norm = address(row.bias), address(col.bias)
        x.offset, x.floor = spec.offset, FLOOR[torch.float32]
    if spec.second:
        x.target, x.second_scale, x.second_bias = int(spec.target), address(row.second_scale), address(row.second_bias)
    if spec.score == Score.GATED:
        x.floor = NO_GATE
    if (spec.keep | spec.positives) & ~INDEX_TESTS:
        set_operands(x, row, col)
    if block.mask is not None:
        x.mask, x.mask_stride = block.mask.data_ptr(), block.mask.stride(0)
    x.keep, x.positives, x.reduce = int(spec.keep), int(spec.positives), int(spec.reduce)
    x.keep_positives, x.split, x.own_scales = spec.keep_positives, spec.split, spec.own_scales
    if block.scores is not None:
        set_scores(x, block.scores)
    return x


def set_operands(x: Any, row: Side, col: Side) -> None:
    """What tests of pairs compare."""
    x.row_ids, x.col_ids = address(row.ids), address(col.ids)
    x.row_groups, x.col_groups = address(row.groups), address(col.groups)
    x.row_labels, x.col_labels = address(row.labels), address(col.labels)
    x.label_words = 0 if row.labels is None else row.labels.shape[1]
    x.row_order, x.col_order = address(row.order), address(col.order)
    x.partner, x.share = address(row.partner), address(row.share)
    x.partners = 0 if row.partner is None else row.partner.shape[1]


def set_scores(x: Any, scores: Tensor) -> None:
    x.scores, x.score_stride, x.score_direction = scores.data_ptr(), scores.stride(1), scores.stride(0)


def set_grad(x: Any, grad: Tensor, factor: Tensor | None = None) -> None:
    """Where score gradients (products, n, m) go; float16 ones times `factor`. Without a place for those of second
    operands they are not computed."""
    x.grad_second = grad.shape[0] > x.directions
    x.grad, x.grad_stride, x.grad_direction = grad.data_ptr(), grad.stride(1), grad.stride(0)
    x.grad_type, x.factor = GRAD_TYPES[grad.dtype], address(factor)


def new_stats(module: Any, block: PairBlock, side: Side) -> tuple[SideStats, Any]:
    """Memory for the side's partial statistic, and the native side that writes it."""
    native_side, stats = new(module, "Side"), uninitialised(block.spec.numbers, len(side), side.features.device)
    native_side.on = True
    set_limits(native_side, side)
    for name, number in stats.present().items():
        setattr(native_side, name, address(number))
    return stats, native_side


def score_gradients(block: PairBlock, needs: Needs, grad: Tensor) -> ScoreGradients:
    """With memory for the sums that are wanted."""
    n, m, device = len(block.row), len(block.col), grad.device
    return ScoreGradients(
        grad=grad[:, :, :m],
        row_bias=empty(n, device) if needs.row_bias else None,
        col_bias=empty(m, device) if needs.col_bias else None,
        row_scale=empty(n, device) if needs.row_scale else None,
        col_scale=empty(m, device) if needs.col_scale else None,
        second_scale=empty(n, device) if needs.second_scale else None,
    )


def set_weighted_sides(module: Any, x: Any, block: PairBlock, to: ScoreGradients) -> None:
    """Sides for score_grad, whose sums go to `to`."""
    x.row = weighted_side(module, block.row, True, to.row_bias, to.row_scale)
    x.row.grad_second_sum = address(to.second_scale)
    x.col = weighted_side(module, block.col, block.both_sides, to.col_bias, to.col_scale)


def weighted_side(module: Any, side: Side, on: bool, grad_sum: Tensor | None, grad_score_sum: Tensor | None) -> Any:
    native_side = new(module, "Side")
    native_side.on = on
    native_side.grad_sum, native_side.grad_score_sum = address(grad_sum), address(grad_score_sum)
    if on:
        set_limits(native_side, side)
        native_side.stat = address(side.stat)
        native_side.weight, native_side.positive_weight = address(side.weight), address(side.positive_weight)
        native_side.positive_stat = address(side.positive_stat)
        native_side.positive_stat_weight = address(side.positive_stat_weight)
        if side.mean_weight is not None:
            set_target_weights(native_side, side)
    return native_side


def set_limits(native_side: Any, side: Side) -> None:
    native_side.low, native_side.high = address(side.low), address(side.high)


def set_target_weights(native_side: Any, side: Side) -> None:
    native_side.target_stat, native_side.mean_weight = address(side.target_stat), address(side.mean_weight)
    native_side.logit_weight, native_side.mean_offset = address(side.logit_weight), address(side.mean_offset)


def empty(n: int, device: torch.device) -> Tensor:
    """Type and device are named everywhere: the kernels must not depend on torch's global defaults."""
    return torch.empty(n, dtype=torch.float32, device=device)


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def dtype_code(features: Tensor) -> int:
    return BFLOAT16 if features.dtype == torch.bfloat16 else FLOAT32


def threads_for(work: int) -> int:
    return 1 if work < SERIAL_WORK else torch.get_num_threads()
