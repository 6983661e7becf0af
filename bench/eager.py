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
