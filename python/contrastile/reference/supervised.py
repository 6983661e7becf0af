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
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Every row is pulled to all rows of its label: the mean log-probability of its positives.

        loss_i = -1/|P(i)| sum_{p in P(i)} log( e^{z_ip} / sum_{a != i} e^{z_ia} )
        z_ij   = <f_i, f_j> / temperature,   P(i) = {p != i : label_p = label_i}

    features (N,D), or views (k,N,D) or a list of k tensors (N,D), where every view is a row with its label. Rows
    without a positive are 0 and are not counted in the mean. "none" gives (N,) or (k,N).

    Source: Khosla et al. 2020 (arXiv 2004.11362), Eq. 2 (L_out); official code
    HobbitLong/SupContrast @66a8fe5, losses.py, which also multiplies by temperature /
    base_temperature and counts rows without a positive in its mean.
    """
    features = features if isinstance(features, Tensor) else torch.stack(list(features))
    shape = features.shape[:-1]
    rows = unit(features, normalize).flatten(end_dim=-2)
    if features.dim() == 3:
        labels = labels.repeat(features.shape[0])

    self_pair = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    positive = (labels[:, None] == labels[None, :]) & ~self_pair
    logits = (rows @ rows.T / temperature).masked_fill(self_pair, -torch.inf)
    # where, not a product: the self pair's log-probability is -inf and 0 * inf is NaN
    log_p = torch.where(positive, logits.log_softmax(dim=1), torch.zeros_like(logits))
    losses = -log_p.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    if reduction == "mean":
        return losses.sum() / positive.any(dim=1).sum().clamp(min=1)
    return reduce_rows(losses.reshape(shape), reduction)
