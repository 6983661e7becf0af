"""Supervised contrastive loss: all rows with the same label are positives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import check, pair_loss, pair_reduce
from ..ranks import Batch, Group, announced
from .common import LossModule, check_options, inverse, reduced_empty, unit


@announced
def sup_con(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = False,
    reduction: str = "mean",
    memory_budget: int | None = None,
    backend: str = "auto",
    group: Group = None,
) -> Tensor:
    """Supervised contrastive loss, the "out" form: the mean over positives is outside the logarithm.

        L_i = log sum_{j != i} e^{z_ij} - 1/|P(i)| sum_{p in P(i)} z_ip,     z_ij = <x_i, x_j> / temperature,
        P(i) = other rows with i's label

    Args:
        features: (N, D), or (N, V, D): V views, each a row with its sample's label. Unit rows expected, or
            normalize=True.
        labels: (N,) integers.
        temperature: > 0, float or 0-dim tensor.
        reduction: "mean" over the rows that have a positive (0 if none has), "sum", or "none": (N,) or (N, V). A row
            without a positive has the value 0 and no gradient.

    Returns: float32, nats. Cost: 4 (N V)^2 D FLOP forward and backward.

    Source: Khosla et al. 2020, arXiv 2004.11362, eq. 2; the official code also multiplies by
    temperature / base_temperature.
    """
    check_options(reduction, memory_budget, backend)
    shape = check.features("features", features, ndim=3 if check.tensor("features", features).dim() == 3 else 2).shape
    x = unit(features.reshape(-1, shape[-1]), normalize)
    ids = check.ids("labels", labels, shape[0], features.device)
    ids = ids.repeat_interleave(shape[1]) if len(shape) == 3 else ids
    scale, batch = inverse(temperature, x), Batch.of(group, x.shape[0])
    if batch.total == 0:
        return reduced_empty(0, reduction, x, scale).reshape(shape[:-1] if reduction == "none" else ())
    share, has_positive = positive_shares(ids, batch, x.dtype)
    options: dict[str, Any] = {
        "scale": scale, "keep": "not_same_index", "positives": "same_id", "row_ids": ids, "memory_budget":
        memory_budget,
        "backend": backend, "group": batch.ranks,
    }  # fmt: skip
    if reduction == "none":
        stats = pair_reduce(x, **options)
        assert stats.row_positives is not None
        rows = torch.where(has_positive > 0, stats.rows, 0.0) - share * stats.row_positives
        return rows.reshape(shape[:-1])
    weight = batch.weight("sum") * has_positive
    if reduction == "mean":
        weight = weight / batch.sum(has_positive.sum()).clamp_min(1)
    return pair_loss(x, row_weight=weight, row_positive_weight=-weight * share, **options)


def positive_shares(ids: Tensor, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1 / |P(i)| (0 without positives) and whether the row has a positive, as numbers. Sorting needs no host sync."""
    ordered = batch.gather(ids).sort().values
    count = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids) - 1
    stat = torch.float64 if dtype == torch.float64 else torch.float32
    has_positive = (count > 0).to(stat)
    return has_positive / count.clamp_min(1), has_positive


class SupCon(LossModule):
    """Module twin of sup_con; forward(features, labels)."""

    function = staticmethod(sup_con)

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learnable_temperature: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        memory_budget: int | None = None,
        backend: str = "auto",
        group: Group = None,
    ) -> None:
        super().__init__(
            "temperature" if learnable_temperature else None, temperature=temperature, normalize=normalize,
            reduction=reduction, memory_budget=memory_budget, backend=backend, group=group,
        )  # fmt: skip
