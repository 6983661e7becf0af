"""Supervised contrastive loss (SupCon)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._dense import Scalar, reduce_rows, unit


def sup_con(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: Scalar = 0.1,
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Every row is pulled to all rows of its label: the mean log-probability of its positives.

        loss_i = -1/|P(i)| sum_{p in P(i)} log( e^{z_ip} / sum_{a != i} e^{z_ia} )
        z_ij   = <f_i, f_j> / temperature,   P(i) = {p != i : label_p = label_i}

    features (N,D), or views (k,N,D) or a list of k tensors (N,D), where every view is a row with its label. Rows
    without a positive are 0 and are not counted in the mean, which is weighted; samples that are not present are taken
    out of the batch. detach_keys: f_j is a constant. "none" gives (N,) or (k,N).

    Source: Khosla et al. 2020 (arXiv 2004.11362), Eq. 2 (L_out); official code
    HobbitLong/SupContrast @66a8fe5, losses.py, which also multiplies by temperature /
    base_temperature and counts rows without a positive in its mean.
    """
    features = features if isinstance(features, Tensor) else torch.stack(list(features))
    shape, n = features.shape[:-1], features.shape[-2]
    there = torch.ones(n, dtype=torch.bool, device=features.device) if present is None else present
    features, labels = features[..., there, :], labels[there]
    rows = unit(features, normalize).flatten(end_dim=-2)
    views = features.shape[0] if features.dim() == 3 else 1
    labels, there = labels.repeat(views), there.repeat(views)

    self_pair = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    positive = (labels[:, None] == labels[None, :]) & ~self_pair
    logits = (rows @ (rows.detach() if detach_keys else rows).T / temperature).masked_fill(self_pair, -torch.inf)
    # where, not a product: the self pair's log-probability is -inf and 0 * inf is NaN
    log_p = torch.where(positive, logits.log_softmax(dim=1), torch.zeros_like(logits))
    losses = -log_p.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    each = torch.ones_like(losses) if weights is None else weights.repeat(views)[there]
    if reduction == "mean":
        total = (each * positive.any(dim=1)).sum()
        return (each * losses).sum() / torch.where(total > 0, total, torch.ones_like(total))
    return reduce_rows(losses.new_zeros(len(there)).masked_scatter(there, each * losses).reshape(shape), reduction)
