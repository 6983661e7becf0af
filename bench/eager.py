"""The losses as training code writes them in plain torch: what people use today."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Two logit matrices, two cross-entropies: the computation of open_clip's ClipLoss on one rank."""
    labels = torch.arange(len(image), device=image.device)
    rows = F.cross_entropy(scale * image @ text.T, labels)
    return (rows + F.cross_entropy(scale * text @ image.T, labels)) / 2


def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """One logit matrix and a label matrix: the computation of open_clip's SigLipLoss on one rank."""
    logits = scale * image @ text.T + bias
    labels = 2 * torch.eye(len(image), dtype=logits.dtype, device=image.device) - 1
    return -F.logsigmoid(labels * logits).sum() / len(image)


def info_nce(query: Tensor, key: Tensor, *, temperature: Tensor) -> Tensor:
    return F.cross_entropy(query @ key.T / temperature, torch.arange(len(query), device=query.device))


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: Tensor) -> Tensor:
    x = torch.cat([z1, z2])
    n = len(z1)
    logits = (x @ x.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=x.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=x.device).roll(n))


def info_nce_of(
    query: Tensor, key: Tensor, queue: Tensor | None = None, hard: Tensor | None = None, ids: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:  # fmt: skip
    """InfoNCE with a queue, with private negatives, or without negatives of a query's own id."""
    z = query @ key.T / temperature
    if ids is not None:
        z = z.masked_fill((ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool), -torch.inf)
    if queue is not None:
        z = torch.cat([z, query @ queue.T / temperature], 1)
    if hard is not None:
        z = torch.cat([z, torch.einsum("nd,nkd->nk", query, hard) / temperature], 1)
    return F.cross_entropy(z, torch.arange(len(query), device=query.device))


def sup_con(x: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    z, own = x @ x.T / temperature, torch.eye(len(x), dtype=torch.bool)
    log_p = z - z.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~own
    return -(torch.where(positive, log_p, 0).sum(1) / positive.sum(1)).mean()


def dcl(z1: Tensor, z2: Tensor, temperature: float = 0.1) -> Tensor:
    x, instance = torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2)
    z = (x @ x.T / temperature).masked_fill(instance[:, None] == instance, -torch.inf)
    return (z.logsumexp(1) - torch.cat([(z1 * z2).sum(1)] * 2) / temperature).mean()


def mv_infonce(views: list[Tensor], temperature: float = 0.5) -> Tensor:
    x = torch.stack(views)
    k, n, _ = x.shape
    instance, rows = torch.arange(n).repeat(k), x.flatten(0, 1)
    z, same = rows @ rows.T / temperature, instance[:, None] == instance
    others, positives = (
        z.masked_fill(dropped, -torch.inf).view(k, n, k * n).transpose(0, 1).flatten(1).logsumexp(1)
        for dropped in (same, ~same | torch.eye(k * n, dtype=torch.bool))
    )
    return -F.logsigmoid(positives - others).mean()


def uniformity(x: Tensor) -> Tensor:
    return torch.pdist(x.float(), p=2).pow(2).mul(-2).exp().mean().log()


def gram(anchor: Tensor, *others: Tensor, temperature: Tensor) -> Tensor:
    """One k x k Gram determinant per pair, for both directions, and two cross-entropies."""
    volumes = gram_volumes(anchor, *others)
    return volume_entropy(volumes, volumes.T, temperature)


def official_gram(anchor: Tensor, *others: Tensor, temperature: Tensor) -> Tensor:
    """ispamm/GRAM @b70c5c2, the training code on one rank: volumes once for each direction, the other side of each
    without gradient, as its gather leaves it."""
    rows = gram_volumes(anchor, *(x.detach() for x in others))
    return volume_entropy(rows, gram_volumes(anchor.detach(), *others).T, temperature)


def volume_entropy(rows: Tensor, cols: Tensor, temperature: Tensor) -> Tensor:
    labels = torch.arange(len(rows), device=rows.device)
    return sum(F.cross_entropy(-z / temperature, labels, label_smoothing=0.1) for z in (rows, cols)) / 2


def gram_volumes(anchor: Tensor, *others: Tensor) -> Tensor:
    """(N, N), from an N x N x k x k tensor."""
    n, vectors = len(anchor), [anchor, *others]

    def entry(i: int, j: int) -> Tensor:
        x, y = vectors[i], vectors[j]
        if i == 0 and j == 0:
            return (x * x).sum(1, keepdim=True).expand(n, n)
        if i == 0 or j == 0:
            return anchor @ (y if i == 0 else x).T
        return (x * y).sum(1).expand(n, n)

    rows = [torch.stack([entry(i, j) for j in range(len(vectors))], -1) for i in range(len(vectors))]
    return torch.det(torch.stack(rows, -2).float()).abs().sqrt()


def distill_clip(
    image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor, teacher_scale: Tensor
) -> Tensor:
    """CLIP, and the cross entropy to a teacher's softmax in both directions: open_clip's DistillClipLoss."""
    student, teacher = scale * image @ text.T, teacher_scale * teacher_image @ teacher_text.T
    distance = sum(
        -(y.softmax(1) * x.log_softmax(1)).sum(1).mean() for x, y in ((student, teacher), (student.T, teacher.T))
    )
    return clip(image, text, scale) + distance / 2


def albef(
    query: Tensor, key: Tensor, momentum_query: Tensor, queue: Tensor, temperature: Tensor, alpha: float
) -> Tensor:
    """One direction of the contrastive losses of ALBEF (models/model_pretrain.py); queue: (D, M), as there."""
    candidates = torch.cat([key.T, queue], 1)
    with torch.no_grad():
        taught = momentum_query @ candidates / temperature
        hard = torch.zeros_like(taught).fill_diagonal_(1)
        target = alpha * taught.softmax(1) + (1 - alpha) * hard
    return -((query @ candidates / temperature).log_softmax(1) * target).sum(1).mean()


# the dense form that is measured, where it costs less than contrastile.reference
FASTER = {
    ("clip_loss", "default"): clip,
    ("siglip_loss", "default"): siglip,
    ("info_nce", "default"): info_nce,
    ("nt_xent", "default"): nt_xent,
    ("uniformity", "default"): uniformity,
    ("gram_loss", "default"): gram,
    ("gram_loss", "four"): gram,
}
