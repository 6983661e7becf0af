"""Cross-entropies over a vocabulary or over prototypes."""

import torch
from torch import Tensor

from ._dense import Scalar, reduce_rows


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of the labels under the softmax of hidden weight^T + bias; rows of ignore_index are left out.

        loss_i = -(1 - e) log p_iy - e mean_v log p_iv,   e = label_smoothing

    hidden: (N, D) or (B, T, D); labels, weights and the rows of "none" likewise.

    Source: Yu et al. 2022 (arXiv 2205.01917), Eq. 3; open_clip @89fb801, loss.py `CoCaLoss`.
    """
    shape = hidden.shape[:-1]
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    weights = None if weights is None else weights.flatten()
    there = labels != ignore_index
    logits = hidden[there] @ weight.T
    log_p = (logits if bias is None else logits + bias).log_softmax(dim=1)
    rows = -(1 - label_smoothing) * log_p.gather(1, labels[there].long()[:, None])[:, 0]
    if label_smoothing:
        rows = rows - label_smoothing * log_p.mean(dim=1)
    value = reduce_rows(rows, reduction, weights, there)
    return value.reshape(shape) if reduction == "none" else value


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = None,
    teacher_prototypes: Tensor | None = None,
    *,
    center: Tensor | None = None,
    student_temperature: Scalar = 0.1,
    teacher_temperature: Scalar = 0.04,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over pairs of views (u of the teacher, v of the student, u != v; without views the only pair) of

        -sum_k softmax((t_u - center) / teacher_temperature)_k log softmax(s_v / student_temperature)_k

    with the logits s, t, or those of features and prototypes. The teacher is a constant.

    Source: Caron et al. 2021 (arXiv 2104.14294), Algorithm 1; official code facebookresearch/dino, main_dino.py
    `DINOLoss`.
    """
    views = student.dim() == 3
    if not views:
        student, teacher = student[None], teacher[None]
    if present is not None:
        student, teacher = student[:, present], teacher[:, present]
    if prototypes is not None and teacher_prototypes is not None:
        student, teacher = student @ prototypes.T, teacher @ teacher_prototypes.T
    target = teacher.detach() if center is None else teacher.detach() - center.detach()
    q = (target / _number(teacher_temperature)).softmax(dim=2).detach()
    log_p = (student / student_temperature).log_softmax(dim=2)
    terms = [
        -(q[u] * log_p[v]).sum(dim=1) for u in range(len(teacher)) for v in range(len(student)) if u != v or not views
    ]
    return reduce_rows(torch.stack(terms).mean(dim=0), reduction, weights, present)


def _number(x: Scalar) -> Scalar:
    return x.detach() if isinstance(x, Tensor) else x
