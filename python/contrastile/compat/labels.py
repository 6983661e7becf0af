"""Positive and negative pairs by labels, counted and listed without comparing every row with every column."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import check


@dataclass(frozen=True)
class Labelled:
    """Which pairs of rows and columns have equal labels."""

    rows: Tensor  # (N,) int64
    cols: Tensor  # (M,) int64
    own: bool  # pair (i, i) is a row with itself: neither positive nor negative

    @property
    def ranges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Columns in order of their labels, and where each row's label starts and ends there."""
        ordered, order = self.cols.sort(stable=True)
        return order, torch.searchsorted(ordered, self.rows), torch.searchsorted(ordered, self.rows, right=True)

    def counts(self) -> tuple[Tensor, Tensor]:
        """Positives and negatives of each row, (N,), (N,)."""
        _, start, stop = self.ranges
        same = stop - start
        return same - int(self.own), self.cols.shape[0] - same

    def positives(self) -> tuple[Tensor, Tensor]:
        """All positive pairs, row by row, columns ascending."""
        order, start, stop = self.ranges
        same = stop - start
        row = torch.repeat_interleave(same)
        first = (same.cumsum(0) - same)[row]
        col = order[start[row] + torch.arange(row.shape[0], device=row.device) - first]
        return (row[row != col], col[row != col]) if self.own else (row, col)


def integer_ids(name: str, labels: Tensor) -> Tensor:
    """Labels (N,) of any type as int64 that are equal where the labels are."""
    x = check.tensor(name, labels)
    if x.dtype not in check.ID_DTYPES:
        x = torch.unique(x, return_inverse=True)[1]
    return check.ids(name, x, x.shape[0], x.device)


def labelled(labels: Tensor, ref_labels: Tensor, own: bool) -> Labelled:
    """Labels of rows and columns, of any type."""
    if ref_labels is labels:
        ids = integer_ids("labels", labels)
        return Labelled(ids, ids, own)
    ids = integer_ids("labels", torch.cat([labels, ref_labels]))
    return Labelled(ids[: labels.shape[0]], ids[labels.shape[0] :], own)
