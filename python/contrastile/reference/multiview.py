"""Losses over k views of the same N instances, dense."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ._dense import Scalar, masked_logsumexp, reduce_rows, unit


def mv_infonce(
    views: Tensor | Sequence[Tensor],
    *,
    temperature: Scalar = 0.5,
    negatives: str = "all",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """One softmax per instance: the pairs of its own views among all pairs that its views form.

        loss_i = -log [ sum_l sum_{m != l} e^{s(l,i; m,i)} / sum_l sum_{(m,j) kept} e^{s(l,i; m,j)} ]
        s(l,i; m,j) = <u_li, u_mj> / temperature

    Kept are all (m, j) != (l, i) ("all", the official code) or those with m != l ("cross_view", the paper).
    views (k,N,D) or k times (N,D).

    Source: Koromilas et al. 2025 (arXiv 2507.06979); official code pakoromilas/Multi-View-CL @c26ae77,
    models/losses.py `MVINFONCE`; README.md for the form across views.
    """
    if present is not None:
        part, batches = _with_two(present), _filled(views, present, normalize)
        losses = [_mv_infonce_of(i, batches, present & part, temperature, negatives) for i in part.nonzero()[:, 0]]
        return reduce_rows(_joined(losses, batches[0]), reduction, weights, part)
    logits, view, instance = _all_logits(views, temperature, normalize)
    k, other_view = len(views), view[:, None] != view
    positive = other_view & (instance[:, None] == instance)
    if negatives == "all":
        kept = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    elif negatives == "cross_view":
        kept = other_view
    else:
        raise ValueError(f"negatives must be 'all' or 'cross_view', got {negatives!r}")
    numerator = masked_logsumexp(logits, positive).reshape(k, -1).logsumexp(dim=0)
    denominator = masked_logsumexp(logits, kept).reshape(k, -1).logsumexp(dim=0)
    return reduce_rows(denominator - numerator, reduction, weights)


def mv_dhel(
    views: Tensor | Sequence[Tensor],
    *,
    temperature: Scalar = 0.5,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Attraction between the views of an instance, repulsion between instances within each view.

        loss_i = -log [ sum_{l < m} e^{<u_li, u_mi>/temperature} / prod_l sum_{j != i} e^{<u_li, u_lj>/temperature} ]

    views (k,N,D) or k times (N,D). 0 if there is no other instance.

    Source: Koromilas et al. 2025 (arXiv 2507.06979); official code pakoromilas/Multi-View-CL @c26ae77,
    models/losses.py `MVDHEL`.
    """
    if present is not None:
        part, batches = _with_two(present), _filled(views, present, normalize)
        losses = [_mv_dhel_of(i, batches, present & part, temperature) for i in part.nonzero()[:, 0]]
        return reduce_rows(_joined(losses, batches[0]), reduction, weights, part)
    batches = [unit(view, normalize) for view in views]
    other = ~torch.eye(len(batches[0]), dtype=torch.bool, device=batches[0].device)
    energy = torch.stack([masked_logsumexp(x @ x.T / temperature, other) for x in batches]).sum(dim=0)
    pairs = [(x * y).sum(dim=1) / temperature for x, y in combinations(batches, 2)]
    rows = energy - torch.stack(pairs).logsumexp(dim=0)
    return reduce_rows(torch.where(other.any(dim=1), rows, torch.zeros_like(rows)), reduction, weights)


def pvc(
    views: Tensor | Sequence[Tensor],
    *,
    temperature: Scalar = 0.2,
    aggregation: str = "geometric",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each ordered pair of views of an instance against all views of the other instances.

        p_ilm = e^{s_lm} / (e^{s_lm} + sum_{j != i} sum_g e^{<u_li, u_gj> / temperature})
        s_lm = <u_li, u_mi> / temperature
        geometric: loss_i = -mean_{l} mean_{m != l} log p_ilm,   arithmetic: loss_i = -mean_{l} log mean_{m != l} p_ilm

    views (k,N,D) or k times (N,D).

    Source: Shidani et al. 2024 (arXiv 2403.05490), poly-view contrast with the geometric and the arithmetic mean;
    official code of Multi-View-CL (pakoromilas) @c26ae77, models/losses.py `PVCLoss`, for the geometric one.
    """
    if present is not None:
        part, batches = _with_two(present), _filled(views, present, normalize)
        losses = [_pvc_of(i, batches, present & part, temperature, aggregation) for i in part.nonzero()[:, 0]]
        return reduce_rows(_joined(losses, batches[0]), reduction, weights, part)
    logits, _, instance = _all_logits(views, temperature, normalize)
    k, n = len(views), len(views[0])
    negative = masked_logsumexp(logits, instance[:, None] != instance).reshape(k, n)
    scores = logits.reshape(k, n, k, n).diagonal(dim1=1, dim2=3)  # (k, k, n)
    anchors = []
    for anchor in range(k):
        others = scores[anchor, [m for m in range(k) if m != anchor]]
        log_p = others - torch.logaddexp(others, negative[anchor].expand_as(others))
        if aggregation == "geometric":
            anchors.append(log_p.mean(dim=0))
        elif aggregation == "arithmetic":
            anchors.append(log_p.logsumexp(dim=0) - math.log(k - 1))
        else:
            raise ValueError(f"aggregation must be 'geometric' or 'arithmetic', got {aggregation!r}")
    return reduce_rows(-torch.stack(anchors).mean(dim=0), reduction, weights)


def pairwise_aggregate(
    views: Tensor | Sequence[Tensor], loss: Callable[..., Tensor], *, mode: str = "pairwise", **options: Any
) -> Tensor:
    """The mean of a two-view loss over pairs of views, or of each view with the mean of the others.

    views (k,N,D) or k times (N,D). The mean of views is not normalised.

    Source: baselines of Koromilas et al. 2025 (arXiv 2507.06979); official code pakoromilas/Multi-View-CL @c26ae77,
    models/losses.py `NTXent` with pwe or average.
    """
    views = list(views)
    if mode == "pairwise":
        values = [loss(x, y, **options) for x, y in combinations(views, 2)]
    elif mode == "average":
        rest = [torch.stack(views[:i] + views[i + 1 :]).mean(dim=0) for i in range(len(views))]
        values = [loss(x, y, **options) for x, y in zip(views, rest, strict=True)]
    else:
        raise ValueError(f"mode must be 'pairwise' or 'average', got {mode!r}")
    return torch.stack(values).mean(dim=0)


def _all_logits(
    views: Tensor | Sequence[Tensor], temperature: Scalar, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of all k N rows, view by view, and the view and instance of each row."""
    rows = torch.cat([unit(view, normalize) for view in views])
    index = torch.arange(len(rows), device=rows.device)
    n = max(len(views[0]), 1)
    return rows @ rows.T / temperature, index // n, index % n


# ---- with views that are missing, instance by instance; those with fewer than two take no part


def _with_two(present: Tensor) -> Tensor:
    """(N,): instances with two views or more; none if there is only one such."""
    part = present.sum(0) >= 2
    return part & (part.sum() >= 2)


def _filled(views: Tensor | Sequence[Tensor], present: Tensor, normalize: bool) -> list[Tensor]:
    return [unit(x.where(here[:, None], 0), normalize) for x, here in zip(views, present, strict=True)]


def _joined(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like[:0, 0]


def _score(x: Tensor, y: Tensor, temperature: Scalar) -> Tensor:
    return (x * y).sum(-1) / temperature


def _others(
    i: Tensor, x: Tensor, batches: list[Tensor], present: Tensor, views: Sequence[int], temperature: Scalar
) -> Tensor:
    """Scores of a row with the given views of other instances."""
    other = torch.arange(present.shape[1], device=present.device) != i
    return torch.cat([_score(x, batches[m][present[m] & other], temperature) for m in views])


def _mv_infonce_of(i: Tensor, batches: list[Tensor], present: Tensor, temperature: Scalar, negatives: str) -> Tensor:
    own = present[:, i].nonzero()[:, 0].tolist()
    positive = [_score(batches[a][i], batches[b][i], temperature) for a in own for b in own if a != b]
    negative = []
    for a in own:
        views = [m for m in range(len(batches)) if negatives == "all" or m != a]
        negative.append(_others(i, batches[a][i], batches, present, views, temperature))
    numerator = torch.stack(positive).logsumexp(0)
    return torch.logaddexp(numerator, torch.cat(negative).logsumexp(0)) - numerator


def _mv_dhel_of(i: Tensor, batches: list[Tensor], present: Tensor, temperature: Scalar) -> Tensor:
    own = present[:, i].nonzero()[:, 0].tolist()
    energy = [_others(i, batches[a][i], batches, present, [a], temperature) for a in own]
    pairs = [_score(batches[a][i], batches[b][i], temperature) for a, b in combinations(own, 2)]
    sums = [x.logsumexp(0) for x in energy if len(x)]
    return sum(sums, torch.zeros_like(pairs[0])) - torch.stack(pairs).logsumexp(0)


def _pvc_of(i: Tensor, batches: list[Tensor], present: Tensor, temperature: Scalar, aggregation: str) -> Tensor:
    own, anchors = present[:, i].nonzero()[:, 0].tolist(), []
    for a in own:
        negative = _others(i, batches[a][i], batches, present, range(len(batches)), temperature).logsumexp(0)
        scores = torch.stack([_score(batches[a][i], batches[b][i], temperature) for b in own if b != a])
        log_p = scores - torch.logaddexp(scores, negative.expand_as(scores))
        anchors.append(log_p.mean() if aggregation == "geometric" else log_p.logsumexp(0) - math.log(len(scores)))
    return -torch.stack(anchors).mean()
