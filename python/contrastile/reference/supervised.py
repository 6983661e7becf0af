"""Supervised contrastive loss (SupCon)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._dense import Scalar, masked_logsumexp, reduce_rows, unit
from .multi_positive import anchor_losses


def sup_con(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    keys_as: str = "candidates",
    anchor_mask: Tensor | None = None,
    form: str = "out",
    per_pair: bool = False,
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

    or one of the other forms of multi_positive. features (N,D), or views (k,N,D) or a list of k tensors (N,D), where
    every view is a row with its label. labels (N,), or sets (N,L) bool, which are equal where they meet. Keys are
    further columns; as "positives" they alone are in P(i), and they are not in the sum over a. Rows without a positive
    or outside of anchor_mask are 0 and not counted in the mean, which is weighted, by |P(i)| too with per_pair; samples
    that are not present are taken out of the batch. detach_keys: f_j is a constant. "none" gives (N,) or (k,N).

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
    labels, each = torch.cat([labels] * views), torch.ones(n, device=rows.device, dtype=rows.dtype)
    for counted in (weights, anchor_mask):
        each = each if counted is None else each * counted
    each, there = each[there].repeat(views), there.repeat(views)

    columns, classes = [rows], [labels]
    if keys is not None and key_labels is not None:
        columns.append(unit(keys, normalize))
        classes.append(key_labels)
    every, known = torch.cat(columns), torch.cat(classes)
    place = torch.arange(len(every), device=rows.device)
    self_pair, is_key = place[: len(rows), None] == place[None, :], (place >= len(rows))[None, :]
    if labels.dim() == 2:
        same = labels.double() @ known.double().T > 0
    else:
        same = labels[:, None] == known[None, :]
    logits = rows @ (every.detach() if detach_keys else every).T / temperature
    if keys_as == "positives":
        rest = ~(self_pair | is_key)
        positive = same & is_key & rest.any(1, keepdim=True)  # a row alone has nothing to be compared with
        rest = rest | ~rest.any(1, keepdim=True)
        mean = torch.where(positive, logits, torch.zeros_like(logits)).sum(1) / positive.sum(1).clamp(min=1)
        losses = masked_logsumexp(logits, rest) - mean
        losses = torch.where(positive.any(1), losses, torch.zeros_like(losses))
    else:
        positive = same & ~self_pair
        losses = anchor_losses(logits, positive, ~same & ~self_pair, form)
    counts = positive.sum(1)
    each = each * (counts if per_pair else (counts > 0).to(each))
    if reduction == "mean":
        total = each.sum()
        return (each * losses).sum() / torch.where(total > 0, total, torch.ones_like(total))
    return reduce_rows(losses.new_zeros(len(there)).masked_scatter(there, each * losses).reshape(shape), reduction)
