"""Softmax contrastive losses: InfoNCE, CLIP, NT-Xent."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._dense import (
    Scalar,
    direction_weights,
    masked_logsumexp,
    of_present,
    over_prefixes,
    own_candidates,
    reduce_rows,
    reduce_views,
    two_view_logits,
    unit,
)  # fmt: skip
from ._sides import Side, with_sides


@over_prefixes("query", "key", "negatives", "hard_negatives")
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scalar = 0.07,
    key_temperature: Scalar | None = None,
    negatives: Tensor | None = None,
    hard_negatives: Any = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    key_log_prob: Tensor | None = None,
    negative_log_prob: Tensor | None = None,
    positive_log_prob: bool = True,
    false_negative_margin: float | None = None,
    relative_margin: float | None = None,
    num_hard: int | None = None,
    in_batch: bool = True,
    query_query: bool = False,
    key_key: bool = False,
    key_query: bool = False,
    label_smoothing: float = 0.0,
    symmetric: bool = False,
    direction: str = "mean",
    detach_keys: bool = False,
    key_offset: int = 0,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of each query's own key against all candidate columns.

        loss_i = -log( e^{z_io} / sum_{j kept} e^{z_ij} ),   z_ij = <q_i, c_j> / temperature_i - log_prob_j
        c      = [key (M,D) | negatives | hard_negatives[i] (K,D)],   o = i + key_offset

    A column of `key` or `negatives`, other than the own key, is not kept if its id equals the
    row's, if its group does not, if <q_i, c_j> > <q_i, k_o> + false_negative_margin, or if <q_i, c_j> > <q_i, k_o> -
    relative_margin |<q_i, k_o>|; with in_batch=False no other column of key is kept. With label_smoothing e the loss
    is (1-e) loss_i - e mean_j log p_ij. symmetric: with the key -> query direction, whose only
    columns are the queries, divided by key_temperature (default: the same) and without log_prob; direction says how
    both are joined. positive_log_prob=False: z_io has no log_prob. detach_keys: c is a constant in either direction.
    present: pairs that are not are taken out of the batch. hard_negatives: (N,K,D), or contrastile.Candidates, of which
    those that are missing are no candidates and whose bias is added to their logits. num_hard: of the negatives that
    are kept, those below the num_hard-th largest of the row are dropped, too. matryoshka: the sum over these prefixes
    of the features, each unit rows if normalize. query_query, key_key, key_query: in either direction the candidates of
    pair i are also <q_i, q_j>, <k_o, k_j>, <k_o, q_j> of other pairs, by the same rules.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), Eq. 4; margin: Qwen3-Embedding
    (arXiv 2506.05176); label smoothing: the convention of torch.nn.functional.cross_entropy; num_hard: Wang and Liu
    2021 (arXiv 2012.09740), Eq. 9.
    """
    if query_ids is None and (key_ids is not None or negative_ids is not None):
        raise ValueError("key_ids and negative_ids need query_ids")
    _check_smoothing(label_smoothing, query_ids, relative_margin if false_negative_margin is None else 0.0)
    if present is not None:
        column = torch.ones(len(key), dtype=torch.bool, device=key.device)
        column[key_offset : key_offset + len(query)] = present
        query, temperature = of_present(query, present), of_present(temperature, present)
        query_ids, query_groups, key_temperature = (
            of_present(x, present) for x in (query_ids, query_groups, key_temperature)
        )
        key, key_ids, key_groups, key_log_prob = (
            of_present(x, column) for x in (key, key_ids, key_groups, key_log_prob)
        )
    query, key = unit(query, normalize), unit(key, normalize)
    own = key[key_offset : key_offset + len(query)]
    own_ids = query_ids if key_ids is None else key_ids[key_offset : key_offset + len(query)]
    own_groups = query_groups if key_groups is None else key_groups[key_offset : key_offset + len(query)]
    row, col = direction_weights(direction) if symmetric else (1.0, 0.0)
    losses = torch.zeros_like(query[:, 0])
    sides = (
        Side(query, query_ids, query_groups),
        Side(key, query_ids if key_ids is None else key_ids, query_groups if key_groups is None else key_groups),
    )
    asked, margins = (query_query, key_key, key_query), (false_negative_margin, relative_margin)

    if row:
        columns = key if negatives is None else torch.cat([key, unit(negatives, normalize)])
        similarity = query @ (columns.detach() if detach_keys else columns).T
        column_ids = query_ids if key_ids is None else key_ids
        if column_ids is not None and negative_ids is not None:
            column_ids = torch.cat([column_ids, negative_ids])
        column_groups = query_groups if key_groups is None else key_groups
        if column_groups is not None and negative_groups is not None:
            column_groups = torch.cat([column_groups, negative_groups])
        removed = _false_negatives(similarity, query_ids, column_ids, *margins, key_offset)
        if not in_batch:
            removed[:, : len(key)] |= ~_diagonal(similarity, key_offset)[:, : len(key)]
        removed = removed | _other_groups(similarity, query_groups, column_groups, key_offset)
        bias = torch.zeros_like(similarity)
        if key_log_prob is not None:
            bias[:, : len(key)] = -key_log_prob
        if negative_log_prob is not None:
            bias[:, len(key) :] = -negative_log_prob
        if not positive_log_prob:
            bias = bias.masked_fill(_diagonal(bias, key_offset), 0.0)
        logits = similarity / _of_rows(temperature) + bias
        if hard_negatives is not None:
            hard_negatives = hard_negatives.detach() if detach_keys else hard_negatives
            own_features, missing, bias = own_candidates(hard_negatives, normalize, present)
            hard = torch.einsum("nd,nkd->nk", query, own_features) / _of_rows(temperature) + bias
            logits = torch.cat([logits, hard], dim=1)
            removed = torch.cat([removed, missing], dim=1)
        removed = removed | _too_easy(logits, removed, num_hard, key_offset)
        frozen = (False, detach_keys)
        logits, removed = with_sides(logits, removed, *sides, key_offset, temperature, asked, margins, frozen)
        losses = losses + row * _cross_entropy(logits, removed, label_smoothing, key_offset)
    if col:
        similarity = own @ (query.detach() if detach_keys else query).T
        removed = _false_negatives(similarity, own_ids, query_ids, false_negative_margin, relative_margin)
        removed = removed | _other_groups(similarity, own_groups, query_groups)
        back, frozen = temperature if key_temperature is None else key_temperature, (detach_keys, False)
        logits = similarity / _of_rows(back)
        removed = removed | _too_easy(logits, removed, num_hard)
        logits, removed = with_sides(logits, removed, *sides, key_offset, back, asked, margins, frozen)
        losses = losses + col * _cross_entropy(logits, removed, label_smoothing)
    return reduce_rows(losses, reduction, weights, present)


@over_prefixes("image_features", "text_features")
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar,
    *,
    text_logit_scale: Scalar | None = None,
    label_smoothing: float = 0.0,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    image_groups: Tensor | None = None,
    text_groups: Tensor | None = None,
    direction: str = "mean",
    detach_keys: bool = False,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Mean of the image -> text and text -> image cross-entropies of matched pairs.

        z = logit_scale * I T^T;   loss_i = ( -log softmax(z)_ii - log softmax(z^T)_ii ) / 2

    logit_scale, and text_logit_scale of the second term, may be one per pair. All other arguments as in `info_nce`.

    Source: Radford et al. 2021 (arXiv 2103.00020), Figure 3; official form: open_clip `ClipLoss`.
    """
    if image_ids is None and text_ids is not None:
        raise ValueError("text_ids needs image_ids")
    _check_smoothing(label_smoothing, image_ids, None)
    image_features, text_features, image_ids, text_ids, logit_scale, text_logit_scale = (
        of_present(x, present)
        for x in (image_features, text_features, image_ids, text_ids, logit_scale, text_logit_scale)
    )
    image_groups, text_groups = of_present(image_groups, present), of_present(text_groups, present)
    text_ids = image_ids if text_ids is None else text_ids
    text_groups = image_groups if text_groups is None else text_groups
    image, text = unit(image_features, normalize), unit(text_features, normalize)
    back_scale = logit_scale if text_logit_scale is None else text_logit_scale
    row, col = direction_weights(direction)
    losses = torch.zeros_like(image[:, 0])
    for weight, x, y, scale, x_ids, y_ids, x_groups, y_groups in (
        (row, image, text, logit_scale, image_ids, text_ids, image_groups, text_groups),
        (col, text, image, back_scale, text_ids, image_ids, text_groups, image_groups),
    ):
        if weight:
            similarity = x @ (y.detach() if detach_keys else y).T
            removed = _false_negatives(similarity, x_ids, y_ids, None) | _other_groups(similarity, x_groups, y_groups)
            losses = losses + weight * _cross_entropy(_of_rows(scale) * similarity, removed, label_smoothing)
    return reduce_rows(losses, reduction, weights, present)


@over_prefixes("z1", "z2")
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Scalar = 0.5,
    direction: str = "mean",
    detach_keys: bool = False,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each of the 2N rows [z1; z2] finds its other view among all rows but itself.

        loss_i = -z_{i,p(i)} + log sum_{k != i} e^{z_ik},   z_ik = <z_i, z_k> / temperature

    Source: SimCLR, Chen et al. 2020 (arXiv 2002.05709), Eq. 1.
    """
    z1, z2 = (unit(of_present(z, present), normalize) for z in (z1, z2))
    logits, positive = two_view_logits(z1, z2, temperature, detach_keys)
    not_self = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return reduce_views(masked_logsumexp(logits, not_self) - positive, direction, reduction, weights, present)


def _check_smoothing(smoothing: float, ids: Tensor | None, margin: float | None) -> None:
    if smoothing and (ids is not None or margin is not None):
        raise ValueError("label_smoothing cannot be combined with ids or false_negative_margin")


def _of_rows(x: Scalar) -> Scalar:
    """A number, or one for each row of a matrix."""
    return x[:, None] if isinstance(x, Tensor) and x.dim() == 1 else x


def _diagonal(like: Tensor, offset: int = 0) -> Tensor:
    """(N, C) bool: column i + offset of row i."""
    rows, columns = (torch.arange(size, device=like.device) for size in like.shape)
    return rows[:, None] + offset == columns


def _false_negatives(
    similarity: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    margin: float | None,
    relative: float | None = None,
    offset: int = 0,
) -> Tensor:
    """(N, C) bool: the column leaves the row's denominator. Never the diagonal, the positive."""
    removed = torch.zeros_like(similarity, dtype=torch.bool)
    if row_ids is not None and column_ids is not None:  # columns beyond column_ids have no id
        removed[:, : len(column_ids)] |= row_ids[:, None] == column_ids[None, :]
    positive = similarity.diagonal(offset)[: len(similarity), None]
    if margin is not None:
        removed |= similarity > positive + margin
    if relative is not None:
        removed |= similarity > positive - relative * positive.abs()
    return removed & ~_diagonal(similarity, offset)


def _other_groups(
    similarity: Tensor, row_groups: Tensor | None, column_groups: Tensor | None, offset: int = 0
) -> Tensor:
    """(N, C) bool: the column is of another group than the row. Never the diagonal."""
    if row_groups is None or column_groups is None:
        return torch.zeros_like(similarity, dtype=torch.bool)
    return (row_groups[:, None] != column_groups[None, :]) & ~_diagonal(similarity, offset)


def _cross_entropy(logits: Tensor, removed: Tensor, smoothing: float, offset: int = 0) -> Tensor:
    """Per-row cross-entropy with target 1-e on the diagonal plus e spread over all columns."""
    log_p = logits.masked_fill(removed, -torch.inf).log_softmax(dim=1)
    nll = -log_p.diagonal(offset)[: len(logits)]
    if not smoothing:
        return nll
    mean = log_p.masked_fill(removed, 0.0).sum(dim=1) / (~removed).sum(dim=1)
    return (1 - smoothing) * nll - smoothing * mean


def _too_easy(logits: Tensor, removed: Tensor, count: int | None, offset: int = 0) -> Tensor:
    """(N, C) bool: below the midpoint of the count-th and the next largest negative of the row. Never the positive."""
    positive = _diagonal(logits, offset)
    if count is None or count >= logits.shape[1]:
        return torch.zeros_like(removed)
    ordered = logits.detach().masked_fill(removed | positive, -torch.inf).sort(dim=1, descending=True).values
    limit = (ordered[:, count - 1] + ordered[:, count]) / 2
    return (logits < limit[:, None]) & ~positive
