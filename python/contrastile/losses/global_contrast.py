"""Gradients of global contrastive losses: a softmax over the batch whose rows are weighed by a moving average.

An anchor i with temperature t_i has, over its negatives j in the batch, g_i = mean_j e^{h_ij / t_i}, and over the
steps the average u_i of its g. The gradient of t_i log u_i is w_i p_ij for each score, with the softmax p of the batch
and w_i = g_i / u_i: that of a log-sum-exp with a weight for each row. The weights are known only after the sweep that
makes g; the second sweep follows at once, and its gradients are kept instead of scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import Keep
from ..ops import EngineOptions, Pairs, no_autocast, pair_stats
from ..ranks import GlobalBatch
from .common import log_count, upcast


@dataclass
class Anchors:
    """The anchors of one batch: both sides of its N pairs. Fields are (2, N), in the type of the statistics."""

    lse: Tensor  # log-sum-exp of z = s / temperature over the negatives
    positive: Tensor  # z of the positive
    features: list[Tensor]  # in wide types
    scales: list[Tensor]  # 1 / temperature as it was used
    log_count: Tensor  # of the negatives
    relative: bool  # h_ij is s_ij - s_i+, else s_ij

    @property
    def log_mean(self) -> Tensor:
        """log g."""
        lse = self.lse - self.positive if self.relative else self.lse
        return (lse - self.log_count).detach()

    def gradients(self, weight: Tensor, factor: Tensor | float) -> tuple[list[Tensor], list[Tensor]]:
        """Of those features that want one, and of scales: sum_i factor_i (w_i lse_i - z_i+) is differentiated; with
        `relative` the positive has the weight w_i, too."""
        pull = weight if self.relative else torch.ones_like(weight)
        wanted = [x for x in self.features if x.requires_grad]
        with torch.enable_grad():
            total = (factor * (weight * self.lse - pull * self.positive)).sum()
            grads = torch.autograd.grad(total, [*wanted, *self.scales])
        return list(grads[: len(wanted)]), list(grads[len(wanted) :])


@dataclass
class Step:
    """What one batch gives."""

    anchors: Anchors
    temperature: Tensor  # 0-dim or (sides, N)
    average: Tensor  # (2, N) log u
    weight: Tensor  # (2, N) w
    share: float  # of an item in the mean over the batch
    factor: Tensor  # of a row, see Anchors.gradients
    feature_slopes: list[Tensor]  # gradients of those features that want one
    scale_slopes: list[Tensor]  # of 1 / temperature

    @staticmethod
    def of(anchors: Anchors, temperature: Tensor, average: Tensor, share: float, row_factor: Tensor) -> Step:
        weight, factor = (anchors.log_mean - average).exp(), share * row_factor
        return Step(anchors, temperature, average, weight, share, factor, *anchors.gradients(weight, factor))

    def spread(self) -> Tensor:
        """w_i E_p[h_ij / t_i] of individual temperatures, meant over both views where they share one, (sides, N)."""
        if self.anchors.relative:
            return torch.stack(self.scale_slopes) / (self.factor * self.temperature)
        slope = self.scale_slopes[0] / (self.factor * self.temperature)
        return (slope + self.anchors.positive.detach().sum(0)) / 2.0


def cross_modal(
    image: Tensor, text: Tensor, temperature: Tensor, include_positive: bool, batch: GlobalBatch, engine: EngineOptions
) -> Anchors:
    """Images among texts, and texts among images, from one pass. temperature: one number (0-dim), or (2, N)."""
    engine.compute_dtype, image, text = image.dtype, wide(image), wide(text)
    keep: Keep = "all" if include_positive else "other_index"
    with torch.enable_grad():
        scales = [leaf(t.reciprocal()) for t in (temperature.unbind() if temperature.dim() else [temperature])]
        pairs = Pairs(image, text, scales[0], keep=keep, positives="same_index", cols=True)
        if len(scales) > 1:
            pairs.col_scale, pairs.own_scales = scales[1], True
        both = pair_stats(pairs, engine)
        found = [both.rows, both.cols, both.row_positives, both.col_positives]
        lse, positive = torch.stack([x for x in found if x is not None]).view(2, 2, -1)
    return Anchors(lse, positive, [image, text], scales, log_count(batch.total - 1, lse), True)


def two_views(z1: Tensor, z2: Tensor, temperature: Tensor, batch: GlobalBatch, engine: EngineOptions) -> Anchors:
    """Every view among the views of other instances. temperature: one number, or (1, N) of instances."""
    engine.compute_dtype, views = z1.dtype, [wide(z1), wide(z2)]
    ids = batch.index(z1.device).repeat(2)
    with torch.enable_grad(), no_autocast(z1):
        scale = leaf(temperature.reciprocal())
        pairs = Pairs(torch.cat(views), None, scale.repeat(1, 2)[0] if scale.dim() else scale, keep="other_id")
        pairs.positives, pairs.row_ids = ("same_id", "other_index"), ids
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        lse, positive = stats.rows.view(2, -1), stats.row_positives.view(2, -1)
    return Anchors(lse, positive, views, [scale], log_count(2 * (batch.total - 1), lse), False)


def wide(x: Tensor) -> Tensor:
    """Features apart from their graph: their gradient is formed here, and rounded later."""
    return upcast(x.detach()).requires_grad_(x.requires_grad and torch.is_grad_enabled())


def leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()
