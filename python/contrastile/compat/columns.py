"""Columns of embeddings, as the drop-ins of sentence-transformers take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import check, no_autocast


def embedding_columns(embeddings: Sequence[Tensor]) -> list[Tensor]:
    """Two or more (N, D) batches of equal shape, in the type of the statistics."""
    if len(embeddings) < 2:
        raise ValueError(f"Expected at least 2 embeddings, got {len(embeddings)}")
    for index, x in enumerate(embeddings):
        name = f"embeddings[{index}]"
        check.same_shape(name, check.features(name, x), "embeddings[0]", embeddings[0])
        check.same_device(name, x, embeddings[0].device)
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in embeddings) else torch.float32
    return [x.to(dtype) for x in embeddings]


def product_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of x is computed in: under autocast its type, of which only the logits are spared."""
    device = x.device.type
    half = x.dtype != torch.float64 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if half else x.dtype


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    with no_autocast(parts[0]):  # in a float16 region, torch.cat refuses bfloat16
        return torch.cat(list(parts), dim)


def propagated(loss: Tensor, with_backward: bool) -> Tensor:
    if not with_backward:
        return loss
    with no_autocast(loss):  # trainers call the loss within autocast; its gradients are not to be rounded
        loss.backward()
    return loss.detach()
