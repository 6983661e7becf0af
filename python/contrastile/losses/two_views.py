"""Two views of the same instances as rows of one batch: NT-Xent, and what dcl and dclw are made of, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, no_autocast, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective
from .common import cross_entropy, engine_options, feature_pair, inverse, reduced_empty, upcast
from .matryoshka import Matryoshka, prefix_facts
from .weights import Counted, direction_weights, keep_present


@dataclass
class TwoViews:
    """Every view as an anchor that must find the other view of its instance among the views of all."""

    x: Tensor  # (2N, D), all first views before all second ones
    ids: Tensor  # (2N,) the instance of each
    batch: GlobalBatch  # of instances
    engine: EngineOptions
    counted: Counted
    direction: Direction = "mean"
    detach_keys: bool = False
    partner: Tensor | None = None  # (2N,) where the other view of each is; None: ids say it

    def __post_init__(self) -> None:
        self.row, self.col = direction_weights(self.direction)
        self.views = 2 if self.row and self.col else 1  # of each instance that are anchors

    @property
    def size(self) -> int:
        """How many anchors this rank has."""
        return self.views * self.batch.n

    def pairs(self, scale: float | Tensor) -> Pairs:
        """The anchors against all views of other instances; the other view of their own is the positive."""
        x, present = self.x, self.counted.present
        if self.views == 2:
            pairs = Pairs(x, None, scale)
            if self.partner is None:
                pairs.keep, pairs.positives, pairs.row_ids = "other_id", ("same_id", "other_index"), self.ids
            else:
                pairs.keep, pairs.positives = ("other_index", "no_partner"), "partner"
                pairs.partner, pairs.mutual = self.partner, True
            if self.detach_keys:
                pairs.b, pairs.col_ids = x.detach(), pairs.row_ids
            here = None if present is None else present.repeat(2)
            keep_present(pairs, here, [here] if self.detach_keys else [])
            return pairs
        if not self.detach_keys:  # an anchor is a column, too: both gradients meet before they are rounded
            self.engine.compute_dtype, x = self.engine.compute_dtype or x.dtype, upcast(x)
        n = x.shape[0] // 2
        own, other = (x[:n], x[n:]) if self.row else (x[n:], x[:n])
        columns = [y.detach() if self.detach_keys else y for y in (other, own)]
        ids = self.ids[:n]
        pairs = Pairs(
            own, columns, scale, keep=("other_index", "other_id"), positives="same_index", row_ids=ids,
            col_ids=[ids, ids],
        )  # fmt: skip
        keep_present(pairs, present, [present, present])
        return pairs

    def loss(self, scale: float | Tensor, reduction: Reduction, decoupled: bool = False) -> Tensor:
        """The cross entropy of the other view; decoupled: the log-sum-exp over the other instances minus the other
        view, which is not among the candidates."""
        pairs = self.pairs(scale)
        least = 2 if decoupled else 1
        if reduction == "none":
            stats = pair_stats(pairs, self.engine)
            assert stats.row_positives is not None
            others, positive = stats.rows, stats.row_positives
            rows = others - positive if decoupled else cross_entropy(others, positive)
            return self.reduced(rows, reduction, least)
        return weighted_sum(pairs, self.weights(reduction, least, decoupled), self.engine)

    def weights(self, reduction: Reduction, least: int = 1, decoupled: bool = False) -> Weights:
        weight = self.counted.weight(self.batch, reduction, self.x, self.views, least) * self.factor(reduction)
        return Weights(weight, -weight) if decoupled else Weights(weight, cross_entropy=True)

    def over_prefixes(self, prefixes: Matryoshka, scale: float | Tensor, reduction: Reduction) -> Tensor:
        """`loss` of the sum over prefixes, whose gradients meet before they are rounded."""
        wide = replace(self, x=upcast(self.x))
        self.engine.compute_dtype = self.engine.compute_dtype or self.x.dtype
        if reduction != "none":
            value = prefixes.at_once(wide.pairs(scale), wide.weights(reduction), self.engine)
            if value is not None:
                return value
        return prefixes.total(lambda cut: replace(wide, x=cut(wide.x)).loss(scale, reduction))

    def reduced(self, rows: Tensor, reduction: Reduction, least: int) -> Tensor:
        return self.counted.reduced(self.batch, rows, reduction, least) * self.factor(reduction)

    def factor(self, reduction: Reduction) -> float:
        """direction="sum" adds the means of both directions; sums and rows are not halved to begin with."""
        return 2.0 if self.direction == "sum" and reduction == "mean" else 1.0


def two_views(
    z1: Tensor,
    z2: Tensor,
    normalize: bool,
    engine: EngineOptions,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    direction: Direction = "mean",
    detach_keys: bool = False,
    prefixes: Matryoshka | None = None,
) -> TwoViews:
    """From the arguments of a loss of two views."""
    counted = Counted.of(weights, present, check.features("z1", z1))
    z1, z2 = feature_pair("z1", z1, "z2", z2, normalize and prefixes is None, counted.present)
    direction_weights(direction)
    with no_autocast(z1):  # in a float16 region, torch.cat refuses bfloat16
        x = torch.cat([z1, z2])
    batch = GlobalBatch.of(
        engine.ranks, z1.shape[0],
        facts=lambda: dict(**counted.facts(), detach_keys=bool(detach_keys), **prefix_facts(prefixes)),
    )  # fmt: skip
    index, partner = batch.index(z1.device), None
    if engine.ranks is None:  # which kernels find with less work than an id
        partner = torch.cat([index + batch.n, index])
    return TwoViews(x, index.repeat(2), batch, engine, counted, direction, detach_keys, partner)


def other_view_loss(
    x: Tensor,
    ids: Tensor,
    scale: float | Tensor,
    reduction: Reduction,
    batch: GlobalBatch,
    engine: EngineOptions,
    decoupled: bool = False,
) -> Tensor:
    """`TwoViews.loss` of rows with ids of any origin."""
    return TwoViews(x, ids, batch, engine, Counted()).loss(scale, reduction, decoupled)


@collective
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    direction: Direction = "mean",
    detach_keys: bool = False,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """NT-Xent (SimCLR): each of the 2N views must find the other view of its instance among the 2N - 1 others.

        L_i = log sum_{j != i} e^{<x_i, x_j> / temperature} - <x_i, x_p(i)> / temperature,      x = [z1; z2]

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
            reduction="mean" adds the mean over z1 and the mean over z2 (twice "mean"). "rows": z1 only. "cols": z2
            only.
        detach_keys: Candidates, including the positive, get no gradient. Costs 16 N^2 D FLOP.
        matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over all
            prefixes. normalize=True makes every prefix a unit row.
        matryoshka_weights: A number per prefix; default 1 each.
        weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A instance with a missing view (False) takes no part and is no candidate; its features may
            hold anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 4 (2N)^2 D FLOP forward and backward, since each unordered pair is computed once; 12 N^2 D in one direction.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = nt_xent(z1, z2, temperature=0.5, normalize=True)

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    prefixes = None
    if matryoshka is not None or matryoshka_weights is not None:
        prefixes = Matryoshka.of(matryoshka, matryoshka_weights, check.features("z1", z1).shape[1], normalize)
    views = two_views(z1, z2, normalize, engine, weights, present, direction, detach_keys, prefixes)
    scale = inverse(temperature, views.x)
    if views.batch.total == 0:
        return reduced_empty(0, reduction, views.x, scale)
    return views.loss(scale, reduction) if prefixes is None else views.over_prefixes(prefixes, scale, reduction)
