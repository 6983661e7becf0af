"""The first sweep: partial statistics of every block, joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..monoid import SideStats, finish, merge, neutral
from ..spec import PairCall, PairSpec, Side
from .plan import Plan, ScoreStore, Step


class StatsAccumulator:
    """The statistic of one side while blocks arrive."""

    def __init__(self, spec: PairSpec, side: Side) -> None:
        self.spec, self.side = spec, side
        self.stats: SideStats | None = None

    def add(self, start: int, stop: int, part: SideStats) -> None:
        if self.stats is None and stop - start == len(self.side):
            self.stats = part
            return
        here = self.result().slice(start, stop)
        joined = merge(here, part).present()
        for name, target in here.present().items():
            target.copy_(joined[name])

    def result(self) -> SideStats:
        if self.stats is None:
            self.stats = neutral(self.spec.numbers, self.side.features, len(self.side))
        return self.stats


class Sides:
    """The statistics of the rows and of every column block while blocks arrive."""

    def __init__(self, call: PairCall) -> None:
        self.call = call
        self.rows = StatsAccumulator(call.spec, call.rows)
        self.cols = [StatsAccumulator(call.spec, block) for block in call.blocks]

    def add(self, step: Step, row: SideStats, col: SideStats | None) -> None:
        self.rows.add(step.start, step.stop, row)
        if col is not None:
            (self.rows if step.mirrored else self.cols[step.index]).add(step.first, step.last, col)


def statistics(plan: Plan, store: ScoreStore, steps: Iterable[Step] | None = None) -> Sides:
    """Runs stats over all blocks. Scores are saved as far as the store reaches."""
    sides = Sides(plan.call)
    for step in plan.steps() if steps is None else steps:
        sides.add(step, *plan.backend.stats(plan.block(step, store.next(plan, step))))
    return sides


@dataclass
class Finished:
    """Finished statistics, sums over positives and indices of maxima of all rows and, where wanted, all columns."""

    row: Tensor
    row_positive: Tensor | None
    row_arg: Tensor | None = None
    col: Tensor | None = None
    col_positive: Tensor | None = None
    col_arg: Tensor | None = None


def finished(sides: Sides) -> Finished:
    done = finished_rows(sides.rows.result())
    if sides.call.spec.cols:
        add_columns(done, [column.result() for column in sides.cols])
    return done


def finished_rows(rows: SideStats) -> Finished:
    return Finished(finish(rows), rows.positive, rows.arg)


def add_columns(done: Finished, blocks: Sequence[SideStats]) -> None:
    """The statistics of all columns from those of their blocks."""
    done.col = joined([finish(block) for block in blocks])
    done.col_positive = joined([block.positive for block in blocks if block.positive is not None])
    done.col_arg = joined([block.arg for block in blocks if block.arg is not None])


def joined(parts: Sequence[Tensor]) -> Tensor | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.cat(list(parts))
