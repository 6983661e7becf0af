"""Maxima over segments in plain torch: the scores of some rows with all columns at a time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .base import Backend, row_chunks
from .products import float_product


def segment_max(
    backend: Backend, rows: Tensor, cols: Tensor, offsets: Tensor, length: int, mask: Tensor | None,
    values: Tensor, args: Tensor,
) -> None:  # fmt: skip
    """Scores are (columns, rows), so that what is reduced lies apart and rows side by side."""
    for part in row_chunks(backend.limits(rows.device), len(rows), len(cols)):
        scores = float_product(cols, rows[part].T)
        if mask is not None:
            scores.masked_fill_(~mask[:, None], -torch.inf)
        best, at = maxima(scores, offsets, length)
        values[part] = best.T
        args[part] = torch.where(best == -torch.inf, -1, at).T


def maxima(scores: Tensor, offsets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(S, rows) values and the rows of `scores` they are in, which mean nothing where the value is -inf."""
    if length:
        best, at = scores.view(-1, length, scores.shape[1]).max(1)
        return best, at + offsets[:-1, None]
    return slice_by_slice(scores, offsets) if scores.device.type == "cpu" else all_at_once(scores, offsets)


def slice_by_slice(scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Where offsets can be read and calls are cheap."""
    bounds = offsets.tolist()
    best = scores.new_full((len(bounds) - 1, scores.shape[1]), -torch.inf)
    at = torch.zeros(best.shape, dtype=torch.int64, device=scores.device)
    for s, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            torch.max(scores[start:stop], 0, out=(best[s], at[s]))
            at[s] += start
    return best, at


def all_at_once(scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Without reading offsets, in several passes: segment_reduce does not say where its maximum is, so a second one
    finds the first place."""
    column = torch.arange(len(scores), device=scores.device)
    segment = torch.searchsorted(offsets[1:], column, right=True).clamp_max(len(offsets) - 2)
    best = reduced(scores, "max", offsets)
    hit = (scores == best[segment]) | scores.isnan()
    # float32 counts to 2^24
    place = column.to(torch.float64 if len(column) > 2**24 else scores.dtype)
    return best, reduced(torch.where(hit, place[:, None], torch.inf), "min", offsets)


def reduced(x: Tensor, how: str, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(x, how, offsets=offsets, axis=0, unsafe=True)
