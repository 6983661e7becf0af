"""Losses of anchors with several positives: multi_positive and MIL-NCE."""

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, masked_logsumexp, reduce_rows, unit

Side = tuple[Tensor | None, Tensor | None, Tensor | None]  # ids, label sets, groups


def multi_positive(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    *,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    negative_labels: Tensor | None = None,
    negative_groups: Tensor | None = None,
    form: str = "out",
    per_pair: bool = False,
    temperature: Scalar = 0.07,
    direction: str = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    key_weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """The mean over queries with a positive of L_i, and the mean over keys, by their direction's weights.

        out   -1/|P| sum_p log( e^z_p / sum_{a in P and N} e^z_a )
        in    -log( sum_p e^z_p / sum_{a in P and N} e^z_a )
        each  -1/|P| sum_p log( e^z_p / (e^z_p + sum_{n in N} e^z_n) )

    P: label sets meet, or without labels ids are equal. N: the rest, less pairs of equal ids (with labels) and of
    different groups. Negatives are columns of the queries that are no anchors. per_pair: weights times |P|.

    Source: UniCL (arXiv 2204.03610); SupCon (arXiv 2004.11362), eq. 2 and 3; pytorch-metric-learning NTXentLoss.
    """
    query, key = unit(query, normalize), unit(key, normalize)
    of_queries, of_keys = (query_ids, query_labels, query_groups), (key_ids, key_labels, key_groups)
    if len(query) == len(key):
        ids, labels, groups = (x if y is None else y for x, y in zip(of_queries, of_keys, strict=True))
        of_keys = ids, labels, groups
    own = match(of_queries, of_keys, len(key))
    cols, of_rows = [key], [own]
    if negatives is not None:
        cols.append(unit(negatives, normalize))
        of_rows.append(match(of_queries, (negative_ids, negative_labels, negative_groups), len(negatives)))
    keys = torch.cat(cols)
    rows = (query, keys, torch.cat([x for x, _ in of_rows], 1), torch.cat([x for _, x in of_rows], 1), weights)
    back = (key, query, own[0].T, own[1].T, key_weights)
    found = []
    for factor, (anchors, others, positive, negative, each) in zip(
        direction_weights(direction), (rows, back), strict=True
    ):
        if factor:
            logits = anchors @ (others.detach() if detach_keys else others).T / temperature
            counted = positive.any(1).to(logits)
            counted = counted * positive.sum(1) if per_pair else counted
            counted = counted if each is None else counted * each
            found.append(factor * reduce_rows(anchor_losses(logits, positive, negative, form), reduction, counted))
    return torch.cat(found) if reduction == "none" else sum(found[1:], found[0])


def match(row: Side, col: Side, m: int) -> tuple[Tensor, Tensor]:
    """Which pairs are positives, and which negatives, (rows, m) bool. What columns have none of equals nothing."""

    def equal(x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return torch.zeros(len(x), m, dtype=torch.bool, device=x.device)
        return (x.double() @ y.double().T > 0) if x.dim() == 2 else x[:, None] == y[None, :]

    ids, labels, groups = (None if x is None else equal(x, y) for x, y in zip(row, col, strict=True))
    positive = ids if labels is None else labels
    assert positive is not None
    negative = ~positive
    if ids is not None:
        negative = negative & ~ids
    return positive, negative if groups is None else negative & groups


def anchor_losses(logits: Tensor, positive: Tensor, negative: Tensor, form: str) -> Tensor:
    """L of every row; 0 without positives."""
    some = positive.any(1)
    count = positive.sum(1).clamp(min=1)
    if form == "each":
        others = torch.where(negative.any(1), masked_logsumexp(logits, negative | ~negative.any(1, True)), -torch.inf)
        log_p = logits - torch.logaddexp(logits, others[:, None])
        return -torch.where(positive, log_p, torch.zeros_like(log_p)).sum(1) / count
    rest = ~some[:, None]  # a row without positives has something finite in their place
    every = masked_logsumexp(logits, positive | negative | rest)
    if form == "in":
        losses = every - masked_logsumexp(logits, positive | rest)
    else:
        losses = every - torch.where(positive, logits, torch.zeros_like(logits)).sum(1) / count
    return torch.where(some, losses, torch.zeros_like(losses))


def mil_nce(
    video: Tensor,
    text: Tensor,
    *,
    temperature: Scalar = 0.07,
    mask: Tensor | None = None,
    joint: bool = True,
    direction: str = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Video i (D,) against its bag of texts (K, D): of all texts with it and all videos with the bag, the matched.

        joint  -log( sum_l e^z_i,il / (sum_jl e^z_i,jl + sum_jl e^z_j,il) ),   the matched twice in the denominator
        else   the same with one of the two sums, by direction

    mask (N, K): texts that are there; a video without any is 0 and not counted.

    Source: Miech et al. 2020 (arXiv 1912.06430); MIL-NCE_HowTo100M loss.py @1c32f64 (joint); VATT
    google-research/vatt objectives.py: AsymmetricNCE (joint), SymmetricNCE (sum).
    """
    n, size, _ = text.shape
    mask = torch.ones(n, size, dtype=torch.bool, device=text.device) if mask is None else mask
    text = torch.where(mask[..., None], text, torch.zeros_like(text))
    video, text = unit(video, normalize), unit(text, normalize)
    some = mask.any(1)
    logits = torch.einsum("id,jkd->ijk", video, text) / temperature
    there = mask[None].expand_as(logits)
    bag = logits.diagonal().T.masked_fill(~mask & some[:, None], -torch.inf).logsumexp(1)
    forward = logits.flatten(1), there.flatten(1)
    backward = logits.transpose(0, 1).flatten(1), (mask | ~some[:, None])[:, None].expand(n, n, size).flatten(1)
    if joint:
        z, keep = (torch.cat(x, 1) for x in zip(forward, backward, strict=True))
        losses = masked_logsumexp(z, keep | ~some[:, None]) - bag
    else:
        losses = logits.new_zeros(n)
        for factor, (z, keep) in zip(direction_weights(direction), (forward, backward), strict=True):
            if factor:
                losses = losses + factor * (masked_logsumexp(z, keep | ~some[:, None]) - bag)
    counted = some.to(losses) if weights is None else some * weights
    return reduce_rows(torch.where(some, losses, torch.zeros_like(losses)), reduction, counted)
