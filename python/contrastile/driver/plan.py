"""How a call is cut into blocks: made once, and passed to whoever walks them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

from torch import Tensor

from ..backends import waves
from ..backends.base import Backend
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
    new_rows: bool = True  # nothing was added to the gradients of these rows before
    new_cols: bool = True  # the same of the columns, as such


def limits(call: PairCall, backend: Backend) -> Limits:
    return backend.limits(call.rows.features.device)


class Plan:
    """The blocks of a call on a backend, chunk of rows by chunk of rows, in an order that depends on shapes alone.

    Columns are brought into the backend's layout, once for all chunks.
    """

    def __init__(self, call: PairCall, backend: Backend, whole: bool = False, beside: int = 1) -> None:
        """whole: every chunk of rows meets all columns of a block at once. beside: plans that hold score gradients of
        the same block at a time."""
        self.call, self.backend = call, backend
        self.limits = limits(call, backend)
        self.fit = self.limits.workspace // (backend.pair_bytes(call) * call.products * beside)
        self.room = Room()
        self.begun = False  # whether rows before have added to the gradients of columns
        self.rows, self.columns = self.filling(whole) if self.limits.processors else self.chunks(whole)
        for block in call.blocks:
            if block.prepared is None:
                block.prepared = backend.prepare(block.features)
            if block.second is not None and block.second_prepared is None:
                same = block.second is block.features  # keys that serve student and teacher
                block.second_prepared = block.prepared if same else backend.prepare(block.second)

    def chunk(self, start: int, stop: int) -> Plan:
        """The plan of some of the rows."""
        part, call = copy(self), self.call
        part.begun = start > 0
        mask = None if call.mask is None else call.mask[start:stop]
        part.call = PairCall(call.spec, call.rows.slice(start, stop), call.blocks, mask, call.factor)
        return part

    def chunks(self, whole: bool) -> tuple[int, int]:
        """Rows and columns of a block by the backend's limits alone."""
        widest = max((len(block) for block in self.call.blocks), default=1)
        most = self.limits.square_chunk if self.call.spec.square else self.limits.max_chunk
        rows = self.granular(max(min(self.fit // max(widest, 1), most), self.limits.min_chunk))
        rows = min(rows, self.whole_rows()) if whole else rows
        return rows, self.granular(self.fit // rows)

    def filling(self, whole: bool) -> tuple[int, int]:
        """The same for output products that fill the device."""
        n, d = self.call.rows.features.shape
        widths = [len(block) for block in self.call.blocks]
        cols = sum(widths) if whole else max(widths, default=0)
        pairs = waves.Pairs(n, max(cols, 1), d, self.call.spec.square)
        return waves.best_block(pairs, self.fit, self.limits.min_chunk, whole, self.limits.processors)

    def whole_rows(self) -> int:
        """Rows whose scores with all columns fit the workspace."""
        return self.fit * self.call.products // max(self.width(), 1)

    def granular(self, size: int) -> int:
        return max(size // self.backend.granularity, 1) * self.backend.granularity

    def steps(self) -> Iterator[Step]:
        n, widths = len(self.call.rows), [len(block) for block in self.call.blocks]
        for start in range(0, n, self.rows):
            stop, later = min(start + self.rows, n), start > 0 or self.begun
            if self.call.spec.square:  # rows of later chunks were columns of the first one
                yield Step(start, stop, 0, start, stop, new_rows=not later, new_cols=False)
                for first in range(stop, n, self.columns):
                    last = min(first + self.columns, n)
                    yield Step(start, stop, 0, first, last, mirrored=True, new_rows=False, new_cols=not later)
                continue
            new_rows = True
            for index, width in enumerate(widths):
                for first in range(0, width, self.columns):
                    yield Step(start, stop, index, first, min(first + self.columns, width), False, new_rows, not later)
                    new_rows = False

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

    @property
    def keeps_more(self) -> bool:
        """Whether what is saved is held beside score gradients, not in their place."""
        return not self.backend.saves_scores and self.backend.saved_dtype(self.call) is not None

    def width(self) -> int:
        """Scores of one row with all columns, padded block by block."""
        return sum(self.backend.saved_width(len(block)) for block in self.call.blocks) * self.call.products

    def step_scores(self, step: Step) -> int:
        return self.call.products * (step.stop - step.start) * self.backend.saved_width(step.last - step.first)

    def scores_within(self, budget: int) -> Tensor | None:
        """Memory for scores saved between two sweeps, at most `budget` bytes."""
        dtype = self.backend.saved_dtype(self.call)
        if budget <= 0 or dtype is None:
            return None
        if self.keeps_more:
            size = self.first_steps(budget // dtype.itemsize)
            return self.memory(size) if size else None
        width = sum(len(block) + self.backend.padding for block in self.call.blocks) * self.call.products
        return self.memory(min(budget // dtype.itemsize, len(self.call.rows) * width))

    def first_steps(self, most: int) -> int:
        """What is saved of the first steps that take at most so much together."""
        found = 0
        for step in self.steps():
            if found + self.step_scores(step) > most:
                break
            found += self.step_scores(step)
        return found

    def memory(self, size: int) -> Tensor | None:
        """For so many scores; None for a backend that keeps none."""
        dtype = self.backend.saved_dtype(self.call)
        return None if dtype is None else self.backend.memory(size, dtype, self.call.rows.features.device)


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
        width = plan.backend.saved_width(step.last - step.first)
        return part.view(plan.call.products, step.stop - step.start, width)


def columns_before(call: PairCall, index: int) -> int:
    """Columns in the blocks before; their origins may have gaps."""
    return sum(len(block) for block in call.blocks[:index])
