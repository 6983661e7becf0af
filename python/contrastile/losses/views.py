"""Views of the same instances, some of which may be missing, and what their scores sum to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops import EngineOptions, Pairs, check, matmul, no_autocast, pair_stats
from ..ranks import GlobalBatch
from .common import cleaned, feature_batches, unit
from .weights import Counted, keep_present

Views = Tensor | Sequence[Tensor]


def stacked(views: Views, name: str = "views", least: int = 2) -> Tensor:
    """Views as one (k, N, D) tensor, k >= least, checked; a list is promoted to one type."""
    if isinstance(views, (list, tuple)):
        batches = feature_batches(name, views, least=least)
        with no_autocast(batches[0]):  # in a float16 region, torch.stack refuses bfloat16
            return torch.stack(batches)
    x = check.tensor(name, views, "a torch.Tensor (k, N, D) or a list of (N, D)")
    if x.dim() != 3:
        raise ValueError(f"{name} must have shape (k, N, D), got {tuple(x.shape)}")
    if check.features(name, x, ndim=3).shape[0] < least:
        raise ValueError(f"{name} must be at least {'two' if least == 2 else 'one'}, got {x.shape[0]}")
    return x


def cleaned_views(x: Tensor, present: Tensor | None) -> Tensor:
    """(k, N, D), with zeros for instances that are missing, present (N,)."""
    return cleaned(x, None if present is None else present.expand(x.shape[0], -1))


@dataclass
class ViewBatch:
    """Views of a batch of instances, of which some may be missing."""

    x: Tensor  # (k, N, D), zeros where missing
    batch: GlobalBatch
    counted: Counted  # an instance takes part if it has two views, and another one has
    present: Tensor | None = None  # (k, N) bool, views of instances that take part; None: all

    @staticmethod
    def of(
        views: Views, weights: Tensor | None, present: Tensor | None, normalize: bool, engine: EngineOptions
    ) -> ViewBatch:
        x = stacked(views)
        k, n, _ = x.shape
        part = None
        if present is not None:
            present = check.bool_mask("present", present, (k, n), x.device)
            part = present.sum(0) >= 2
            present = present & part
        counted = Counted.weighted(weights, part, x[0], n)
        x = unit(cleaned(x, present), normalize)
        batch = GlobalBatch.of(engine.ranks, n, facts=lambda: dict(**counted.facts(), views=k))
        if part is not None and present is not None:
            part = part & (counted.count(batch) >= 2)
            counted, present = replace(counted, present=part), present & part
        return ViewBatch(x, batch, counted, present)

    def there(self, x: Tensor) -> Tensor:
        """Numbers of views as terms of a log-sum-exp over those of an instance: none for a view that is missing. An
        instance that takes no part keeps finite ones, for the sake of its gradient, which is 0."""
        if self.present is None:
            return x
        assert self.counted.present is not None
        return torch.where(self.present, x, torch.where(self.counted.present, -torch.inf, 0.0))

    def pairs(self, scale: float | Tensor, *, once: bool = False) -> Tensor:
        """Scores between the views of every instance, (N, k, k), -inf on the diagonal and of views that are missing;
        once: also below the diagonal."""
        rows = self.x.transpose(0, 1)
        gram = matmul(rows, rows.mT) * scale
        view = torch.arange(self.x.shape[0], device=self.x.device)
        dropped = view[:, None] >= view if once else view[:, None] == view
        return gram.masked_fill(dropped if self.present is None else dropped | self.missing(), -torch.inf)

    def missing(self) -> Tensor:
        """(N, k, k): pairs of views of which one is missing, of instances that take part."""
        assert self.present is not None and self.counted.present is not None
        here = self.present.t()
        return ~(here[:, :, None] & here[:, None]) & self.counted.present[:, None, None]


def other_instances(every: ViewBatch, scale: float | Tensor, engine: EngineOptions) -> Tensor:
    """log sum over all views of all other instances, for every view, (k, N)."""
    x = every.x
    k, n, _ = x.shape
    pairs = Pairs(x.flatten(0, 1), scale=scale, keep="other_id", row_ids=every.batch.index(x.device).repeat(k))
    keep_present(pairs, None if every.present is None else every.present.flatten())
    return every.there(pair_stats(pairs, engine).rows.view(k, n))


def other_instances_across(every: ViewBatch, scale: float | Tensor, engine: EngineOptions) -> Tensor:
    """Log-sums per instance over the other instances in other views, in parts, (k - 1 + k (k - 1) / 2, N).

    Each view against all later ones, both directions from one pass: no pair within a view is computed.
    """
    x, present = every.x, every.present
    k, n, _ = x.shape
    ids, parts = every.batch.index(x.device), []
    for index in range(k - 1):
        later = k - 1 - index
        pairs = Pairs(
            x[index], x[index + 1 :].flatten(0, 1), scale, keep="other_id", row_ids=ids, col_ids=ids.repeat(later),
            cols=True,
        )  # fmt: skip
        if present is not None:
            keep_present(pairs, present[index], [present[index + 1 :].flatten()])
        stats = pair_stats(pairs, engine)
        assert stats.cols is not None
        both = torch.cat([stats.rows.unsqueeze(0), stats.cols.view(later, n)])
        parts.append(replace(every, present=None if present is None else present[index:]).there(both))
    return torch.cat(parts)
