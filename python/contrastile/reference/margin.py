"""InfoNCE with a margin on the positive, CLIP less a share of its log-sum-exps."""

import math

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, masked_logsumexp, of_present, reduce_rows, unit


def margin_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    margin: float,
    kind: str = "cos",
    temperature: Scalar = 0.07,
    negatives: Tensor | None = None,
    in_batch: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    symmetric: bool = False,
    direction: str = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """softplus( log sum_negatives e^z - f(cos_ii) / temperature ), f: the cosine less the margin, or of the angle more.

    "arc": f(c) = c cos m - sqrt(1 - c^2) sin m, where the angle stays in [0, pi], else c - m sin m, m >= 0, and
    c + m sin m, m < 0. Candidates are keys (in_batch) and negatives whose id is not the query's.

    Source: InterCLR, Xie et al. 2020 (arXiv 2008.11702); official code mmselfsup @920deff, interclr_moco.py.
    """
    key_ids = query_ids if key_ids is None else key_ids
    query, key, query_ids, key_ids = (of_present(x, present) for x in (query, key, query_ids, key_ids))
    query, key = unit(query, normalize), unit(key, normalize)
    row, col = direction_weights(direction) if symmetric else (1.0, 0.0)
    positive = _with_margin((query * key).sum(dim=1), margin, kind)
    other = ~torch.eye(len(query), dtype=torch.bool, device=query.device)
    losses = torch.zeros_like(query[:, 0])
    for weight, x, y, x_ids, y_ids in ((row, query, key, query_ids, key_ids), (col, key, query, key_ids, query_ids)):
        if not weight:
            continue
        keep = other if x_ids is None or y_ids is None else other & (x_ids[:, None] != y_ids)
        similarity = x @ y.T
        if not in_batch:
            similarity, keep = similarity[:, :0], keep[:, :0]
        if negatives is not None and x is query:
            similarity = torch.cat([similarity, x @ unit(negatives, normalize).T], dim=1)
            more = torch.ones(len(x), len(negatives), dtype=torch.bool, device=x.device)
            if x_ids is not None and negative_ids is not None:
                more = x_ids[:, None] != negative_ids
            keep = torch.cat([keep, more], dim=1)
        logits = torch.cat([positive[:, None], similarity], dim=1) / temperature
        keep = torch.cat([keep.new_ones(len(x), 1), keep], dim=1)
        losses = losses + weight * (masked_logsumexp(logits, keep) - logits[:, 0])
    return reduce_rows(losses, reduction, weights, present)


def _with_margin(cosine: Tensor, margin: float, kind: str) -> Tensor:
    if kind == "cos":
        return cosine - margin
    inside = cosine.abs() < 1
    sine = torch.where(inside, (1 - torch.where(inside, cosine, torch.zeros_like(cosine)) ** 2).sqrt(), 0.0)
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    if margin < 0:
        return torch.where(cosine < math.cos(margin), turned, cosine + math.sin(margin) * margin)
    return torch.where(cosine > math.cos(math.pi - margin), turned, cosine - math.sin(math.pi - margin) * margin)


def cma_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar,
    *,
    lam: float,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    direction: str = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """CLIP's cross entropies, less lam times the log-sum-exps of the same logits; pairs of equal ids are left out.

    Source: CMA, Kim and Hwang 2025 (arXiv 2503.18817); official code ma-kjh/CMA-OoDD @d7b6752, utils/train_utils.py.
    """
    text_ids = image_ids if text_ids is None else text_ids
    image, text, image_ids, text_ids = (
        of_present(x, present) for x in (image_features, text_features, image_ids, text_ids)
    )
    image, text = unit(image, normalize), unit(text, normalize)
    keep = torch.eye(len(image), dtype=torch.bool, device=image.device)
    keep = keep | (torch.ones_like(keep) if image_ids is None or text_ids is None else image_ids[:, None] != text_ids)
    logits, losses = logit_scale * image @ text.T, torch.zeros_like(image[:, 0])
    for weight, z, kept in zip(direction_weights(direction), (logits, logits.T), (keep, keep.T), strict=True):
        log_total = masked_logsumexp(z, kept)
        losses = losses + weight * (log_total - z.diagonal() - lam * log_total)
    return reduce_rows(losses, reduction, weights, present)
