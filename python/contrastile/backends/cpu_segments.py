"""Reduces over segments on a CPU: scores stay in the first-level cache, only score gradients of soft reduces lie in
memory, for some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from .native_block import dtype_code, threads_for
from .native_struct import new
from .segments import Multiplier, SegmentCall, SegmentReduces, SoftmaxUpstream

GRADIENT_BYTES = 12 << 20  # of score gradients at a time
GRADIENT_ROWS = 256  # the least: those whose scores with a strip of columns are in the cache together


class Native(Multiplier, Protocol):
    module: Any
    padding: int


class CpuSegments(SegmentReduces):
    backend: Native

    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        x = self.scores(call, values.shape[1])
        x.values, x.args = values.data_ptr(), args.data_ptr()
        self.backend.module.segment_maxima(x)

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        x = self.scores(call, stat.shape[1])
        x.sharpness, x.stat, x.mean = sharpness.item(), stat.data_ptr(), mean.data_ptr()
        self.backend.module.segment_softmax(x)

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        x = self.scores(call, up.stat.shape[1])
        x.sharpness, x.stat, x.mean = up.sharpness.item(), up.stat.data_ptr(), up.mean.data_ptr()
        x.constant = up.constant.data_ptr()
        x.slope = 0 if up.slope is None else up.slope.data_ptr()
        x.variance = 0 if up.variance is None else up.variance.data_ptr()
        x.grad_stride = -(-len(call.rows) // self.backend.padding) * self.backend.padding
        grad = call.rows.new_empty(len(call.cols), x.grad_stride)
        x.grad = grad.data_ptr()
        self.backend.module.segment_score_grad(x)
        return grad[:, : len(call.rows)].T

    def add_max_gradients(
        self, call: SegmentCall, args: Tensor, grad: Tensor, rows: Tensor | None, cols: Tensor | None
    ) -> None:
        """A row has one column per segment: no products with zeros."""
        rows_, cols_ = call.rows.float(), call.cols.float()
        x = self.scores(call, args.shape[1])
        x.a, x.b, x.dtype = rows_.data_ptr(), cols_.data_ptr(), 0
        x.args, x.constant = args.data_ptr(), grad.data_ptr()
        x.grad_a, x.grad_b = (0 if t is None else t.data_ptr() for t in (rows, cols))
        x.threads = threads_for(args.numel() * x.d)
        self.backend.module.segment_max_gradients(x)

    def chunks(self, call: SegmentCall, matrices: int = 1) -> Iterator[slice]:
        step = max(GRADIENT_BYTES // (4 * max(len(call.cols), 1)), GRADIENT_ROWS)
        return (slice(start, start + step) for start in range(0, len(call.rows), step))

    def scores(self, call: SegmentCall, count: int) -> Any:
        """Rows, columns and segments; the tensors behind the addresses are the call's."""
        x = new(self.backend.module, "SegmentScores")
        x.a, x.b = call.rows.data_ptr(), call.cols.data_ptr()
        (x.n, x.d), x.m, x.dtype = call.rows.shape, len(call.cols), dtype_code(call.rows)
        x.offsets, x.count = call.offsets.data_ptr(), count
        x.mask = 0 if call.mask is None else call.mask.data_ptr()
        x.threads = threads_for(x.n * x.m * max(x.d, 16))
        return x
