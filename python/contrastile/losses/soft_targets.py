"""One softmax problem with soft targets: what losses with a teacher, or with similarities as targets, are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from ..literals import Positives, Reduction, TeacherLoss
from ..ops import EngineOptions, Pairs, PairStats, Targets, Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch
from .common import added, like_statistics, paired_dot, upcast
from .weights import Counted

LOSSES = get_args(TeacherLoss)


@dataclass
class Distillation:
    """One softmax problem with soft targets. Arguments are checked before it is made."""

    batch: GlobalBatch
    engine: EngineOptions
    query: Tensor
    blocks: list[Tensor]  # as many keys as queries, then other candidates
    scale: float | Tensor
    targets: Targets
    alpha: float | Tensor  # share of the teacher in the target
    counted: Counted
    kind: TeacherLoss = "ce"
    filter_wrong: bool = False
    row_ids: Tensor | None = None
    col_ids: list[Tensor | None] = field(default_factory=list)
    row: float = 1.0  # weights of the two directions
    col: float = 0.0

    def pairs(self) -> Pairs:
        positives: Positives = "same_index" if self.row_ids is None else "same_id"
        return Pairs(
            self.query, self.blocks, self.scale, positives=positives, row_ids=self.row_ids,
            col_ids=self.col_ids if self.row_ids is not None else None, cols=self.col > 0.0, targets=self.targets,
            counts=self.row_ids is not None,
        )  # fmt: skip

    def sides(self) -> list[tuple[str, float]]:
        """The wanted directions and their weights."""
        return [(side, weight) for side, weight in (("row", self.row), ("col", self.col)) if weight]

    def loss(self, reduction: Reduction) -> Tensor:
        # with ids, what a positive counts is known after the sweep; an entropy is no weighted sum of statistics
        if reduction == "none" or self.row_ids is not None or self.kind == "kl":
            return self.counted.reduced(self.batch, self.rows(), reduction)
        weight, right = self.counted.weight(self.batch, reduction, self.query), self.right()
        found: dict[str, Any] = {}
        for side, share in self.sides():
            own = share * weight if right is None else share * weight * right[side]
            parts = {side: own, f"{side}_target": -own * self.alpha, f"{side}_positive": own * (self.alpha - 1.0)}
            found |= {name: self.each(x) for name, x in parts.items()}
        return weighted_sum(self.pairs(), Weights(**found), self.engine)

    def each(self, weight: float | Tensor) -> float | Tensor:
        """A tensor as one number per item."""
        single = isinstance(weight, Tensor) and weight.dim() == 0
        return weight.expand(self.query.shape[0]) if single and isinstance(weight, Tensor) else weight

    def rows(self) -> Tensor:
        """Losses of the queries, (N,)."""
        stats, right = pair_stats(self.pairs(), self.engine), self.right()
        values = []
        for side, weight in self.sides():
            own = self.divergences(stats, side) if self.kind == "kl" else self.cross_entropies(stats, side)
            values.append(weight * (own if right is None else torch.where(right[side] > 0, own, 0.0)))
        return added(values)

    def cross_entropies(self, stats: PairStats, side: str) -> Tensor:
        """Of one direction."""
        lse, positive = (stats.rows, stats.row_positives) if side == "row" else (stats.cols, stats.col_positives)
        taught: Tensor = getattr(stats, f"{side}_target_loss")
        if not isinstance(self.alpha, Tensor) and self.alpha == 1.0:
            return taught
        assert lse is not None and positive is not None
        if self.row_ids is not None:
            positive = positive / getattr(stats, f"{side}_positive_count").clamp_min(1)
        return self.alpha * taught + (1.0 - self.alpha) * (lse - positive)

    def divergences(self, stats: PairStats, side: str) -> Tensor:
        """Without the entropy of the target, alpha q + (1 - alpha) onehot: it is made of what the teacher says of all
        pairs and of the matched one."""
        entropy: Tensor = getattr(stats, f"{side}_target_entropy")
        if isinstance(self.alpha, Tensor) or self.alpha != 1.0:
            alpha, keys = check.as_tensor("alpha", self.alpha, entropy), self.teacher_columns()[0]
            log_q = self.targets.scale * paired_dot(self.targets.rows, keys) - getattr(stats, f"{side}_target_lse")
            q = log_q.exp()
            matched = alpha * q + (1.0 - alpha)
            entropy = alpha * (entropy + q * log_q) - xlogx(alpha) * (1.0 - q) - xlogx(matched)
        return self.cross_entropies(stats, side) - entropy

    def right(self) -> dict[str, Tensor] | None:
        """(N,) of rows and columns: 1 where the teacher finds the matched item, of equals the first, else 0; None: all
        count."""
        if not self.filter_wrong:
            return None
        scale = self.targets.scale
        columns = [x.detach() for x in self.teacher_columns()]
        teacher = Pairs(
            self.targets.rows.detach(), columns, scale.detach() if isinstance(scale, Tensor) else scale, reduce="max",
            cols=self.col > 0.0,
        )  # fmt: skip
        found = pair_stats(teacher, EngineOptions(None, self.engine.backend, self.engine.ranks))
        own = self.batch.index(self.query.device)
        indices = {"row": found.row_argmax, "col": found.col_argmax}
        return {side: like_statistics(x == own, self.query) for side, x in indices.items() if x is not None}

    def teacher_columns(self) -> list[Tensor]:
        cols = self.targets.cols
        return [cols] if isinstance(cols, Tensor) else list(cols)


def xlogx(x: Tensor) -> Tensor:
    found: Tensor = torch.special.xlogy(x, x)
    return found


def teacher_share(alpha: float | Tensor, like: Tensor) -> float | Tensor:
    value = check.scalar("alpha", alpha, device=like.device)
    check.share("alpha", value)
    return upcast(value) if isinstance(value, Tensor) else value


def frozen(x: Tensor, detach: bool) -> Tensor:
    return x.detach() if detach and x.requires_grad else x


def frozen_scale(scale: float | Tensor, detach: bool) -> float | Tensor:
    return frozen(scale, detach) if isinstance(scale, Tensor) else scale


def widened(engine: EngineOptions, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Features that are in the scores and in the targets: gradients of both meet in float32 and are rounded once."""
    engine.compute_dtype = x.dtype
    return upcast(x), upcast(y)


def same_items(name: str, x: Tensor, items: Tensor) -> None:
    if x.shape[0] != items.shape[0]:
        raise ValueError(f"{name} must have {items.shape[0]} rows, got {tuple(x.shape)}")
    check.same_device(name, x, items.device)
