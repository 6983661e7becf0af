"""Losses of rows of given scores, and gradients of several losses that shall not undo each other: no pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import Reduction
from ..ops import EngineOptions, check
from ..ranks import GlobalBatch, Group, collective
from .common import like_statistics, reduced_empty, upcast, zero


@collective
def dcd_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    *,
    alpha: float = 0.2,
    per_sample: bool = False,
    group: Group = None,
) -> Tensor:
    """Dynamic contrastive distillation of a matching head: K scores of each image, the true text's first.

        L = alpha sum_i r_i mse(t_i, s_i) + (1 - alpha) sum_i h_i bce(s_i)
        h_i = H(softmax t_i) / sum_j H(softmax t_j),      r = softmax over i of (1 - h_i)^2

    with s = scores, t = teacher_scores, H the entropy, and bce the mean over K of the binary cross-entropies that the
    first is right and the others are not. A temperature T, in T^2 mse(t / T, s / T), cancels.

    Args:
        scores: (N, K), K >= 1.
        teacher_scores: (N, K); no gradient.
        alpha: In [0, 1].
        per_sample: True: as in the paper. False: one mean of squares over all scores, which is what the official code
            computes, since its weights r around it sum to 1.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks.

    Returns: float32 (float64 for float64 scores), one number for the batch, 0 if it is empty. If the teacher has no
    doubt about any row, h_i = 1 / N.
    Cost: O(N K).

    Example:
        >>> scores, teacher_scores = torch.randn(2, 8, 5)
        >>> loss = dcd_loss(scores, teacher_scores)

    Source: Rao et al. 2022 (DCD), https://arxiv.org/abs/2207.01426; official code raojay7/DCD,
    meter/modules/KD_loss.py. `teacher_hard_negatives` chooses the K.
    """
    s, t = score_rows("scores", scores, "teacher_scores", teacher_scores)
    s, t = upcast(s), upcast(t.detach())
    check.share("alpha", share := number("alpha", alpha))
    batch = GlobalBatch.of(EngineOptions.of(None, "auto", group).ranks, s.shape[0], facts=lambda: {"K": s.shape[1]})
    if batch.total == 0:
        return zero(s)
    entropy = torch.special.entr(t.softmax(1)).sum(1)
    total = batch.sum(entropy.sum())
    doubt = torch.where(total > 0, entropy / total, 1.0 / batch.total)
    each = (s - t).square().mean(1)
    if per_sample:
        ease = batch.gather((1.0 - doubt).square()).softmax(0)[batch.offset : batch.offset + batch.n]
    else:
        ease = torch.full_like(doubt, 1.0 / batch.total)
    right = torch.zeros_like(s).index_fill(1, torch.zeros(1, dtype=torch.int64, device=s.device), 1.0)
    wrong = F.binary_cross_entropy_with_logits(s, right, reduction="none").mean(1)
    return batch.weight("sum") * (share * ease * each + (1.0 - share) * doubt * wrong).sum()


def teacher_hard_negatives(teacher_scores: Tensor, k: int = 7) -> Tensor:
    """The columns that `dcd_loss` gets: the true text, and the others that a teacher ranks highest.

        index = [0, the first k columns other than 0 by falling teacher_scores]

    Args:
        teacher_scores: (N, K), the true text's first.
        k: 1 <= k < K; the official code uses 7.

    Returns: (N, k + 1) int64; equal scores in any order. The official code takes scores.gather(1, index) of the student
    and teacher_scores.topk(k + 1).values of the teacher, whose order is the same only where the teacher ranks the true
    text first; teacher_scores.gather(1, index) is always right.

    Example:
        >>> teacher_hard_negatives(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), k=2)
        tensor([[0, 2, 3]])

    Source: Rao et al. 2022 (DCD), https://arxiv.org/abs/2207.01426; official code raojay7/DCD,
    meter/modules/objectives.py.
    """
    t, _ = score_rows("teacher_scores", teacher_scores, "teacher_scores", teacher_scores)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 1 <= k < t.shape[1]:
        raise ValueError(f"k must be >= 1 and less than the number of texts, {t.shape[1]}, got {k}")
    others = t[:, 1:].topk(k, dim=1).indices + 1
    return F.pad(others, (1, 0))


@collective
def js_divergence(
    logits: Tensor, other_logits: Tensor, *, reduction: Reduction = "mean", group: Group = None
) -> Tensor:
    """Jensen-Shannon divergence of the softmaxes of two predictions, in [0, log 2].

        L_i = 1/2 KL(p_i | m_i) + 1/2 KL(q_i | m_i),   p = softmax(logits), q = softmax(other_logits), m = (p + q) / 2

    Args:
        logits, other_logits: (N, C); both have a gradient. A logit of -inf is a class without probability.
        reduction: "mean" or "sum" over rows, or "none": (N,). Negate it to push predictions apart.
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the rows of all
            ranks.

    Returns: float32 (float64 for float64 logits); an empty batch gives 0. Computed in logs, so that no probability is
    clamped; rounding outside [0, log 2] is clamped in value, not in gradient.
    Cost: O(N C).

    Example:
        >>> logits = torch.randn(8, 10)
        >>> js_divergence(logits, logits).item()
        0.0

    Source: Lin 1991; MCR, https://arxiv.org/abs/2411.07335, official code kkontras/MCR, which clamps probabilities at
    1e-20.
    """
    check.choice("reduction", reduction, get_args(Reduction))
    x, y = score_rows("logits", logits, "other_logits", other_logits)
    x, y = upcast(x), upcast(y)
    batch = GlobalBatch.of(EngineOptions.of(None, "auto", group).ranks, x.shape[0])
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y)
    log_p, log_q = x.log_softmax(1), y.log_softmax(1)
    nowhere = torch.maximum(log_p, log_q) == -torch.inf  # logaddexp has NaN for a gradient there
    least = torch.finfo(x.dtype).min
    log_p, log_q = log_p.masked_fill(nowhere, least), log_q.masked_fill(nowhere, least)
    middle = torch.logaddexp(log_p, log_q) - torch.full_like(log_p[:1, :1], 2.0).log()
    rows = 0.5 * (relative_entropy(log_p, middle) + relative_entropy(log_q, middle))
    rows = rows + (rows.clamp(0.0, math.log(2.0)) - rows).detach()
    return batch.reduced(rows, reduction)


def relative_entropy(log_p: Tensor, log_m: Tensor) -> Tensor:
    """Of rows; 0 where p is 0."""
    some = log_p > -torch.inf
    some |= log_p.isnan()
    p, m = torch.where(some, log_p, 0.0), torch.where(some, log_m, 0.0)
    return torch.where(some, p.exp() * (p - m), 0.0).sum(1)


def project_conflicting(gradients: Sequence[Tensor], *, per_row: bool = False) -> tuple[Tensor, ...]:
    """Gradients of several losses, each without the part that points against another (PCGrad). Their sum is the step.

        g_i = g_i - <g_i, g_j> / |g_j|^2 g_j      wherever <g_i, g_j> < 0, for every other j in turn

    where g_j is the given gradient and g_i what the previous turns left. For two gradients this is the realignment of
    cross-modality gradient harmonization.

    Args:
        gradients: Two or more tensors of one shape: flattened parameters (torch.nn.utils.parameters_to_vector), or the
            gradients of features that losses share.
        per_row: True: (N, D) tensors, each row by itself, for the conflict of each item.

    Returns: As many tensors; float32 (float64 for float64) for half precision. PCGrad takes the others in random order:
    shuffle the list for that.

    Example:
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
        >>> [x.tolist() for x in project_conflicting([first, second])]
        [[0.5, 0.5], [0.0, 1.0]]

    Source: Yu et al. 2020 (PCGrad), https://arxiv.org/abs/2001.06782, algorithm 1; Wu et al. 2022 (cross-modality
    gradient harmonization), https://arxiv.org/abs/2211.02077.
    """
    if len(gradients) < 2:
        raise ValueError(f"gradients must hold at least two tensors, got {len(gradients)}")
    given = []
    for index, x in enumerate(gradients):
        check.same_shape(f"gradients[{index}]", check.tensor(f"gradients[{index}]", x), "gradients[0]", gradients[0])
        if not x.dtype.is_floating_point:
            raise TypeError(f"gradients[{index}] must be floating point, got {x.dtype}")
        given.append(upcast(x))
    if per_row and given[0].dim() != 2:
        raise ValueError(f"gradients must have shape (N, D) with per_row=True, got {tuple(given[0].shape)}")
    flat, sizes = zip(*(scaled(x if per_row else x.reshape(1, -1)) for x in given), strict=True)
    found = []
    for own, x in enumerate(flat):
        for other, y in enumerate(flat):
            if other != own:
                dot = (x * y).sum(1, keepdim=True)
                x = torch.where(dot < 0, x - dot / y.square().sum(1, keepdim=True) * y, x)
        found.append((x * sizes[own]).reshape(given[own].shape))
    return tuple(found)


def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by a power of two each, which rounds nothing, so that their squares neither vanish nor overflow."""
    largest = F.pad(x.detach().abs(), (0, 1)).amax(1, keepdim=True)  # of a width of 0, 0
    most = math.frexp(torch.finfo(x.dtype).max)[1] - 2  # of which the inverse is a normal number, too
    size = torch.ldexp(torch.ones_like(largest), largest.frexp().exponent.clamp(-most, most))
    return x / size, size


def score_rows(name: str, x: Tensor, other: str, y: Tensor) -> tuple[Tensor, Tensor]:
    check.same_shape(other, check.features(other, y), name, check.features(name, x))
    check.same_device(other, y, x.device)
    if x.shape[1] < 1:
        raise ValueError(f"{name} must have at least one column, got {tuple(x.shape)}")
    return x, like_statistics(y, x)


def number(name: str, x: float) -> float:
    value = check.scalar(name, x)
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number, got a tensor")
    return value
