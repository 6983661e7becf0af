"""Scores of pairs that are listed one by one, as miners do: memory grows with the list, not with N x M."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 4 << 20  # gathered numbers a side; a longer list is gathered again in the backward pass


def listed_dots(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """<x_rows, y_cols> for each listed pair, (P,)."""
    size = max(CHUNK // max(x.shape[1], 1), 1)
    chunks = list(zip(rows.split(size), cols.split(size), strict=True))
    if len(chunks) <= 1:
        return gathered_dots(x, y, rows, cols)
    again = partial(checkpoint, gathered_dots, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(x, y, row, col) for row, col in chunks])


def gathered_dots(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    return (x.index_select(0, rows) * y.index_select(0, cols)).sum(1)


def listed_lse(z: Tensor, rows: Tensor, n: int) -> Tensor:
    """log sum e^z over the listed pairs of each of n rows, (n,); -inf for a row without one."""
    peak = z.new_full((n,), -torch.inf).scatter_reduce(0, rows, z.detach(), "amax")
    peak = torch.where(peak.isfinite(), peak, 0.0)
    total = z.new_zeros(n).index_add(0, rows, (z - peak[rows]).exp())
    some = total != 0.0  # NaN passes
    return torch.where(some, torch.where(some, total, 1.0).log() + peak, -torch.inf)


def unique_pairs(rows: Tensor, cols: Tensor, m: int) -> Tensor:
    """The listed pairs as sorted numbers row * m + col, each once."""
    pairs: Tensor = torch.unique(rows * m + cols)
    return pairs


def check_indices(name: str, given: Any, size: int, device: torch.device) -> Tensor:
    """An index list as int64 in [0, size), from one in which -1 is the last row, as in torch.

    Rows outside would otherwise be read as other pairs. To torch bool and uint8 are masks, not positions.
    """
    index = torch.as_tensor(given, device=device)
    if not index.numel():
        return index.long()  # of whatever type: an empty Python list gives float32
    if index.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
        raise IndexError(f"{name} must hold integers, got {index.dtype}")
    low, high = (int(end) for end in index.aminmax())
    if not -size <= low <= high < size:
        raise IndexError(f"{name} must lie in [-{size}, {size}), got {low} to {high}")
    return index.long() % size
