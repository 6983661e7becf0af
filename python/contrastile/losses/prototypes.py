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
    """Cross-entropy of each item against one prototype per class.

        L_i = log sum_c e^{z_ic} - z_i,label_i,    z_ic = <x_i, w_c> / temperature

    Args:
        x: (N, D), unit rows, or set normalize=True.
        prototypes: w, (C, D), shared by all items, for any number of classes; or (N, C, D), one set per item (prompts
            that depend on the image). The second form is plain torch, holds N C logits, and ignores backend and
            memory_budget.
        labels: (N,) integers in [0, C). On a GPU their values are not checked.
        temperature: > 0: a float, a 0-dim tensor, or (N,). Divides the similarity.
        label_smoothing: In [0, 1): spreads this share of the target over all classes, as
            torch.nn.functional.cross_entropy does.
        weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. An item with False takes no part; its features and label may hold anything, and it gets
            gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: items come from all ranks. Every
            rank has all classes, and its gradient of prototypes (C, D) covers its own items: data parallelism averages
            it over ranks.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 6 N C D FLOP forward and backward, 8 for reduction="none".

    Example:
        >>> x, prototypes = torch.randn(8, 16), torch.randn(100, 16)
        >>> labels = torch.randint(100, (8,))
        >>> loss = prototype_loss(x, prototypes, labels, temperature=0.01, normalize=True)

    Source: Zhai and Wu 2019 (normalized softmax), https://arxiv.org/abs/1811.12649; (N, C, D): Singha et al. 2023
    (GOPro), https://arxiv.org/abs/2308.11605.
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
