"""Softmax contrastive losses: InfoNCE, CLIP, NT-Xent."""

import torch
from torch import Tensor

from ._dense import Scalar, masked_logsumexp, reduce_rows, two_view_logits, unit


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scalar = 0.07,
    negatives: Tensor | None = None,
    hard_negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    false_negative_margin: float | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = False,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of each query's own key against all candidate columns.

        loss_i = -log( e^{z_ii} / sum_{j kept} e^{z_ij} ),   z_ij = <q_i, c_j> / temperature
        c      = [key (N,D) | negatives (M,D) | hard_negatives[i] (K,D)]

    A column of `key` or `negatives`, other than the own key, is not kept if its id equals the
    row's, or if <q_i, c_j> > <q_i, k_i> + false_negative_margin. With label_smoothing e the loss is
    (1-e) loss_i - e mean_j log p_ij. symmetric: mean with the key -> query direction, whose only
    columns are the queries.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), Eq. 4; margin: Qwen3-Embedding
    (arXiv 2506.05176); label smoothing: the convention of torch.nn.functional.cross_entropy.
    """
    if symmetric and isinstance(temperature, Tensor) and temperature.dim() > 0:
        raise ValueError("a temperature per row of query has no meaning for symmetric=True")
    if query_ids is None and (key_ids is not None or negative_ids is not None):
        raise ValueError("key_ids and negative_ids need query_ids")
    _check_smoothing(label_smoothing, query_ids, false_negative_margin)
    query, key = unit(query, normalize), unit(key, normalize)
    key_ids = query_ids if key_ids is None else key_ids

    columns, column_ids = key, key_ids
    if negatives is not None:
        columns = torch.cat([key, unit(negatives, normalize)])
        if key_ids is not None and negative_ids is not None:
            column_ids = torch.cat([key_ids, negative_ids])
    similarity = query @ columns.T  # (N, N+M)
    removed = _false_negatives(similarity, query_ids, column_ids, false_negative_margin)
    if hard_negatives is not None:
        hard = torch.einsum("nd,nkd->nk", query, unit(hard_negatives, normalize))
        similarity = torch.cat([similarity, hard], dim=1)
        removed = torch.cat([removed, torch.zeros_like(hard, dtype=torch.bool)], dim=1)
    if isinstance(temperature, Tensor) and temperature.dim() == 1:
        temperature = temperature[:, None]
    rows = _cross_entropy(similarity / temperature, removed, label_smoothing)

    if symmetric:
        similarity = key @ query.T
        removed = _false_negatives(similarity, key_ids, query_ids, false_negative_margin)
        rows = (rows + _cross_entropy(similarity / temperature, removed, label_smoothing)) / 2
    return reduce_rows(rows, reduction)


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar,
    *,
    label_smoothing: float = 0.0,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Mean of the image -> text and text -> image cross-entropies of matched pairs.

        z = logit_scale * I T^T;   loss_i = ( -log softmax(z)_ii - log softmax(z^T)_ii ) / 2

    Ids and label smoothing as in `info_nce`.

    Source: Radford et al. 2021 (arXiv 2103.00020), Figure 3; official form: open_clip `ClipLoss`.
    """
    if image_ids is None and text_ids is not None:
        raise ValueError("text_ids needs image_ids")
    _check_smoothing(label_smoothing, image_ids, None)
    text_ids = image_ids if text_ids is None else text_ids
    similarity = unit(image_features, normalize) @ unit(text_features, normalize).T
    logits = logit_scale * similarity
    removed = _false_negatives(similarity, image_ids, text_ids, None)
    image_to_text = _cross_entropy(logits, removed, label_smoothing)
    text_to_image = _cross_entropy(logits.T, removed.T, label_smoothing)
    return reduce_rows((image_to_text + text_to_image) / 2, reduction)


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.5,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each of the 2N rows [z1; z2] finds its other view among all rows but itself.

        loss_i = -z_{i,p(i)} + log sum_{k != i} e^{z_ik},   z_ik = <z_i, z_k> / temperature

    Source: SimCLR, Chen et al. 2020 (arXiv 2002.05709), Eq. 1.
    """
    logits, positive = two_view_logits(unit(z1, normalize), unit(z2, normalize), temperature)
    not_self = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return reduce_rows(masked_logsumexp(logits, not_self) - positive, reduction)


def _check_smoothing(smoothing: float, ids: Tensor | None, margin: float | None) -> None:
    if smoothing and (ids is not None or margin is not None):
        raise ValueError("label_smoothing cannot be combined with ids or false_negative_margin")


def _false_negatives(
    similarity: Tensor, row_ids: Tensor | None, column_ids: Tensor | None, margin: float | None
) -> Tensor:
    """(N, C) bool: the column leaves the row's denominator. Never the diagonal, the positive."""
    removed = torch.zeros_like(similarity, dtype=torch.bool)
    if row_ids is not None and column_ids is not None:  # columns beyond column_ids have no id
        removed[:, : len(column_ids)] |= row_ids[:, None] == column_ids[None, :]
    if margin is not None:
        removed |= similarity > similarity.diagonal()[:, None] + margin
    own = torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    return removed & ~own


def _cross_entropy(logits: Tensor, removed: Tensor, smoothing: float) -> Tensor:
    """Per-row cross-entropy with target 1-e on the diagonal plus e spread over all columns."""
    log_p = logits.masked_fill(removed, -torch.inf).log_softmax(dim=1)
    nll = -log_p.diagonal()
    if not smoothing:
        return nll
    return (1 - smoothing) * nll - smoothing * log_p.mean(dim=1)
