"""inf_cl's cal_flash_loss, cal_ring_loss and cal_inf_loss: softmax cross-entropy of queries over keys (`inf_cl` 1.2.1).

One direction each, as there: the symmetric loss is the mean of a call with (q, k) and one with (k, q).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..literals import BackendName
from ..losses.common import reduced_empty, upcast
from ..ops import check, pair_loss, pair_reduce
from ..ranks import GlobalBatch, Group, collective
from .ranks import joint_gradient, ranks_of


def cal_flash_loss(
    q: Tensor,
    k: Tensor,
    labels: Tensor | None = None,
    scale: float | Tensor | None = None,
    head_dim: int = 256,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """Per-query losses, (N,):  L_i = log sum_j e^{scale <q_i, k_j>} - scale <q_i, k_labels(i)>.

    Args:
        q: Queries, (N, D). k: keys, (M, D). Any D. Not normalised here.
        labels: (N,) integers, the row of k that belongs to each query; negative numbers count from the end, as in
            indexing. Default 0 .. N-1, for which M must be at least N.
        scale: Multiplies the scores: number, tensor with one element, or one number per query, (N, 1). Default 1.
            With gradient.
        head_dim: The slices of D in which the package's kernels work; no effect here.
        memory_budget, backend: As in contrastile.pair_reduce.

    Returns: float32 (float64 for float64 features).
    """
    options = arguments(q, k, labels, scale, head_dim, memory_budget, backend)
    if q.shape[0] == 0:
        return reduced_empty(0, "none", q, k, options["scale"])
    stats = pair_reduce(q, k, **options)
    assert stats.row_positives is not None
    return stats.rows - stats.row_positives


def cal_inf_loss(
    q: Tensor,
    k: Tensor,
    labels: Tensor | None = None,
    scale: float | Tensor | None = None,
    head_dim: int = 256,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """The mean of cal_flash_loss over this process's queries, a scalar; arguments as there.

    In torch.distributed's default group the keys of all processes are candidates; labels count within own keys.
    Gradients of q and k are summed over processes, and that of scale is: it is the same on all of them, and W times
    that of the global batch.
    """
    ranks = ranks_of()
    scale = joint_gradient(scale, ranks)
    return mean_loss(q, k, labels, scale, head_dim, memory_budget=memory_budget, backend=backend, group=ranks)


@collective
def mean_loss(
    q: Tensor,
    k: Tensor,
    labels: Tensor | None,
    scale: float | Tensor | None,
    head_dim: int,
    *,
    memory_budget: int | None,
    backend: BackendName,
    group: Group,
) -> Tensor:
    options = arguments(q, k, labels, scale, head_dim, memory_budget, backend)
    batch = GlobalBatch.of(group, q.shape[0], facts=lambda: dict(labels=labels is not None))
    if batch.total == 0:
        return reduced_empty(0, "mean", q, k, options["scale"])
    if batch.ranks is not None:
        keys = GlobalBatch.of(group, k.shape[0]).index(q.device)
        rows = options.get("row_ids", torch.arange(q.shape[0], device=q.device))
        options |= {"positives": "same_id", "row_ids": keys[rows], "col_ids": keys, "group": batch.ranks}
    weight = batch.weight("mean")
    return pair_loss(q, k, row_weight=weight, row_positive_weight=-weight, **options)


def cal_ring_loss(
    q: Tensor,
    k: Tensor,
    labels: Tensor | None = None,
    scale: float | Tensor | None = None,
    head_dim: int = 256,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """The same value as cal_inf_loss: the package's two differ in how ranks exchange keys."""
    return cal_inf_loss(q, k, labels, scale, head_dim, memory_budget=memory_budget, backend=backend)


def arguments(
    q: Tensor,
    k: Tensor,
    labels: Tensor | None,
    scale: float | Tensor | None,
    head_dim: int,
    memory_budget: int | None,
    backend: BackendName,
) -> dict[str, Any]:
    """Checked, as options of pair_reduce."""
    check.same_width("k", check.features("k", k), "q", check.features("q", q))
    check.same_device("k", k, q.device)
    if isinstance(head_dim, bool) or not isinstance(head_dim, int) or head_dim < 1:
        raise ValueError(f"head_dim must be a positive int, got {head_dim!r}")
    check.backend(backend)
    check.budget(memory_budget)
    n, m = q.shape[0], k.shape[0]
    options: dict[str, Any] = {
        "scale": row_scale(scale, q), "positives": "same_index", "memory_budget": memory_budget, "backend": backend,
    }  # fmt: skip
    if labels is None:
        if m < n:
            raise ValueError(f"k must have at least as many rows as q without labels, {n}, got {m}")
        return options
    ids = torch.arange(m, device=q.device)
    # an index into the row numbers, not the labels themselves: one out of range fails here, as it does in k[labels]
    rows = ids[check.ids("labels", labels, n, q.device)]
    return options | {"positives": "same_id", "row_ids": rows, "col_ids": ids}


def row_scale(scale: float | Tensor | None, q: Tensor) -> float | Tensor:
    """A number or one per query; a scale per feature, which the package's `scale * q` would take, is refused."""
    if scale is None:
        return 1.0
    if isinstance(scale, Tensor) and scale.numel() != 1:
        if tuple(scale.shape) != (q.shape[0], 1):
            raise ValueError(f"scale must have one element or shape ({q.shape[0]}, 1), got {tuple(scale.shape)}")
        return upcast(check.vector("scale", scale.squeeze(1), q.shape[0], q.device))
    value = check.scalar("scale", scale.reshape(()) if isinstance(scale, Tensor) else scale, device=q.device)
    return upcast(value) if isinstance(value, Tensor) else value
