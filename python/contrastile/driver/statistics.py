"""The first sweep: partial statistics of every block, joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..monoid import SideStats, TargetStats, finish, finish_positives, finish_target, merge, neutral
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
    """The finished statistics of one side, in parts, and the numbers they were made of."""

    stat: Tensor
    numbers: SideStats
    positive_stat: Tensor | None = None  # of kept positives, where they are apart
    target: TargetStats | None = None


@dataclass
class Statistics:
    """Of all rows and, where wanted, all columns."""

    row: Finished
    col: Finished | None = None


def finished(sides: Sides) -> Statistics:
    cols = [column.result() for column in sides.cols] if sides.call.spec.cols else []
    return Statistics(finished_side(sides.rows.result()), finished_side(side_by_side(cols)) if cols else None)


def finished_side(stats: SideStats) -> Finished:
    return Finished(finish(stats), stats, finish_positives(stats), finish_target(stats))


def side_by_side(blocks: Sequence[SideStats]) -> SideStats:
    """The numbers of all columns from those of their blocks."""
    if len(blocks) == 1:
        return blocks[0]
    return SideStats(**{name: torch.cat([getattr(x, name) for x in blocks]) for name in blocks[0].present()})
