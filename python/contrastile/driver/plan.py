"""How a call is cut into blocks: made once, and passed to whoever walks them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

from torch import Tensor

from ..backends.base import Backend
from ..monoid import stat_dtype
from ..spec import Limits, PairBlock, PairCall, Room


@dataclass
class Step:
    """Rows [start, stop) against columns [first, last) of block `index`; `mirrored`: both sides of a square call."""

    start: int
    stop: int
    index: int
    first: int
    last: int
    mirrored: bool = False


def limits(call: PairCall, backend: Backend) -> Limits:
    return backend.limits(call.rows.features.device)


class Plan:
    """The blocks of a call on a backend, chunk of rows by chunk of rows, in an order that depends on shapes alone.

    Columns are brought into the backend's layout, once for all chunks.
    """

    def __init__(self, call: PairCall, backend: Backend, rows: int | None = None, beside: int = 1) -> None:
        """rows: of a chunk; default as many as the backend wants. beside: plans that hold score gradients of the same
        block at a time."""
        self.call, self.backend = call, backend
        self.held = call.products * beside
        self.limits = limits(call, backend)
        self.room = Room()
        self.rows = rows or self.chunk_rows()
        fit = self.limits.workspace // (4 * self.rows * self.held) // backend.granularity
        self.columns = max(fit, 1) * backend.granularity
        for block in call.blocks:
            if block.prepared is None:
                block.prepared = backend.prepare(block.features)
            if block.second is not None and block.second_prepared is None:
                same = block.second is block.features  # keys that serve student and teacher
                block.second_prepared = block.prepared if same else backend.prepare(block.second)

    def chunk(self, start: int, stop: int) -> Plan:
        """The plan of some of the rows."""
        part, call = copy(self), self.call
        mask = None if call.mask is None else call.mask[start:stop]
        part.call = PairCall(call.spec, call.rows.slice(start, stop), call.blocks, mask, call.factor)
        return part

    def chunk_rows(self) -> int:
        """A multiple of the backend's granularity whose scores fit the workspace."""
        width = max((len(block) for block in self.call.blocks), default=1)
        most = self.limits.square_chunk if self.call.spec.square else self.limits.max_chunk
        return self.granular(max(min(self.fitting(width), most), self.limits.min_chunk))

    def fitting(self, width: int) -> int:
        """Rows of so many scores of every product that fit the workspace."""
        return self.limits.workspace // (4 * max(width, 1) * self.held)

    def granular(self, rows: int) -> int:
        return max(rows // self.backend.granularity, 1) * self.backend.granularity

    def steps(self) -> Iterator[Step]:
        n, widths = len(self.call.rows), [len(block) for block in self.call.blocks]
        for start in range(0, n, self.rows):
            stop = min(start + self.rows, n)
            if self.call.spec.square:
                yield Step(start, stop, 0, start, stop)
                for first in range(stop, n, self.columns):
                    yield Step(start, stop, 0, first, min(first + self.columns, n), mirrored=True)
                continue
            for index, width in enumerate(widths):
                for first in range(0, width, self.columns):
                    yield Step(start, stop, index, first, min(first + self.columns, width))

    def only_step(self) -> Step | None:
        """The step of a call that is one block."""
        steps = self.steps()
        first = next(steps, None)
        return first if next(steps, None) is None else None

    def block(self, step: Step, scores: Tensor | None = None) -> PairBlock:
        call = self.call
        row = call.rows.slice(step.start, step.stop)
        col = call.blocks[step.index].slice(step.first, step.last)
        if call.spec.square:
            col = replace(col, on=step.mirrored)
        mask = call.mask
        if mask is not None:
            before = columns_before(call, step.index)
            mask = mask[step.start : step.stop, before + step.first : before + step.last]
        return PairBlock(call.spec, row, col, mask, scores, call.factor, room=self.room)

    # ---- scores saved from statistics to score gradients

    def padded(self, columns: int) -> int:
        return -(-columns // self.backend.padding) * self.backend.padding

    def width(self) -> int:
        """Scores of one row with all columns, padded block by block."""
        return sum(self.padded(len(block)) for block in self.call.blocks) * self.call.products

    def step_scores(self, step: Step) -> int:
        return self.call.products * (step.stop - step.start) * self.padded(step.last - step.first)

    def scores_within(self, budget: int) -> Tensor | None:
        """Memory for scores saved between two sweeps, at most `budget` bytes."""
        if budget <= 0:
            return None
        width = sum(len(block) + self.backend.padding for block in self.call.blocks) * self.call.products
        return self.memory(min(budget // stat_dtype(self.call.dtype).itemsize, len(self.call.rows) * width))

    def memory(self, size: int) -> Tensor | None:
        """For so many scores; None for a backend that keeps none."""
        if not self.backend.saves_scores:
            return None
        return self.backend.memory(size, stat_dtype(self.call.dtype), self.call.rows.features.device)


class ScoreStore:
    """Raw scores saved from stats for score_grad, first blocks first, while they fit the buffer. Plans may share it."""

    def __init__(self, buffer: Tensor | None) -> None:
        self.buffer, self.used = buffer, 0

    def next(self, plan: Plan, step: Step) -> Tensor | None:
        size = plan.step_scores(step)
        if self.buffer is None or self.used + size > len(self.buffer):
            self.buffer = None  # later blocks are recomputed, also when they are smaller
            return None
        part = self.buffer[self.used : self.used + size]
        self.used += size
        return part.view(plan.call.products, step.stop - step.start, plan.padded(step.last - step.first))


def columns_before(call: PairCall, index: int) -> int:
    """Columns in the blocks before; their origins may have gaps."""
    return sum(len(block) for block in call.blocks[:index])
