"""Supervised contrastive loss: all rows with the same label are positives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import Pairs, PairStats, Weights, check, pair_stats, softplus, weighted_sum
from ..ranks import GlobalBatch, Group, collective
from .common import cleaned, engine_options, inverse, like_statistics, reduced_empty, unit
from .views import Views, stacked
from .weights import Counted, keep_present, mean_weight, weighed


@collective
def sup_con(
    features: Views,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Supervised contrastive loss, the "out" form: the mean over positives is outside the logarithm.

        L_i = log sum_{j != i} e^{z_ij} - 1/|P(i)| sum_{p in P(i)} z_ip,     z_ij = <x_i, x_j> / temperature,
        P(i) = other rows with i's label

    Args:
        features: (N, D), or k views of the same N samples, (k, N, D) or a list of k tensors (N, D), as in mv_infonce:
            each is a row with its sample's label. Unit rows expected, or normalize=True. The official code has
            (N, V, D): features.unbind(1) makes that a list of views.
        labels: (N,) integers.
        temperature: > 0, float or 0-dim tensor.
        detach_keys: Candidates get no gradient, positives neither. Costs 4 (k N)^2 D FLOP, too.
        weights, present: (N,), of samples, as in info_nce: a sample that is missing is no row and nobody's candidate.
        reduction: "mean" over the rows that have a positive (0 if none has), "sum", or "none": (N,) or (k, N). A row
            without a positive has the value 0 and no gradient.

    Returns: float32, nats. Cost: 4 (k N)^2 D FLOP forward and backward.

    Source: Khosla et al. 2020, arXiv 2004.11362, eq. 2; the official code also multiplies by
    temperature / base_temperature.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    views = one_or_more_views(features, labels)
    k, n, _ = views.shape
    counted = Counted.of(weights, present, views[0])
    here = None if counted.present is None else counted.present.repeat(k)
    x = unit(cleaned(views.flatten(0, 1), here), normalize)
    shape = (n,) if isinstance(features, Tensor) and features.dim() == 2 else (k, n)
    ids = check.ids("labels", labels, n, x.device).repeat(k)
    scale, batch = (
        inverse(temperature, x),
        GlobalBatch.of(engine.ranks, x.shape[0], facts=lambda: dict(**counted.facts(), detach_keys=bool(detach_keys))),
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, x, scale).reshape(shape if reduction == "none" else ())
    share, each = positive_shares(ids, here, batch, x)
    if counted.weights is not None:
        each = each * counted.weights.repeat(k)
    pairs = Pairs(x, None, scale, keep="other_index", positives=("same_id", "other_index"), row_ids=ids)
    if detach_keys:
        pairs.b, pairs.col_ids = x.detach(), ids
    keep_present(pairs, here, [here] if detach_keys else [])
    if here is not None:
        pairs.positives = ("same_id", "other_index", "same_group")
    if reduction == "none":
        pairs.split = True
        return weighed(each, row_losses(pair_stats(pairs, engine), share)).reshape(shape)
    weight = mean_weight(batch, each, reduction)
    return weighted_sum(pairs, Weights(weight, -weight * share), engine)


def row_losses(stats: PairStats, share: Tensor) -> Tensor:
    """log-sum-exp minus the mean positive. A single positive is the log-sum-exp of positives: written so, a converged
    model's loss keeps its digits."""
    others, positives, mean = stats.row_negatives, stats.row_positives_lse, stats.row_positives
    assert others is not None and positives is not None and mean is not None
    beyond = torch.where(share == 1.0, 0.0, positives - share * mean)
    return softplus(others - positives) + beyond


def one_or_more_views(features: Views, labels: Tensor) -> Tensor:
    """(k, N, D); one view may come as (N, D)."""
    if isinstance(features, Tensor) and features.dim() != 3:
        return check.features("features", features).unsqueeze(0)
    x = stacked(features, name="features", least=1)
    if isinstance(labels, Tensor) and labels.dim() == 1 and labels.shape[0] == x.shape[0] != x.shape[1]:
        raise ValueError(
            f"features must have the views first, (k, N, D) with N = {labels.shape[0]} labels, got {tuple(x.shape)}; "
            "features.unbind(1) makes (N, V, D) a list of views"
        )
    return x


def positive_shares(ids: Tensor, present: Tensor | None, batch: GlobalBatch, like: Tensor) -> tuple[Tensor, Tensor]:
    """1 / |P(i)| (0 without positives) and whether the row is there and has a positive, as numbers. Sorting needs no
    host sync."""
    ordered, order = batch.gather(ids).sort()
    first, last = torch.searchsorted(ordered, ids), torch.searchsorted(ordered, ids, right=True)
    if present is None:
        count = last - first - 1
    else:  # of those that are there
        before = torch.nn.functional.pad(batch.gather(present.long())[order].cumsum(0), (1, 0))
        count = torch.where(present, before[last] - before[first] - 1, 0)
    has_positive = like_statistics(count > 0, like)
    return has_positive / count.clamp_min(1), has_positive
