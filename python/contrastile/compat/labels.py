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
    own: Tensor | None = None  # (N,) int64: the column that is the row itself, no pair of it; -1 where there is none

    @property
    def ranges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Columns in order of their labels, and where each row's label starts and ends there."""
        ordered, order = self.cols.sort(stable=True)
        return order, torch.searchsorted(ordered, self.rows), torch.searchsorted(ordered, self.rows, right=True)

    def counts(self) -> tuple[Tensor, Tensor]:
        """Positives and negatives of each row, (N,), (N,)."""
        _, start, stop = self.ranges
        same = stop - start
        return same if self.own is None else same - (self.own >= 0).long(), self.cols.shape[0] - same

    def copies(self) -> tuple[Tensor, Tensor]:
        """Rows that have a copy among the columns, and where it is."""
        assert self.own is not None
        rows = (self.own >= 0).nonzero().squeeze(1)
        return rows, self.own[rows]

    def positives(self) -> tuple[Tensor, Tensor]:
        """All positive pairs, row by row, columns ascending."""
        order, start, stop = self.ranges
        same = stop - start
        row = torch.repeat_interleave(same)
        first = (same.cumsum(0) - same)[row]
        col = order[start[row] + torch.arange(row.shape[0], device=row.device) - first]
        if self.own is None:
            return row, col
        other = self.own[row] != col
        return row[other], col[other]


def integer_ids(name: str, labels: Tensor) -> Tensor:
    """Labels (N,) of any type as int64 that are equal where the labels are."""
    x = check.tensor(name, labels)
    if x.dtype not in check.ID_DTYPES:
        x = torch.unique(x, return_inverse=True)[1]
    return check.ids(name, x, x.shape[0], x.device)


def labelled(labels: Tensor, ref_labels: Tensor, own: Tensor | None) -> Labelled:
    """Labels of rows and columns, of any type. A column is a row itself where `own` says so and the labels agree."""
    if ref_labels is labels:
        ids = integer_ids("labels", labels)
        return Labelled(ids, ids, own)
    ids = integer_ids("labels", torch.cat([labels, ref_labels]))
    rows, cols = ids[: labels.shape[0]], ids[labels.shape[0] :]
    return Labelled(rows, cols, None if own is None else own_where_equal(rows, cols, own))


def own_where_equal(rows: Tensor, cols: Tensor, own: Tensor) -> Tensor:
    """`own` without columns that do not exist or bear another label: those are negatives like any other."""
    there = (own < cols.shape[0]).nonzero().squeeze(1)
    same = there[rows[there] == cols[own[there]]]
    return torch.full_like(own, -1).index_copy(0, same, own[same])
