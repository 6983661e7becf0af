"""Rows that meet their own key and given negatives only, never the keys of other rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName
from ..losses.common import paired_dot, private_dots, upcast
from ..ops import row_lse, softplus
from .common import autocast_features


def shared_negatives(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    scale: float | Tensor,
    *,
    backend: BackendName,
    memory_budget: int | None,
) -> Tensor:
    """log(e^{z_ii} + sum_j e^{z_ij}) - z_ii over the negatives j (M, D) that all rows share, (N,)."""
    query, key, negatives = autocast_features(query, key, negatives)
    compute = torch.promote_types(query.dtype, negatives.dtype)
    query, key, negatives = upcast(query), upcast(key), upcast(negatives)  # gradients meet in float32
    others = row_lse(
        query, negatives, scale=scale, compute_dtype=compute, backend=backend, memory_budget=memory_budget
    )  # fmt: skip
    return softplus(others - scale * paired_dot(query, key))


def private_negatives(query: Tensor, key: Tensor, negatives: Tensor, scale: float | Tensor) -> Tensor:
    """The same with negatives (N, M, D) of each row's own: N M logits, so there are no pairs to avoid."""
    query, key, negatives = (upcast(x) for x in autocast_features(query, key, negatives))
    logits = private_dots(query, negatives) * scale
    return softplus(logits.logsumexp(1) - scale * paired_dot(query, key))
