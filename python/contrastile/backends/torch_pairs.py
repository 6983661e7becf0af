"""The pairs of a block in plain torch: products, scores, statistics and their slopes."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import FLOOR, NO_GATE, Needs, PairBlock, Score, ScoreGradients, Side, Target
from .products import float_product, set_float_product
from .torch_functors import FUNCTORS
from .torch_rules import Rules, rules_of


class Logits(NamedTuple):
    """z of a block's pairs, and their rules, which read it."""

    z: Tensor
    rules: Rules


class Pairs:
    """The pairs of a block: products, scores, logits and rules, for statistics and for score gradients. It must not
    hold the block, which may hold it: a circle is freed late."""

    def __init__(self, block: PairBlock, dots: Tensor) -> None:
        self.traits, self.functor = block.spec.reduce.traits, FUNCTORS[block.spec.reduce]
        self.split = block.spec.split
        self.again, self.dots = block.again, dots
        self.s = score_of(block, self.dots)
        self.target = block.spec.target
        rows = self.logits(block, 1)
        # by dim, as the statistics along it see them
        self.sides = {1: rows, 0: self.logits(block, 0) if own_scales(block) else rows}
        self.t = target_logits(block, self.dots) if self.target else rows.z
        # by dim, from stats for score_grad: base, e^(z - base)
        self.exponentials: dict[int, tuple[Tensor, Tensor]] = {}

    def logits(self, block: PairBlock, dim: int) -> Logits:
        z = affine(block, self.s, dim)
        return Logits(z.clone() if self.target else z, rules_of(block, z))  # rules may overwrite theirs

    def stats(self, side: Side, other: Side, dim: int) -> SideStats:
        rules = self.sides[dim].rules
        found, z = SideStats(positive=rules.positives(dim)), rules.kept(side, dim)
        if self.traits.arg:
            found.peak, arg = z.max(dim)
            found.arg = torch.where(found.peak == -torch.inf, -1, arg + other.origin)
        elif self.traits.peak:
            found.peak = z.amax(dim)
            base, e = exponential(z, found.peak, dim)
            if self.again:
                self.exponentials[dim] = base, e
            found.total = e.sum(dim)
        else:
            assert self.functor.term is not None
            found.total = self.functor.term(z).sum(dim)
        if self.split:
            z = rules.kept(side, dim, positives=True)
            found.positive_peak = z.amax(dim)
            found.positive_total = exponential(z, found.positive_peak, dim)[1].sum(dim)
        if self.target:
            assert found.peak is not None
            found = replace(found, **self.target_sums(side, dim, finite_part(found.peak).unsqueeze(dim)))
        return replace(found, **rules.counts(side, dim))

    def target_sums(self, side: Side, dim: int, base: Tensor) -> dict[str, Tensor]:
        """base: the largest z, which means of z lie above."""
        own, rules = self.sides[dim]
        dropped = rules.drops(side, dim)
        z = without(own - base, dropped, 0.0)
        if self.target == Target.AFFINE:
            weights = without(self.t, dropped, 0.0)
            return {"weights": weights.sum(dim), "weighted": (weights * z).sum(dim)}
        t = without(self.t, dropped, -torch.inf)
        peak = t.amax(dim)
        t_base, e = exponential(t, peak, dim)
        t = without(self.t - t_base.unsqueeze(dim), dropped, 0.0)
        return {
            "target_peak": peak, "target_total": e.sum(dim), "target_z": (e * z).sum(dim), "target_t": (e * t).sum(dim)
        }  # fmt: skip

    def slopes(self, side: Side, dim: int, second: bool) -> tuple[Tensor, Tensor | None]:
        """What this side's statistics give to dL/dz: upstream gradients times derivatives; where wanted, to dL/dt."""
        assert side.weight is not None
        weight, rules = side.weight, self.sides[dim].rules
        if self.traits.additive:
            assert self.functor.slope is not None
            slope = self.functor.slope(rules.kept(side, dim))
        else:
            assert side.stat is not None
            peak, log_total = finite_part(side.stat).unbind(1)
            kept = dim in self.exponentials
            base, slope = self.exponentials.pop(dim) if kept else exponential(rules.kept(side, dim), peak, dim)
            weight = weight * (base - peak - log_total).exp()
        slope.mul_(weight.unsqueeze(dim))
        if side.positive_stat_weight is not None:
            slope.add_(self.positive_slopes(side, dim))
        if side.mean_weight is None:
            return slope, None
        of_z, of_t = self.target_slopes(side, dim, second)
        return slope.add_(of_z), of_t

    def target_slopes(self, side: Side, dim: int, second: bool) -> tuple[Tensor, Tensor | None]:
        assert side.mean_weight is not None and side.mean_offset is not None and side.stat is not None
        own, rules = self.sides[dim]
        dropped = rules.drops(side, dim)
        weight, offset = side.mean_weight.unsqueeze(dim), side.mean_offset.unsqueeze(dim)
        z = own - finite_part(side.stat[:, 0]).unsqueeze(dim)
        if self.target == Target.AFFINE:
            of_z = without(self.t, dropped, 0.0) * weight
            return of_z, without(z * weight + offset, dropped, 0.0) if second else None
        assert side.target_stat is not None
        peak, log_total = finite_part(side.target_stat).unbind(1)
        t = self.t - peak.unsqueeze(dim)
        e, factor = without(t.exp(), dropped, 0.0), (-log_total).exp()
        of_z = e * (side.mean_weight * factor).unsqueeze(dim)  # rounded as in `slopes`: equal probabilities cancel
        if not second:
            return of_z, None
        of_t = z * weight + offset
        if side.logit_weight is not None:
            of_t += t * side.logit_weight.unsqueeze(dim)
        return of_z, without(of_t, dropped, 0.0) * (e * factor.unsqueeze(dim))

    def positive_slopes(self, side: Side, dim: int) -> Tensor:
        """The same of the statistic that kept positives have of their own."""
        assert side.positive_stat is not None and side.positive_stat_weight is not None
        peak, log_total = finite_part(side.positive_stat).unbind(1)
        base, slope = exponential(self.sides[dim].rules.kept(side, dim, positives=True), peak, dim)
        weight = side.positive_stat_weight * (base - peak - log_total).exp()
        return slope.mul_(weight.unsqueeze(dim))


def finite_part(x: Tensor) -> Tensor:
    """0 for an item that keeps nothing: e^(-inf - 0) is 0."""
    return x.nan_to_num(torch.nan, torch.inf, 0.0)


def exponential(z: Tensor, peak: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    base = finite_part(peak)
    return base, (z - base.unsqueeze(dim)).exp_()


def dot_products(block: PairBlock, fill: bool) -> Tensor:
    """The raw products of the block's operands, (t, n, m)."""
    operands = block.operands
    if block.scores is None:
        products = [float_product(row, col.T) for row, col in operands]
        return torch.stack(products) if len(operands) > 1 else products[0].unsqueeze(0)
    scores = block.scores[:, :, : len(block.col)]
    for (row, col), out in zip(operands, scores, strict=True) if fill else ():
        set_float_product(out, row, col.T)
    return scores


def score_of(block: PairBlock, dots: Tensor) -> Tensor:
    if block.spec.score == Score.DOT:
        return dots[0]
    if block.spec.score == Score.GATED:
        return dots[0] * inverse_gate(dots)
    q, floor = squared_distance(block, dots)
    q = torch.maximum(q, floor)
    if block.spec.score == Score.DISTANCE:
        return q.sqrt()
    return q.log() if block.spec.score == Score.LOG_DISTANCE else q


def inverse_gate(dots: Tensor) -> Tensor:
    """1 / sqrt of the second product; 0 where there is no gate."""
    return torch.where(dots[1] <= NO_GATE, 0.0, dots[1].rsqrt())


def target_logits(block: PairBlock, dots: Tensor) -> Tensor:
    """t of spec.Target."""
    t = dots[-1] if block.row.second_scale is None else dots[-1] * block.row.second_scale.unsqueeze(1)
    return t if block.row.second_bias is None else t + block.row.second_bias.unsqueeze(1)


def without(x: Tensor, dropped: Tensor | None, value: float) -> Tensor:
    return x if dropped is None else x.masked_fill(dropped, value)


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


def own_scales(block: PairBlock) -> bool:
    """Whether columns have another z than rows have."""
    return block.spec.own_scales and block.both_sides


def scales(block: PairBlock, dim: int) -> list[Tensor]:
    """What multiplies the score in z as the statistics along dim see it."""
    sides = {1: block.row.scale, 0: block.col.scale}
    found = [across(scale, own) for own, scale in sides.items() if own == dim or not block.spec.own_scales]
    return [x for x in found if x is not None]


def affine(block: PairBlock, s: Tensor, dim: int) -> Tensor:
    """z as the statistics along dim see it, in memory of its own."""
    z = s
    for scale in scales(block, dim):
        z = z * scale
    if block.spec.biased:
        for own, side in ((1, block.row), (0, block.col)):
            if (bias := across(side.bias, own)) is not None:
                z = z + bias
    return s.clone() if z is s else z


def of_score(block: PairBlock, s: Tensor, g: Tensor, needs: Needs, result: ScoreGradients) -> Tensor:
    """dL/ds from dL/dz, whose memory it takes over; sets the sums of scales."""
    row_scale, col_scale = across(block.row.scale, 1), across(block.col.scale, 0)
    if needs.row_scale:
        result.row_scale = (g * s if col_scale is None else (g * s).mul_(col_scale)).sum(1)
    by_row = g if row_scale is None else g.mul_(row_scale)
    if needs.col_scale:
        result.col_scale = (by_row * s).sum(0)
    return by_row if col_scale is None else by_row.mul_(col_scale)


def of_score_by_sides(
    block: PairBlock, s: Tensor, g: Tensor, of_cols: Tensor | None, needs: Needs, result: ScoreGradients
) -> Tensor:
    """The same where every side has a scale of its own, from dL/dz of the rows' z and of the columns'."""
    grads, by_dim = {1: g, 0: torch.zeros_like(g) if of_cols is None else of_cols}, []
    for name, need, dim in (("row_scale", needs.row_scale, 1), ("col_scale", needs.col_scale, 0)):
        if need:
            setattr(result, name, (grads[dim] * s).sum(dim))
        by_dim += [reduce(torch.mul, scales(block, dim), grads[dim])]
    return by_dim[0] + by_dim[1]


def score_gradients(
    block: PairBlock, dots: Tensor, s: Tensor, g: Tensor, of_cols: Tensor | None, of_t: Tensor | None, needs: Needs
) -> ScoreGradients:
    """From dL/dz, whose memory it takes over, and dL/dt. of_cols: dL/dz of the columns' z, where it is another one."""
    result = ScoreGradients(g)
    if block.spec.biased:
        set_bias_sums(result, g if of_cols is None else g + of_cols, needs)
    if block.spec.own_scales:
        grad = of_score_by_sides(block, s, g, of_cols, needs, result)
    else:
        grad = of_score(block, s, g, needs, result)
    by_direction = grad.unsqueeze(0)
    if block.spec.score == Score.GATED:
        inverse = inverse_gate(dots)
        by_direction = torch.stack([grad * inverse, -0.5 * grad * s * inverse.square()])
    elif block.spec.target and needs.second:
        of_t = torch.zeros_like(grad) if of_t is None else of_t
        second_scale = across(block.row.second_scale, 1)
        if needs.second_scale:
            result.second_scale = (of_t * dots[-1]).sum(1)
        by_direction = torch.stack([grad, of_t if second_scale is None else of_t * second_scale])
    elif not block.spec.biased:
        bias = torch.where(grad == 0, grad, grad * score_slope(block, dots, s))  # dL/dq
        set_bias_sums(result, bias, needs)
        by_direction = -2.0 * bias * dots
        if block.spec.offset:
            by_direction[0] = -2.0 * bias
    result.grad = by_direction
    return result


def set_bias_sums(result: ScoreGradients, grad: Tensor, needs: Needs) -> None:
    result.row_bias = grad.sum(1) if needs.row_bias else None
    result.col_bias = grad.sum(0) if needs.col_bias else None
