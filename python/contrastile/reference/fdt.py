"""Finite discrete tokens and sparsemax, dense."""

import math

import torch
from torch import Tensor

from ._dense import Scalar, unit
from .contrastive import clip_loss


def sparsemax(x: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """max(x - t, 0) with t so that rows add up to 1, from sorted scores; mask: True at those that take part, of which
    every row has one.

    Source: Martins and Astudillo 2016, arXiv 1602.02068, algorithm 1.
    """
    if mask is not None:
        x = x.masked_fill(~mask, -torch.inf)
    ordered = x.sort(dim=-1, descending=True).values
    places = torch.arange(1, x.shape[-1] + 1, device=x.device)
    sums = ordered.cumsum(dim=-1)
    size = (1 + places * ordered > sums).sum(dim=-1, keepdim=True)
    threshold = (sums.gather(-1, size - 1) - 1) / size
    return (x - threshold).clamp_min(0)


def fdt_features(
    tokens: Tensor,
    codebook: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: Scalar = 1.0,
    pool: str = "max",
    padding: str = "drop",
) -> Tensor:
    """(N, D): sum_k sparsemax_k(max_l <x_l, c_k> / (sqrt(D) temperature)) c_k; zeros for an item without tokens.

    Source: Chen et al. 2023 (FDT), arXiv 2303.14865, eq. 2 to 4.
    """
    rows = []
    for i, item in enumerate(tokens):
        kept = item if mask is None else item[mask[i]]
        if not len(kept):
            rows.append(codebook.sum(dim=0) * 0.0)
            continue
        scores = kept @ codebook.T
        if padding == "zero":
            scores = torch.cat([scores, scores.new_zeros(len(item) - len(kept), len(codebook))])
        pooled = {"max": lambda z: z.amax(dim=0), "mean": lambda z: z.mean(dim=0), "sum": lambda z: z.sum(dim=0)}
        rows.append(sparsemax(pooled[pool](scores) / (math.sqrt(item.shape[-1]) * temperature)) @ codebook)
    return torch.stack(rows) if rows else tokens.sum(dim=1) * codebook.sum()


def fdt_loss(
    image_tokens: Tensor,
    text_tokens: Tensor,
    codebook: Tensor,
    logit_scale: Scalar,
    *,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    temperature: Scalar = 1.0,
    pool: str = "max",
    padding: str = "drop",
    direction: str = "mean",
    reduction: str = "mean",
) -> Tensor:
    """CLIP's loss of unit fdt_features of images and texts that both have tokens.

    Source: Chen et al. 2023 (FDT), arXiv 2303.14865, eq. 5.
    """
    features = [
        fdt_features(x, codebook, mask=mask, temperature=temperature, pool=pool, padding=padding)
        for x, mask in ((image_tokens, image_mask), (text_tokens, text_mask))
    ]
    here = torch.ones(len(image_tokens), dtype=torch.bool, device=image_tokens.device)
    for mask in (image_mask, text_mask):
        here &= mask.any(dim=1) if mask is not None else here
    image, text = (unit(x, True) for x in features)
    return clip_loss(image, text, logit_scale, present=here, direction=direction, reduction=reduction)
