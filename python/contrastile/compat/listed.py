"""Scores of pairs that are listed one by one, as miners do: memory grows with the list, not with N x M."""

from __future__ import annotations

from functools import partial

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


def check_indices(name: str, index: Tensor, size: int) -> Tensor:
    """An index list as int64; rows outside [0, size) would otherwise be read as other pairs."""
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise IndexError(f"{name} must lie in [0, {size}), got {int(index.min())} to {int(index.max())}")
    return index.long()
