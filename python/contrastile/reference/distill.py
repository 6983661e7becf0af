"""Softmax losses with soft targets: momentum distillation, distilled CLIP, SoftCLIP, CWCL; gated cosines."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dense import Scalar, direction_weights, reduce_rows, unit


def distill_info_nce(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor | None = None,
    *,
    temperature: Scalar = 0.07,
    teacher_temperature: Scalar | None = None,
    alpha: Scalar = 0.4,
    negatives: Tensor | None = None,
    teacher_negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    teacher_loss: str = "ce",
    filter_wrong: bool = False,
    detach_targets: bool = True,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of the softmax over [key | negatives] with the target alpha q + (1 - alpha) y.

        q = softmax of the teacher's logits,   y_ij = [j = i], or [id_j = id_i] / count where ids are given

    The teacher's candidates are teacher_key and teacher_negatives, or without them the student's own.

    Source: Li et al. 2021 (ALBEF, arXiv 2107.07651), Eq. 6; salesforce/ALBEF models/model_pretrain.py and
    model_retrieval.py; filter: ZixuanNi/Mod-X, cognition_align.
    """
    query, key, teacher_query = unit(query, normalize), unit(key, normalize), unit(teacher_query, normalize)
    columns = key if negatives is None else torch.cat([key, unit(negatives, normalize)])
    teacher_columns = columns if teacher_key is None else unit(teacher_key, normalize)
    if teacher_key is not None and teacher_negatives is not None:
        teacher_columns = torch.cat([teacher_columns, unit(teacher_negatives, normalize)])
    logits = query @ columns.T / _of_rows(temperature)
    teacher_temperature = _constant(temperature) if teacher_temperature is None else teacher_temperature
    teacher = teacher_query @ teacher_columns.T / _of_rows(teacher_temperature)
    hard = torch.eye(*logits.shape, dtype=logits.dtype, device=logits.device)
    if query_ids is not None:
        ids = query_ids if key_ids is None else key_ids
        same = query_ids[:, None] == ids
        if len(columns) > len(key):
            none = torch.zeros(len(query), len(columns) - len(key), dtype=torch.bool, device=same.device)
            same = torch.cat([same, none if negative_ids is None else query_ids[:, None] == negative_ids], dim=1)
        hard = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
    rows = _distilled(logits, teacher, hard, alpha, teacher_loss, filter_wrong, detach_targets)
    return reduce_rows(rows, reduction, weights)


def clip_distill_loss(
    image_features: Tensor,
    text_features: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    logit_scale: Scalar,
    teacher_logit_scale: Scalar | None = None,
    *,
    alpha: Scalar = 1.0,
    teacher_loss: str = "ce",
    filter_wrong: bool = False,
    detach_targets: bool = True,
    direction: str = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropies of image -> text and text -> image. Targets: alpha q + (1 - alpha) onehot, q the teacher's.

    Source: open_clip DistillClipLoss; yshinya6/clip-refine updater/contrastive.py: distill; ZixuanNi/Mod-X.
    """
    image, text = unit(image_features, normalize), unit(text_features, normalize)
    teacher_image, teacher_text = unit(teacher_image_features, normalize), unit(teacher_text_features, normalize)
    scale = _constant(logit_scale) if teacher_logit_scale is None else teacher_logit_scale
    logits, teacher = logit_scale * image @ text.T, scale * teacher_image @ teacher_text.T
    hard = torch.eye(len(image), dtype=logits.dtype, device=logits.device)
    losses = torch.zeros_like(image[:, 0])
    for share, z, t in zip(direction_weights(direction), (logits, logits.T), (teacher, teacher.T), strict=True):
        if share:
            losses = losses + share * _distilled(z, t, hard, alpha, teacher_loss, filter_wrong, detach_targets)
    return reduce_rows(losses, reduction, weights)


def softclip_loss(
    x: Tensor,
    y: Tensor,
    *,
    temperature: Scalar = 0.125,
    detach_targets: bool = False,
    direction: str = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Both cross-entropies with the target softmax(y y^T / temperature) by rows.

    Source: Kumar et al. 2024 (M3CoL, arXiv 2409.17777); RaghavSinghal10/M3CoL model/utils.py: soft_clip_loss.
    """
    x, y = unit(x, normalize), unit(y, normalize)
    target = (y @ y.T / temperature).softmax(dim=1)
    target = target.detach() if detach_targets else target
    logits = x @ y.T / temperature
    losses = torch.zeros_like(x[:, 0])
    for share, z in zip(direction_weights(direction), (logits, logits.T), strict=True):
        losses = losses - share * (target * z.log_softmax(dim=1)).sum(dim=1)
    return reduce_rows(losses, reduction, weights)


def cwcl_loss(
    anchor: Tensor,
    other: Tensor,
    logit_scale: Scalar,
    *,
    weight_features: Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Weights (1 + cosine) / 2 within the anchors' modality, normalised by rows, and the cross-entropy other -> anchor.

    Source: Srinivasa et al. 2023 (arXiv 2309.14580), Eq. 3 and 4.
    """
    anchor, other = unit(anchor, normalize), unit(other, normalize)
    similar = (anchor if weight_features is None else unit(weight_features, normalize)).detach()
    pairs = (1.0 + similar @ similar.T) / 2.0
    total = pairs.sum(dim=1, keepdim=True)
    hard = torch.eye(len(anchor), dtype=anchor.dtype, device=anchor.device)
    target = torch.where(total > 0, pairs / torch.where(total > 0, total, 1.0), hard)
    logits = logit_scale * anchor @ other.T
    rows = -(target * logits.log_softmax(dim=1)).sum(dim=1) - logits.T.log_softmax(dim=1).diagonal()
    return reduce_rows(rows, reduction, weights)


def hydra_loss(
    x: Tensor,
    gate: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    logit_scale: Scalar = 10.0,
    reduction: str = "mean",
) -> Tensor:
    """Each key of the partner class against the keys of neither class, as cosines of features times the row's gate.

    Source: Wu et al. 2024 (arXiv 2410.18200); erow/vitookit simlap.py.
    """
    keys, key_labels = (x, labels) if keys is None else (keys, key_labels)
    assert key_labels is not None
    gated = gate.unsqueeze(1) * keys  # (N, M, D)
    cosine = (unit(gate * x, True).unsqueeze(1) * unit(gated, True)).sum(dim=2)
    logits = logit_scale * cosine
    own, positive = labels[:, None] == key_labels, partner_labels[:, None] == key_labels
    others = logits.masked_fill(own | positive, -1e30).logsumexp(dim=1, keepdim=True)
    pairs = torch.where(positive, F.softplus(others - logits, threshold=40.0), torch.zeros_like(logits))
    if reduction == "none":
        return pairs.sum(dim=1)
    return pairs.sum() if reduction == "sum" else pairs.sum() / positive.sum().clamp_min(1)


def _distilled(
    logits: Tensor, teacher: Tensor, hard: Tensor, alpha: Scalar, kind: str, filter_wrong: bool, detach: bool
) -> Tensor:
    """Cross-entropies, or divergences, of the rows; 0 where the teacher's first maximum is not on the diagonal."""
    teacher = teacher.detach() if detach else teacher
    target = alpha * teacher.softmax(dim=1) + (1.0 - alpha) * hard
    rows = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    if kind == "kl":
        rows = rows + torch.special.xlogy(target, target).sum(dim=1)
    if filter_wrong:
        right = teacher.max(dim=1).indices == torch.arange(len(teacher), device=teacher.device)
        rows = torch.where(right, rows, torch.zeros_like(rows))
    return rows


def _of_rows(temperature: Scalar) -> Scalar:
    return temperature.unsqueeze(1) if isinstance(temperature, Tensor) and temperature.dim() else temperature


def _constant(x: Scalar) -> Scalar:
    return x.detach() if isinstance(x, Tensor) else x
