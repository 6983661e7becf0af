"""Reduces over segments by CUDA C++: one kernel over the scores of some rows with all columns, which cuBLAS wrote."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .native_struct import new
from .products import float_product
from .segments import Multiplier, SegmentCall, SegmentReduces, SoftmaxUpstream

QUAD = 4  # columns that the kernel reads at a time


class Launcher(Multiplier, Protocol):
    """The cuda backend: its module, where kernels are launched, and how much at once."""

    module: Any

    def place(self, device: torch.device) -> tuple[int, int]: ...


class CudaSegments(SegmentReduces):
    """Columns are padded, so that every row of scores starts at a multiple of 16 bytes and ends with whole quads. The
    mask is copied, because it may start anywhere."""

    backend: Launcher

    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        rows, cols, mask = call.rows, call.cols, call.mask
        padding = -len(cols) % QUAD
        cols = F.pad(cols, (0, 0, 0, padding)) if padding else cols
        mask = None if mask is None else F.pad(mask.to(torch.uint8), (0, padding))
        x = new(self.backend.module, "ScoreSegments")
        x.offsets, x.count = call.offsets.data_ptr(), values.shape[1]
        x.mask = 0 if mask is None else mask.data_ptr()
        x.device, x.stream = self.backend.place(rows.device)
        for part in self.chunks(call):
            scores = float_product(rows[part], cols.T)
            x.scores, (x.rows, x.stride) = scores.data_ptr(), scores.shape
            x.values, x.args = values[part].data_ptr(), args[part].data_ptr()
            self.backend.module.segment_max(x)

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        raise NotImplementedError

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        raise NotImplementedError
