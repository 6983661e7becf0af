"""Losses of scores against grades, item by item."""

import torch
from torch import Tensor


def pro_loss(scores: Tensor, grades: Tensor, *, temperature: float = 0.05) -> Tensor:
    """The loop of CoDiEmb's PROLoss (arXiv 2508.11442)."""
    x, y, terms = scores / temperature, grades.to(torch.float64), []
    for k in range(len(y)):
        lower = (y < y[k]).nonzero()[:, 0]
        if len(lower):
            weight = (y[k] - y[lower]).to(x.dtype)
            terms.append(torch.cat([(weight.max() * x[k])[None], weight * x[lower]]).log_softmax(0)[0])
    return -torch.stack(terms).mean() if terms else x.sum() * 0.0


def pearson_loss(scores: Tensor, grades: Tensor) -> Tensor:
    """1 - covariance / (standard deviations), arXiv 2508.11442."""
    y = grades.to(scores.dtype)
    if len(y) < 2 or bool((y == y[0]).all()):
        return scores.sum() * 0.0
    x = scores - scores.mean()
    y = y - y.mean()
    return 1.0 - (x * y).mean() / (x.square().mean().sqrt() * y.square().mean().sqrt())


def rank_kl_loss(scores: Tensor, grades: Tensor, *, temperature: float = 0.05) -> Tensor:
    """KL of softmaxes of average ranks and of scores, over N (arXiv 2508.11442)."""
    n = len(scores)
    if n == 0:
        return scores.sum()
    lower, equal = grades[None] < grades[:, None], grades[None] == grades[:, None]
    place = lower.sum(1) + 0.5 * (equal.sum(1) - 1)
    target = (place.to(scores.dtype) / max(n - 1, 1) / temperature).softmax(0)
    return (target * (target.log() - (scores / temperature).log_softmax(0))).sum() / n
