"""Softmax losses of mixed items, each of which has two positives by its shares: M3Co, geodesic multi-modal mixup."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from ..literals import BackendName, Direction, FixedPoints, Reduction
from ..ops import EngineOptions, Pairs, PairStats, Weights, check, pair_stats, softplus, weighted_sum
from ..ranks import GlobalBatch, Group, collective, given, one_of
from .arcs import Share, between, own_share
from .common import (
    added,
    cross_entropy,
    engine_options,
    feature_pair,
    inverse,
    like_statistics,
    paired_dot,
    reduced_empty,
    unit,
    upcast,
)
from .soft_targets import widened
from .weights import Counted, direction_weights, keep_present

FIXED_POINTS = get_args(FixedPoints)


@collective
def mixup_info_nce(
    mixed: Tensor,
    clean: Tensor,
    partner: Tensor,
    share: Share,
    *,
    temperature: float | Tensor = 0.1,
    unmixed: Tensor | None = None,
    unmixed_clean: Tensor | None = None,
    fixed_points: FixedPoints = "add",
    direction: Direction = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE of mixed items: each must find the two items it was mixed from, by their shares.

        L = 1/2N [ - sum_ij p_ij log softmax_j(z_ij) - sum_ij p_ij log softmax_i(z_ij) ]
        z_ij = <mixed_i, clean_j> / temperature,    p_ij = share_i [j = i] + (1 - share_i) [j = partner_i]

    Args:
        mixed, clean: (N, D), unit rows, or set normalize=True. mixed_i combines item i, with share_i, and item
            partner_i.
        partner: (N,) integers in [0, N), any of them, including i itself. With a group they count through all ranks.
        share: The share of item i, in [0, 1]: a float, a 0-dim tensor, or (N,). Or (N, 2), >= 0: the weights of item i
            and of its partner, which need not add up to 1. No gradient.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        unmixed: (N, D), mixed before mixing: all z_ij except those of the two sources become <unmixed_i, clean_j> /
            temperature.
        unmixed_clean: The same for clean, if clean is mixed too. Needs unmixed.
        fixed_points: Where partner_i = i, "add" makes p_ii the sum of both weights; "overwrite" keeps the partner's
            weight only, as M3CoL's code does, so that an item with share 1 has no target and loss 0.
        direction: "mean" or "sum" of both directions; "rows": mixed -> clean only; "cols": clean -> mixed only, which
            costs as much as both.
        weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 8 N^2 D FLOP forward and backward (6 where the scores fit memory_budget), 16 with unmixed.

    Example:
        >>> x, clean = torch.randn(2, 8, 16)
        >>> partner, share = torch.randperm(8), torch.rand(8)
        >>> mixed = share[:, None] * x + (1 - share[:, None]) * x[partner]
        >>> loss = mixup_info_nce(mixed, clean, partner, share, normalize=True)

    Source: Kumar et al. 2024 (M3CoL), https://arxiv.org/abs/2409.17777, and its mixco_nce; Oh et al. 2023 (geodesic
    multi-modal mixup), https://arxiv.org/abs/2203.03897, V-, L-, and VL-Mix: rows mixed by slerp with those of the
    flipped batch; unmixed is its original_neg.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("fixed_points", fixed_points, FIXED_POINTS)
    counted, n = Counted.of(weights, None, check.features("mixed", mixed)), mixed.shape[0]
    mixed, clean = feature_pair("mixed", mixed, "clean", clean, normalize)
    scale, shares = inverse(temperature, mixed), shares_of_both(share, mixed)
    row, col = direction_weights(direction)
    others = unmixed_pair(unmixed, unmixed_clean, mixed, clean, normalize)
    batch = GlobalBatch.of(
        engine.ranks, n,
        facts=lambda: dict(
            **counted.facts(), unmixed=given(unmixed), fixed_points=one_of(fixed_points, FIXED_POINTS)
        ),
    )  # fmt: skip
    partner = check.ids("partner", partner, n, mixed.device)
    check.condition(lambda: f"partner must lie in [0, {batch.total})", (partner >= 0) & (partner < batch.total))
    if batch.total == 0:
        return reduced_empty(0, reduction, mixed, clean, scale, *others or ())
    both = torch.stack([batch.index(mixed.device), partner], 1)
    if fixed_points == "overwrite":
        first, second = shares.unbind(1)
        shares = torch.stack([torch.where(both[:, 0] == partner, 0.0, first), second], 1)
    problem = Mixup(batch, engine, mixed, clean, scale, both, shares, counted, row, col)
    return problem.loss(reduction) if others is None else problem.loss_beside(others, reduction)


@dataclass
class Mixup:
    """One softmax problem with two positives of each row, by their shares."""

    batch: GlobalBatch
    engine: EngineOptions
    mixed: Tensor
    clean: Tensor
    scale: float | Tensor
    partner: Tensor  # (N, 2), of all ranks: the row itself and its partner
    shares: Tensor  # (N, 2)
    counted: Counted
    row: float  # weights of the directions
    col: float

    def pairs(self) -> Pairs:
        # a row of one positive keeps its digits, however well it is found
        partner = torch.where(self.shares > 0.0, self.partner, -1)
        return Pairs(
            self.mixed, self.clean, self.scale, positives="partner", partner=partner, share=self.shares,
            cols=self.col > 0.0,
        )  # fmt: skip

    def masses(self) -> tuple[Tensor, Tensor]:
        """Sums of targets over the row and over the column of each item."""
        own, other = self.shares.unbind(1)
        given = self.shares.new_zeros(self.batch.total, dtype=torch.float64)
        # sorted on a GPU, in order on a CPU: equal bits in every run
        given = self.batch.sum(given.index_put((self.partner[:, 1],), other.double(), accumulate=True))
        given = given[self.batch.offset : self.batch.offset + self.batch.n]
        return own + other, own + given.to(own.dtype)

    def loss(self, reduction: Reduction) -> Tensor:
        if reduction == "none":
            stats = pair_stats(replace(self.pairs(), split=True), self.engine)
            found = [(stats.row_negatives, stats.row_positives_lse), (stats.col_negatives, stats.col_positives_lse)]
            return self.reduced(found, stats, reduction)
        weight = self.counted.weight(self.batch, reduction, self.mixed)
        row, col = self.row * weight, self.col * weight
        of_rows, of_columns = self.masses()
        weights = Weights(row * of_rows, -row)
        if self.col:
            weights.col, weights.col_positive = col * of_columns, -col
        return weighted_sum(self.pairs(), weights, self.engine)

    def loss_beside(self, others: tuple[Tensor, Tensor], reduction: Reduction) -> Tensor:
        """With the scores of other features wherever a row has no positive."""
        mixed, clean = widened(self.engine, self.mixed, self.clean)
        rest = Pairs(
            upcast(others[0]), clean if others[1] is self.clean else upcast(others[1]), self.scale, keep="no_partner",
            partner=self.partner, cols=self.col > 0.0,
        )  # fmt: skip
        own = replace(self.pairs(), a=mixed, b=clean, keep="partner", partner=self.partner)
        outside, stats = pair_stats(rest, self.engine), pair_stats(own, self.engine)
        return self.reduced([(outside.rows, stats.rows), (outside.cols, stats.cols)], stats, reduction)

    def reduced(
        self, found: list[tuple[Tensor | None, Tensor | None]], stats: PairStats, reduction: Reduction
    ) -> Tensor:
        """found: log-sum-exps of negatives and of positives, of rows and of columns."""
        sides, means = (self.row, self.col), (stats.row_positives, stats.col_positives)
        parts = [
            weight * mixture(mass, *pair, mean)
            for weight, mass, pair, mean in zip(sides, self.masses(), found, means, strict=True)
            if weight
        ]
        return self.counted.reduced(self.batch, added(parts), reduction)


def mixture(mass: Tensor, others: Tensor | None, positives: Tensor | None, mean: Tensor | None) -> Tensor:
    """mass * log-sum-exp - the positives by their shares, from the log-sum-exps of negatives and of positives: of a
    single positive the second part is 0. An item that has none has the loss 0."""
    assert others is not None and positives is not None and mean is not None
    return torch.where(mass > 0.0, mass * softplus(others - positives) + (mass * positives - mean), 0.0)


def unmixed_pair(
    unmixed: Tensor | None, unmixed_clean: Tensor | None, mixed: Tensor, clean: Tensor, normalize: bool
) -> tuple[Tensor, Tensor] | None:
    """What both sides were before they were mixed, checked; a side that was not is itself."""
    if unmixed is None:
        if unmixed_clean is not None:
            raise ValueError("unmixed_clean must be None without unmixed: it would have no effect")
        return None
    given = {"unmixed": unmixed, "unmixed_clean": unmixed_clean}
    for name, x in given.items():
        if x is not None:
            check.same_shape(name, check.features(name, x), "mixed", mixed)
            check.same_device(name, x, mixed.device)
    return unit(unmixed, normalize), clean if unmixed_clean is None else unit(unmixed_clean, normalize)


def shares_of_both(share: Share, like: Tensor) -> Tensor:
    """What every item and its partner count, (N, 2)."""
    n = like.shape[0]
    if not isinstance(share, Tensor) or share.dim() < 2:
        own = own_share(share, like)
        first = own.expand(n) if isinstance(own, Tensor) else upcast(like).new_full((n,), own)
        return torch.stack([first, 1.0 - first], 1)
    check.tensor("share", share)
    if tuple(share.shape) != (n, 2):
        raise ValueError(f"share must have shape ({n},) or ({n}, 2), got {tuple(share.shape)}")
    if not share.is_floating_point():
        raise TypeError(f"share must be floating point, got {share.dtype}")
    if share.requires_grad:
        raise ValueError("share must not require grad")
    check.same_device("share", share, like.device)
    check.condition("share must be finite and >= 0", (share >= 0.0) & share.isfinite())
    return like_statistics(share, like)


@collective
def m2_mix(
    x: Tensor,
    y: Tensor,
    share: Share,
    *,
    temperature: float | Tensor = 0.07,
    direction: Direction = "sum",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """m2-Mix: the negatives lie between the modalities, on the arcs of other pairs.

        L = 1/N sum_i [ log(1 + sum_{j != i} e^{(<x_i, m_j> - <x_i, y_i>) / temperature})
                      + log(1 + sum_{j != i} e^{(<y_i, m_j> - <x_i, y_i>) / temperature}) ],   m = slerp(x, y, share)

    Args:
        x, y: Pairs of two modalities, (N, D), unit rows, or set normalize=True.
        share: The share of x in m, in [0, 1]: a float, a 0-dim tensor (the paper draws one per batch), or (N,). No
            gradient.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        direction: "sum" (the official code) or "mean" of both; "rows": x against the mixed rows only; "cols": y only.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch, or one pair, gives 0.
    Cost: 16 N^2 D FLOP forward and backward, half of it in one direction.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> share = torch.distributions.Beta(0.5, 0.5).sample()
        >>> loss = m2_mix(x, y, share, normalize=True)

    Source: Oh et al. 2023, https://arxiv.org/abs/2203.03897; official code changdaeoh/multimodal-mixup, main.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize, counted.present)
    scale, own = inverse(temperature, x), own_share(share, x)
    sides = direction_weights(direction)
    batch = GlobalBatch.of(engine.ranks, x.shape[0], facts=counted.facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y, scale)
    x, y = widened(engine, x, y)
    columns, matched = between(x, y, own), scale * paired_dot(x, y)
    parts = []
    for weight, anchor in zip(sides, (x, y), strict=True):
        if weight:
            pairs = Pairs(anchor, columns, scale, keep="other_index")
            keep_present(pairs, counted.present, [counted.present])
            parts.append(weight * cross_entropy(pair_stats(pairs, engine).rows, matched))
    return counted.reduced(batch, added(parts), reduction)
