"""Reduces over segments by CUDA C++: a kernel over the scores of some rows with all columns, which cuBLAS wrote."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .cuda_basis import TYPES
from .native_struct import new
from .products import float_product
from .segments import Multiplier, SegmentCall, SegmentReduces, SoftmaxUpstream

QUAD = 4  # columns that the kernels read at a time


class Launcher(Multiplier, Protocol):
    """The cuda backend: its module, where kernels are launched, and how much at once."""

    module: Any

    def place(self, device: torch.device) -> tuple[int, int]: ...


class CudaSegments(SegmentReduces):
    """Columns are padded, so that every row of scores starts at a multiple of 16 bytes and ends with whole quads. The
    mask is copied, because it may start anywhere."""

    backend: Launcher

    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        x, cols, _mask = self.described(call, values.shape[1])
        for part in self.chunks(call):
            x.values, x.args = values[part].data_ptr(), args[part].data_ptr()
            self.over_scores(x, "segment_maxima", call.rows[part], cols)

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        x, cols, _mask = self.described(call, stat.shape[1])
        x.sharpness = sharpness.data_ptr()
        for part in self.chunks(call):
            x.stat, x.mean = stat[part].data_ptr(), mean[part].data_ptr()
            self.over_scores(x, "segment_softmax", call.rows[part], cols)

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        """Of float32 features in place of the scores."""
        x, cols, _mask = self.described(call, up.stat.shape[1])
        for name in ("sharpness", "stat", "mean", "constant", "slope", "variance"):
            given = getattr(up, name)
            setattr(x, name, 0 if given is None else given.data_ptr())
        grad = None
        if call.rows.dtype != torch.float32:
            grad = torch.empty(len(call.rows), len(cols), dtype=call.rows.dtype, device=call.rows.device)
            x.grad, x.type = grad.data_ptr(), TYPES[call.rows.dtype]
        scores = self.over_scores(x, "segment_score_grad", call.rows, cols)
        return (scores if grad is None else grad)[:, : len(call.cols)]

    def described(self, call: SegmentCall, count: int) -> tuple[Any, Tensor, Tensor | None]:
        """Segments and the mask, the columns to multiply, and what must live as long as the first."""
        padding = -len(call.cols) % QUAD
        cols = F.pad(call.cols, (0, 0, 0, padding)) if padding else call.cols
        mask = None if call.mask is None else F.pad(call.mask.to(torch.uint8), (0, padding))
        x = new(self.backend.module, "ScoreSegments")
        x.offsets, x.count = call.offsets.data_ptr(), count
        x.mask = 0 if mask is None else mask.data_ptr()
        x.device, x.stream = self.backend.place(call.rows.device)
        return x, cols, mask

    def over_scores(self, x: Any, kernel: str, rows: Tensor, cols: Tensor) -> Tensor:
        scores = float_product(rows, cols.T)
        x.scores, (x.rows, x.stride) = scores.data_ptr(), scores.shape
        x.grad = x.grad or x.scores
        getattr(self.backend.module, kernel)(x)
        return scores
