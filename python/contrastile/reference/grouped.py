"""Each query against its own candidates alone."""

from typing import Any

import torch
from torch import Tensor

from ._dense import Scalar, of_present, own_candidates, reduce_rows, unit


def grouped_info_nce(
    query: Tensor,
    positive: Tensor,
    hard_negatives: Any,
    *,
    temperature: Scalar = 0.07,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of the positive among itself and the query's own candidates.

        loss_i = -log( e^{z_i} / (e^{z_i} + sum_k e^{z_ik}) ),   z = <q, .> / temperature_i + bias

    hard_negatives: (N, K, D), or contrastile.Candidates.

    Source: DeGLA (arXiv 2504.16801), Eq. 8; FG-CLIP 2 (arXiv 2510.10921), official code.
    """
    own, others, missing = _logits(query, positive, hard_negatives, temperature, present, normalize)
    every = torch.cat([own[:, None], others.masked_fill(missing, -torch.inf)], dim=1)
    return reduce_rows(-every.log_softmax(dim=1)[:, 0], reduction, weights, present)


def grouped_margin_loss(
    query: Tensor,
    positive: Tensor,
    hard_negatives: Any,
    *,
    margin: float,
    temperature: Scalar = 1.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Hinge of each own candidate against the positive.

        loss_i = mean_k max(0, margin + z_ik - z_i),   z as in `grouped_info_nce`

    Source: FG-CLIP 2 (arXiv 2510.10921), official code, get_cmr_loss.
    """
    own, others, missing = _logits(query, positive, hard_negatives, temperature, present, normalize)
    hinge = (margin + others - own[:, None]).clamp_min(0.0).masked_fill(missing, 0.0)
    return reduce_rows(hinge.sum(dim=1) / (~missing).sum(dim=1).clamp_min(1), reduction, weights, present)


def _logits(
    query: Tensor, positive: Tensor, hard_negatives: Any, temperature: Scalar, present: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """z_i (N,), z_ik (N, K), and which candidates are missing."""
    query, positive, temperature = (of_present(x, present) for x in (query, positive, temperature))
    query, positive = unit(query, normalize), unit(positive, normalize)
    features, missing, bias = own_candidates(hard_negatives, normalize, present)
    each = temperature[:, None] if isinstance(temperature, Tensor) and temperature.dim() else temperature
    others = torch.einsum("nd,nkd->nk", query, features) / each + bias
    return (query * positive).sum(dim=1) / temperature, others, missing
