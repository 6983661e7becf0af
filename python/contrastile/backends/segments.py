"""Reduces of scores over segments of columns: what a backend computes of them, and the gradients that follow.

A maximum is kept as its value and its column. Both soft reduces come from one statistic per row and segment: with
t = sharpness z, the log-sum-exp of t and the mean of z under softmax(t).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..spec import Limits

LANE = 8  # rows of score gradients start at multiples of 16 bytes


@dataclass(frozen=True)
class SegmentCall:
    """Features are in the type they are multiplied in; columns that the mask drops are zeros."""

    rows: Tensor  # (R, D)
    cols: Tensor  # (C, D)
    offsets: Tensor  # (S + 1,) int64, from 0 to C, not decreasing
    length: int  # of every segment, or 0
    mask: Tensor | None  # (C,) bool, True = keep


@dataclass(frozen=True)
class SoftmaxUpstream:
    """The gradient of a score is p (constant + slope (z - mean)), p = e^(sharpness z - stat). All but the sharpness are
    (R, S), in the type of the statistics."""

    sharpness: Tensor
    stat: Tensor
    mean: Tensor
    constant: Tensor
    slope: Tensor | None  # None: 0
    variance: Tensor | None  # is written: sum p (z - mean)^2


class Multiplier(Protocol):
    def limits(self, device: torch.device) -> Limits: ...

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None: ...


class SegmentReduces(ABC):
    """Three methods to write. Scores of -inf count as dropped."""

    matrices = 1  # as large as the scores, that soft reduces hold at a time

    def __init__(self, backend: Multiplier) -> None:
        self.backend = backend

    @abstractmethod
    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        """Writes (R, S) values, and the columns they are in, int32; -inf and -1 where no score is above -inf."""

    @abstractmethod
    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        """Writes both (R, S); -inf where no score is above -inf."""

    @abstractmethod
    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        """(R, C), in the type of the features; 0 outside segments."""

    def chunks(self, call: SegmentCall, matrices: int = 1) -> Iterator[slice]:
        return row_chunks(self.backend.limits(call.rows.device), len(call.rows), len(call.cols) * matrices)

    def add_max_gradients(
        self, call: SegmentCall, args: Tensor, grad: Tensor, rows: Tensor | None, cols: Tensor | None
    ) -> None:
        """A row has at most one score gradient per segment: those of some rows are laid out in a block of zeros."""
        for part in self.chunks(call):
            g = scattered(grad[part].to(call.rows.dtype), args[part], len(call.cols))
            self.add_products(row_part(call, part), g, None if rows is None else rows[part], cols)

    def add_softmax_gradients(
        self, call: SegmentCall, up: SoftmaxUpstream, rows: Tensor | None, cols: Tensor | None
    ) -> None:
        for part in self.chunks(call, self.matrices):
            some = row_part(call, part)
            own = None if rows is None else rows[part]
            # no name for score gradients: those of the part before are gone by then
            self.add_products(some, self.score_grad(some, each_sliced(up, part)), own, cols)

    def add_products(self, call: SegmentCall, g: Tensor, rows: Tensor | None, cols: Tensor | None) -> None:
        if rows is not None:
            self.backend.accumulate(rows, g, call.cols)
        if cols is not None:
            self.backend.accumulate(cols, g.T, call.rows)


def row_part(call: SegmentCall, part: slice) -> SegmentCall:
    return replace(call, rows=call.rows[part])


def each_sliced(x: SoftmaxUpstream, part: slice) -> SoftmaxUpstream:
    slope, variance = (None if y is None else y[part] for y in (x.slope, x.variance))
    return SoftmaxUpstream(x.sharpness, x.stat[part], x.mean[part], x.constant[part], slope, variance)


def row_chunks(limit: Limits, rows: int, columns: int) -> Iterator[slice]:
    """Rows whose scores with all columns, at four bytes each, fit the workspace; never very few, so that a product
    stays one of matrices."""
    step = max(min(limit.workspace // (4 * max(columns, 1)), limit.max_chunk), 64)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def scattered(grad: Tensor, args: Tensor, columns: int) -> Tensor:
    """(rows, columns) of zeros but for each row's maxima. A further column takes what segments without one would add,
    so that no place is written twice with different numbers."""
    out = torch.zeros(len(grad), (columns // LANE + 1) * LANE, dtype=grad.dtype, device=grad.device)
    return out.scatter_(1, torch.where(args < 0, columns, args).long(), grad)[:, :columns]
