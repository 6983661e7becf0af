"""The `torch` backend: tiles in plain torch on any device and dtype. Also what the other backends are tested
against."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import (
    FLOOR,
    Coefficients,
    Gradients,
    Keep,
    Limits,
    Needs,
    PairBlock,
    PairCall,
    Positives,
    Reduce,
    Score,
    Side,
    SideStats,
    Weights,
)
from .base import CPU_LIMITS, GPU_LIMITS


class TorchBackend:
    name = "torch"
    granularity = 1
    padding = 1
    keeps_scores = True
    sums_with_coeff = False

    def unavailable(self) -> str | None:
        return None

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None

    def limits(self, device: torch.device) -> Limits:
        # on a GPU less than the fused kernels: every elementwise step makes a matrix of its own
        return CPU_LIMITS if device.type == "cpu" else replace(GPU_LIMITS, workspace=256 << 20)

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float64 if dtype == torch.float64 else torch.float32

    def prepare(self, features: Tensor) -> None:
        return None

    def fuses(self, call: PairCall) -> bool:
        return False

    def fused(self, block: PairBlock, grads: Gradients) -> None:
        raise NotImplementedError

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        out.addmm_(x, y)

    def narrow(self, call: PairCall) -> bool:
        return False

    def takes_whole(self, call: PairCall) -> bool:
        return False

    def whole(self, call: PairCall, weights: Weights, grads: Gradients) -> Tensor:
        raise NotImplementedError

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        z = affine(block, score_of(block, dot_tiles(block, fill=True)))
        positive, drop = rules(block)
        chosen = None if positive is None else torch.where(positive, positive_term(block, z), 0.0)
        row = reduce_side(block, block.row, role_z(block, block.row, z, positive, drop, 1), chosen, block.col, 1)
        if not (block.spec.cols or block.spec.square) or not block.col.on:
            return row, None
        col = reduce_side(block, block.col, role_z(block, block.col, z, positive, drop, 0), chosen, block.row, 0)
        return row, col

    def coeff(self, block: PairBlock, needs: Needs) -> Coefficients:
        dots = dot_tiles(block, fill=False)
        s = score_of(block, dots)
        z = affine(block, s)
        positive, drop = rules(block)
        g = side_grad(block, block.row, z, positive, drop, 1)
        weight = across(block.row.positive_weight, 1)
        if (block.spec.cols or block.spec.square) and block.col.on:
            g = g + side_grad(block, block.col, z, positive, drop, 0)
            weight = add(weight, across(block.col.positive_weight, 0))
        if positive is not None and weight is not None:
            g = g + torch.where(positive, weight * positive_slope(block, z), 0.0)
        return coefficients(block, dots, s, g, needs)


def dot_tiles(block: PairBlock, fill: bool) -> Tensor:
    """The raw products <a_i, b_tj>, (t, n, m)."""
    row, tiles = block.row.features, block.col.tiles
    if block.scores is None:
        return torch.stack([row @ tile.T for tile in tiles]) if len(tiles) > 1 else (row @ tiles[0].T).unsqueeze(0)
    scores = block.scores[:, :, : len(block.col)]
    for tile, out in zip(tiles, scores, strict=True) if fill else ():
        torch.mm(row, tile.T, out=out)
    return scores


def score_of(block: PairBlock, dots: Tensor) -> Tensor:
    if block.spec.score == Score.DOT:
        return dots[0]
    q, floor = squared_distance(block, dots)
    q = torch.maximum(q, floor)
    if block.spec.score == Score.DISTANCE:
        return q.sqrt()
    return q.log() if block.spec.score == Score.LOG_DISTANCE else q


def squared_distance(block: PairBlock, dots: Tensor) -> tuple[Tensor, Tensor]:
    """q and the floor it is raised to, see spec.Score and spec.FLOOR."""
    norms = dots.new_zeros(())
    for dim, side in ((1, block.row), (0, block.col)):
        if (bias := across(side.bias, dim)) is not None:
            norms = norms + bias
    offset = int(block.spec.offset)
    q = norms - 2.0 * dots[0] if offset else norms
    for dot in dots[offset:]:
        q = q - dot.square()
    return q, norms * FLOOR[dots.dtype] + 1e-30


def score_slope(block: PairBlock, dots: Tensor, s: Tensor) -> Tensor:
    """d score / dq."""
    q, floor = squared_distance(block, dots)
    slope = torch.ones_like(q)
    if block.spec.score == Score.DISTANCE:
        slope = 0.5 / s
    elif block.spec.score == Score.LOG_DISTANCE:
        slope = torch.maximum(q, floor).reciprocal()
    return torch.where(q <= floor, 0.0, slope)


def across(vector: Tensor | None, dim: int) -> Tensor | None:
    """A vector over rows (dim 1) or columns (dim 0) as it broadcasts over the block."""
    return None if vector is None else vector.unsqueeze(dim)


def add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x + y


def affine(block: PairBlock, s: Tensor) -> Tensor:
    z = s
    for dim, side in ((1, block.row), (0, block.col)):
        if (scale := across(side.scale, dim)) is not None:
            z = z * scale
    if block.spec.score != Score.DOT:
        return z  # its biases are inside the score
    for dim, side in ((1, block.row), (0, block.col)):
        if (bias := across(side.bias, dim)) is not None:
            z = z + bias
    return z


def rules(block: PairBlock) -> tuple[Tensor | None, Tensor | None]:
    """Which pairs are positive, and which both sides drop; None = no pair."""
    spec, row, col = block.spec, block.row, block.col
    positive = drop = None
    by_index = spec.keep in (Keep.NOT_SAME_INDEX, Keep.NOT_SAME_INDEX_OR_ID)
    if by_index or spec.positives in (Positives.SAME_INDEX, Positives.SAME_ID):
        rows = torch.arange(row.origin, row.origin + len(row), device=row.features.device)
        cols = torch.arange(col.origin, col.origin + len(col), device=row.features.device)
        same_index = rows[:, None] == cols
    if row.ids is not None and col.ids is not None:
        same_id = row.ids[:, None] == col.ids
    if spec.keep == Keep.NOT_SAME_INDEX:
        drop = same_index
    elif spec.keep == Keep.NOT_SAME_INDEX_OR_ID:
        drop = same_index | same_id
    elif spec.keep != Keep.ALL:
        drop = same_id if spec.keep == Keep.NOT_SAME_ID else ~same_id
    if block.mask is not None:
        drop = ~block.mask if drop is None else drop | ~block.mask
    if spec.positives == Positives.SAME_INDEX:
        positive = same_index
    elif spec.positives == Positives.SAME_ID:
        positive = same_id & ~same_index if spec.same else same_id
    elif spec.positives == Positives.KEPT:
        everything = torch.ones(len(row), len(col), dtype=torch.bool, device=row.features.device)
        positive = everything if drop is None else ~drop
    if spec.keep_positives and positive is not None and drop is not None:
        drop = drop & ~positive
    return positive, drop


def role_z(block: PairBlock, side: Side, z: Tensor, positive: Tensor | None, drop: Tensor | None, dim: int) -> Tensor:
    """z with dropped pairs at -inf; NaN is above no threshold, so it stays."""
    if (threshold := across(side.threshold, dim)) is not None:
        above = z > threshold
        if block.spec.keep_positives and positive is not None:
            above &= ~positive
        drop = above if drop is None else drop | above
    return z if drop is None else z.masked_fill(drop, -torch.inf)


def positive_term(block: PairBlock, z: Tensor) -> Tensor:
    return softplus(-z) if block.spec.reduce == Reduce.SOFTPLUS else z


def positive_slope(block: PairBlock, z: Tensor) -> Tensor:
    return -torch.sigmoid(-z) if block.spec.reduce == Reduce.SOFTPLUS else torch.ones_like(z)


def softplus(z: Tensor) -> Tensor:  # F.softplus turns linear above 20, which is wrong in float64
    return z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))


def reduce_side(block: PairBlock, side: Side, z: Tensor, chosen: Tensor | None, other: Side, dim: int) -> SideStats:
    positive = z.new_zeros(len(side)) if chosen is None else chosen.sum(dim)
    reduce = block.spec.reduce
    if reduce == Reduce.SOFTPLUS:
        return SideStats(None, softplus(z).sum(dim), positive, None)
    if reduce == Reduce.RELU:
        return SideStats(None, F.relu(z).sum(dim), positive, None)
    if reduce == Reduce.MAX:
        peak, arg = z.max(dim)
        return SideStats(peak, None, positive, torch.where(peak == -torch.inf, -1, arg + other.origin))
    peak = torch.where(z.isnan(), -torch.inf, z).amax(dim)
    base = torch.where(peak == -torch.inf, 0.0, peak)
    return SideStats(peak, (z - base.unsqueeze(dim)).exp().sum(dim), positive, None)


def side_grad(
    block: PairBlock, side: Side, z: Tensor, positive: Tensor | None, drop: Tensor | None, dim: int
) -> Tensor:
    """Upstream gradient times the derivative of this side's statistic in z."""
    assert side.stat is not None and side.weight is not None
    z = role_z(block, side, z, positive, drop, dim)
    reduce = block.spec.reduce
    if reduce == Reduce.SOFTPLUS:
        slope = torch.sigmoid(z)
    elif reduce == Reduce.RELU:
        slope = torch.where(z > 0, 1.0, torch.where(z <= 0, 0.0, z))
    else:
        peak, log_total = torch.where(side.stat == -torch.inf, 0.0, side.stat).unbind(1)
        slope = (z - peak.unsqueeze(dim) - log_total.unsqueeze(dim)).exp()
    return slope * side.weight.unsqueeze(dim)


def coefficients(block: PairBlock, dots: Tensor, s: Tensor, g: Tensor, needs: Needs) -> Coefficients:
    row_scale, col_scale = across(block.row.scale, 1), across(block.col.scale, 0)
    by_row = g if row_scale is None else g * row_scale
    grad = by_row if col_scale is None else by_row * col_scale
    bias, tiles = g, grad.unsqueeze(0)
    if block.spec.score != Score.DOT:
        bias = torch.where(grad == 0, grad, grad * score_slope(block, dots, s))  # dL/dq
        tiles = -2.0 * bias * dots
        if block.spec.offset:
            tiles[0] = -2.0 * bias
    return Coefficients(
        grad=tiles,
        row_bias=bias.sum(1) if needs.row_bias else None,
        col_bias=bias.sum(0) if needs.col_bias else None,
        row_scale=(g * s if col_scale is None else g * s * col_scale).sum(1) if needs.row_scale else None,
        col_scale=(by_row * s).sum(0) if needs.col_scale else None,
    )
