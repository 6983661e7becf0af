"""Repulsion of each item's nearest others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses.common import zero
from ..ops import check
from ..ranks import GlobalBatch, Group, collective
from .largest import topk


@collective
def topk_repulsion_loss(
    x: Tensor,
    k: int = 10,
    *,
    below: float = 0.95,
    temperature: float = 1.0,
    fill: bool = False,
    group: Group = None,
) -> Tensor:
    """TIC: pushes each text away from its k nearest others, except those so near that they may mean the same.

        L = mean_i log sum over the k largest s_ij <= below, j != i, of e^(s_ij / temperature),   s_ij = <x_i, x_j>

    Args:
        x: (N, D), unit rows, float32 | bfloat16 | float16 | float64.
        k: >= 1; items with fewer others have only these.
        below: Items nearer than this are left out. FG-CLIP 2 uses 0.95.
        temperature: > 0; 1 in FG-CLIP 2.
        fill: The official code's zeros: an item's own place and what is nearer than `below` stay candidates with score
            0, so they fill the k places where few others are above 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: x is this rank's share.

    Returns: A 0-dim tensor, float32 (float64 for float64 features). Items without others do not count; 0 if none
    counts. Gradients reach both items of a pair, k of each.
    Cost: 2 N^2 D FLOP, O(N (k + D)) memory.

    Example:
        >>> loss = topk_repulsion_loss(torch.nn.functional.normalize(torch.randn(16, 8), dim=1), 4)

    Source: Xie et al. 2025 (FG-CLIP 2), https://arxiv.org/abs/2510.10921; official code 360CVGroup/FG-CLIP, fgclip2.py.
    """
    check.features("x", x)
    limit, scale = check.scalar("below", below), check.scalar("temperature", temperature, positive=True)
    values, index = topk(x, None, k, high=limit, group=group)
    kept = index >= 0
    if fill:
        values, kept = with_zeros(x, values, limit, group)
    some = kept.any(1)
    scores = torch.where(kept, values / scale, -torch.inf)
    rows = torch.where(some, torch.logsumexp(torch.where(some.unsqueeze(1), scores, 0.0), 1), 0.0)
    batch = GlobalBatch.of(group, x.shape[0])
    counted = batch.sum(some.sum()).clamp_min(1)
    return rows.sum() * len(batch.sizes) / counted + zero(x)


def with_zeros(x: Tensor, values: Tensor, limit: float | Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """The k largest of these values and of a 0 for the item itself and for every other one above the limit."""
    k = values.shape[1]
    near = topk(x.detach(), None, k, low=limit, group=group).indices >= 0
    zeros = torch.where(near, 0.0, -torch.inf).to(values.dtype)
    best = torch.cat([values, zeros.new_zeros(x.shape[0], 1), zeros], 1).topk(k, 1).values
    return best, best > -torch.inf
