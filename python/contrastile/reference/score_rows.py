"""Losses of rows of given scores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dcd_loss(scores: Tensor, teacher_scores: Tensor, *, alpha: float = 0.2, per_sample: bool = False) -> Tensor:
    """DCD (arXiv 2207.01426), its KD_loss.py with the weights of the paper or without."""
    teacher = teacher_scores.detach()
    p = teacher.softmax(1)
    information = (p * p.log()).sum(1)
    h = information / information.sum()
    r = ((1.0 - h) ** 2).softmax(0)
    mse = F.mse_loss(teacher, scores, reduction="none").mean(1)
    distilled = (r * mse).sum() if per_sample else mse.mean()
    right = F.one_hot(torch.zeros(len(scores), dtype=torch.long), scores.shape[1]).to(scores.dtype)
    bce = F.binary_cross_entropy_with_logits(scores, right, reduction="none").mean(1)
    return alpha * distilled + (1.0 - alpha) * (h * bce).sum()


def teacher_hard_negatives(teacher_scores: Tensor, k: int = 7) -> Tensor:
    """DCD's objectives.py, compute_irtr: from the best k + 1 columns."""
    rows = []
    for best in teacher_scores.argsort(dim=1, descending=True)[:, : k + 1].tolist():
        rows.append([0, *[column for column in best if column != 0][:k]])
    return torch.tensor(rows).view(-1, k + 1)


def js_divergence(logits: Tensor, other_logits: Tensor, *, reduction: str = "mean") -> Tensor:
    """1/2 KL(p | m) + 1/2 KL(q | m) (Lin 1991; arXiv 2411.07335)."""
    p, q = logits.softmax(1), other_logits.softmax(1)
    m = 0.5 * (p + q)
    rows: Tensor = 0.5 * (p * (p / m).log() + q * (q / m).log()).sum(1)
    if reduction == "none":
        return rows
    return rows.mean() if reduction == "mean" else rows.sum()


def project_conflicting(gradients: Sequence[Tensor], *, per_row: bool = False) -> tuple[Tensor, ...]:
    """PCGrad (arXiv 2001.06782), algorithm 1, in the order of the list."""
    if per_row:
        rows = [project_conflicting(own) for own in zip(*gradients, strict=True)]
        return tuple(torch.stack(x) for x in zip(*rows, strict=True))
    found = []
    for i, own in enumerate(gradients):
        for j, other in enumerate(gradients):
            if i != j and (own * other).sum() < 0:
                own = own - (own * other).sum() / (other * other).sum() * other
        found.append(own)
    return tuple(found)
