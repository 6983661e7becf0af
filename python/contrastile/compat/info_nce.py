"""info-nce-pytorch 0.1.4: InfoNCE and info_nce. Cosine similarities; the package itself is not needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..literals import BackendName, Reduction
from ..losses import info_nce as in_batch_info_nce
from ..losses.common import engine_options, inverse, reduced_empty, unit
from ..ops import check
from ..ranks import GlobalBatch
from .candidates import private_negatives, shared_negatives
from .common import autocast_features

MODES = ("unpaired", "paired")


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    negative_mode: str = "unpaired",
    *,
    backend: BackendName = "auto",
    memory_budget: int | None = None,
) -> Tensor:
    """InfoNCE of unit rows against the keys of the batch, or against negative_keys instead of them.

    Args:
        query, positive_key: (N, D), any length: rows are normalised.
        negative_keys: None: the other keys of the batch. (M, D) with negative_mode="unpaired": shared by all queries.
            (N, M, D) with "paired": each query's own.
        temperature: > 0, float or tensor with one element.
        reduction: "mean" | "sum" | "none": (N,).
        backend, memory_budget: As in contrastile.info_nce.

    Returns: float32 (float64 for float64 rows). An empty batch gives 0.
    """
    check.choice("negative_mode", negative_mode, MODES)
    engine_options(reduction, memory_budget, backend, None)
    _check_shapes(query, positive_key, negative_keys, negative_mode)
    scale = inverse(temperature, query)
    query, positive_key, negative_keys = _unit_rows(query, positive_key, negative_keys)
    if query.shape[0] == 0:
        return reduced_empty(0, reduction, query, positive_key, scale, negative_keys)
    if negative_keys is None:
        query, positive_key = autocast_features(query, positive_key)
        return in_batch_info_nce(
            query, positive_key, temperature=temperature, reduction=reduction, backend=backend,
            memory_budget=memory_budget,
        )  # fmt: skip
    batch = GlobalBatch.of(None, query.shape[0])
    if negative_mode == "paired":
        return batch.reduced(private_negatives(query, positive_key, negative_keys, scale), reduction)
    rows = shared_negatives(query, positive_key, negative_keys, scale, backend=backend, memory_budget=memory_budget)
    return batch.reduced(rows, reduction)


def _check_shapes(query: Tensor, positive_key: Tensor, negative_keys: Tensor | None, mode: str) -> None:
    check.same_shape(
        "positive_key", check.features("positive_key", positive_key), "query", check.features("query", query)
    )
    check.same_device("positive_key", positive_key, query.device)
    if negative_keys is None:
        return
    paired = mode == "paired"
    check.features("negative_keys", negative_keys, ndim=3 if paired else 2)
    check.same_width("negative_keys", negative_keys, "query", query)
    check.same_device("negative_keys", negative_keys, query.device)
    if paired and negative_keys.shape[0] != query.shape[0]:
        raise ValueError(
            f"negative_keys must have shape ({query.shape[0]}, M, D) with negative_mode='paired', "
            f"got {tuple(negative_keys.shape)}"
        )


def _unit_rows(query: Tensor, key: Tensor, negatives: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    dtype = torch.promote_types(query.dtype, key.dtype)
    if negatives is not None:
        dtype = torch.promote_types(dtype, negatives.dtype)
        negatives = unit(negatives.to(dtype), True)
    return unit(query.to(dtype), True), unit(key.to(dtype), True), negatives


class InfoNCE(nn.Module):
    """Module twin of info_nce; forward(query, positive_key, negative_keys=None)."""

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        reduction: Reduction = "mean",
        negative_mode: str = "unpaired",
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.negative_mode = negative_mode
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        return info_nce(
            query, positive_key, negative_keys, self.temperature, self.reduction, self.negative_mode,
            backend=self.backend, memory_budget=self.memory_budget,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, reduction={self.reduction!r}, negative_mode={self.negative_mode!r}"
