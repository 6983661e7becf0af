"""Cross entropy against one vector for each class: class names, classifier weights, prompts of each image."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective, given, size_of
from .candidates import smoothing_share
from .common import (
    cleaned,
    cross_entropy,
    engine_options,
    inverse,
    paired_dot,
    private_dots,
    reduced_empty,
    unit,
    upcast,
)
from .soft_targets import widened
from .weights import Counted


@collective
def prototype_loss(
    x: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Cross entropy of each item against one prototype for each class.

        L_i = log sum_c e^{z_ic} - z_i,label_i,    z_ic = <x_i, w_c> / temperature

    Args:
        x: (N, D), unit rows expected, or normalize=True.
        prototypes: w, (C, D) of all items, any number of classes; or (N, C, D), those of each item (prompts that depend
            on the image): then plain torch, which holds N C logits and heeds neither backend nor memory_budget.
        labels: (N,) integers in [0, C). On a GPU they are not looked at.
        temperature: > 0; float, 0-dim tensor or (N,).
        label_smoothing: In [0, 1): that share of the target is spread over all classes, as in
            torch.nn.functional.cross_entropy.
        weights, present: (N,), of items, as in info_nce; labels of items that are missing do not matter.
        reduction, memory_budget, backend: As in info_nce.
        group: Items are those of all ranks. Every rank has all classes, and its gradient of prototypes (C, D) is that
            of its own items: data parallelism takes their mean over ranks.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch gives 0. Cost: 6 N C D FLOP forward and
    backward, 8 for reduction="none".

    Example:
        >>> x, names = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1) for n in (8, 100))
        >>> loss = prototype_loss(x, names, torch.randint(100, (8,)), temperature=0.01)

    Source: Zhai and Wu 2019 (normalised softmax), arXiv 1811.12649; (N, C, D): Singha et al. 2023 (GOPro),
    arXiv 2308.11605.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted, n = Counted.of(weights, present, check.features("x", x)), x.shape[0]
    prototypes = checked_prototypes(prototypes, x)
    private, count = prototypes.dim() == 3, prototypes.shape[-2]
    dtype = torch.promote_types(x.dtype, prototypes.dtype)
    x, prototypes = check.as_type(x, dtype), check.as_type(prototypes, dtype)
    scale, smoothing = inverse(temperature, x, n, present=counted.present), smoothing_share(label_smoothing)
    labels = checked_labels(labels, count, counted.present, x)
    batch = GlobalBatch.of(
        engine.ranks, n,
        facts=lambda: dict(
            **counted.facts(), label_smoothing=given(smoothing or None), classes=size_of(prototypes, -2)
        ),
    )  # fmt: skip
    x = unit(cleaned(x, counted.present), normalize)
    prototypes = unit(cleaned(prototypes, counted.present if private else None), normalize)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, prototypes, scale)
    if private:
        return counted.reduced(batch, private_rows(x, prototypes, labels, scale, smoothing), reduction)
    return shared_loss(batch, replace(engine, ranks=None), x, prototypes, labels, scale, smoothing, counted, reduction)


def shared_loss(
    batch: GlobalBatch,
    engine: EngineOptions,
    x: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    scale: float | Tensor,
    smoothing: float,
    counted: Counted,
    reduction: Reduction,
) -> Tensor:
    """Rows of this rank alone against all classes; the item's own class apart, so that a converged model's loss keeps
    its digits."""
    mean: float | Tensor = 0.0
    if smoothing:
        x, prototypes = widened(engine, x, prototypes)
        mean = smoothing * scale * paired_dot(x, prototypes.mean(0))
    pairs = Pairs(x, prototypes, scale, keep="no_partner", positives="partner", partner=labels)
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        rows = cross_entropy(stats.rows, stats.row_positives)
        return counted.reduced(batch, rows + smoothing * stats.row_positives - mean if smoothing else rows, reduction)
    weight = counted.weight(batch, reduction, x)
    value = weighted_sum(pairs, Weights(weight, smoothing * weight, cross_entropy=True), engine)
    return value - counted.reduced(batch, mean, reduction) if isinstance(mean, Tensor) else value


def private_rows(x: Tensor, prototypes: Tensor, labels: Tensor, scale: float | Tensor, smoothing: float) -> Tensor:
    """(N,): classes of each item never meet another, so they are N C dot products."""
    logits = private_dots(upcast(x), upcast(prototypes))
    logits = logits * (scale.unsqueeze(-1) if isinstance(scale, Tensor) and scale.dim() else scale)
    rows: Tensor = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return rows


def checked_prototypes(prototypes: Tensor, x: Tensor) -> Tensor:
    n = x.shape[0]
    given = check.tensor("prototypes", prototypes)
    if given.dim() not in (2, 3) or (given.dim() == 3 and given.shape[0] != n):
        raise ValueError(f"prototypes must have shape (C, D) or ({n}, C, D), got {tuple(given.shape)}")
    check.same_width("prototypes", check.features("prototypes", given, ndim=given.dim()), "x", x)
    check.same_device("prototypes", given, x.device)
    return given


def checked_labels(labels: Tensor, count: int, present: Tensor | None, x: Tensor) -> Tensor:
    """int64; of items that are missing 0."""
    labels = check.ids("labels", labels, x.shape[0], x.device)
    if present is not None:
        labels = torch.where(present, labels, 0)
    check.condition(lambda: f"labels must lie in [0, C = {count})", (labels >= 0) & (labels < count))
    return labels
