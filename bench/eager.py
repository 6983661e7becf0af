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


def info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(query @ key.T / temperature, torch.arange(len(query), device=query.device))


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    x = torch.cat([z1, z2])
    n = len(z1)
    logits = (x @ x.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=x.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=x.device).roll(n))


def uniformity(x: Tensor) -> Tensor:
    return torch.pdist(x.float(), p=2).pow(2).mul(-2).exp().mean().log()


def gram(anchor: Tensor, *others: Tensor, temperature: float, matrices: int = 2) -> Tensor:
    """One k x k Gram determinant per pair, two cross-entropies: the computation of ispamm/GRAM on one rank.

    Its training code forms the volumes once for each direction; matrices=1 forms them once for both.
    """
    rows = gram_volumes(anchor, *others)
    cols = rows.T if matrices == 1 else gram_volumes(anchor, *others).T
    labels = torch.arange(len(anchor), device=anchor.device)
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


def symile_n_squared(*modalities: Tensor, scale: Tensor) -> Tensor:
    """Each anchor against the products of all tuples of the others, N^2 x D: the computation of the symile package."""
    n = len(modalities[0])
    labels = torch.arange(n, device=modalities[0].device)
    losses = []
    for m, anchor in enumerate(modalities):
        x, y = (other for index, other in enumerate(modalities) if index != m)
        shifted = [x * y.roll(-shift, 0) for shift in range(n)]  # column i of the first block is the true tuple
        losses.append(F.cross_entropy(scale * anchor @ torch.cat(shifted).T, labels))
    return torch.stack(losses).mean()
