"""Statistics and gradients of a global call: the driver's loops part by part, and what ranks leave on each other's
columns. The two strategies differ in what moves, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import driver
from ..driver.gradients import OF_ROWS
from ..monoid import SideStats, neutral, stat_dtype
from ..spec import WEIGHTS, Gradients, Needs, PairCall, Upstream, Weights
from . import communication
from .column_results import (
    column_gradients,
    directions_first,
    merge_everywhere,
    merged,
    nothing_left,
    numbers,
    placed,
    stats_of,
)
from .global_call import GlobalCall, Part, attach
from .shard import form_of, pack, unpack

COLUMNS, LEFT = 1, 2  # tags of what travels
Meet = Callable[[Part], "list[Tensor]"]  # what a part leaves on its columns: tensors (columns, ...)


class Sweep:
    """Adds up, part by part, what belongs to this rank's rows; `travel` brings home what belongs to its columns."""

    def __init__(self, call: GlobalCall, needs: Needs, budget: int = 0) -> None:
        self.call, self.needs, self.budget = call, needs, budget
        self.spec = call.own.spec
        self.row = driver.StatsAccumulator(call.own.spec, call.own.rows)
        self.local_stats: list[Tensor] = []  # of the replicated columns
        self.local_grads: Gradients | None = None
        self.grads = self.accumulators()
        self.value = call.own.rows.features.new_zeros((), dtype=stat_dtype(call.own.dtype))

    def travel(self, meet: Meet, statistics: bool) -> list[Tensor]:
        """Meets all columns this rank has to meet. What all ranks left on its own."""
        raise NotImplementedError

    def part(self, owner: int | None, tensors: list[Tensor]) -> Part:
        sides = unpack(tensors, form_of(self.call.own.blocks), self.call.spans(owner))
        return self.call.part(owner, sides, self.needs)

    def single(self) -> bool:
        """Whether one part has all pairs of this rank's rows."""
        raise NotImplementedError

    # ---- statistics

    def statistics(self) -> driver.Statistics:
        home = self.travel(self.reduce, statistics=True)
        if home and self.spec.square:
            self.row.add(0, len(self.call.own.rows), self.stats_of(home[0]))
        done = driver.Statistics(driver.finished_side(self.row.result()))
        if home and not self.spec.square:
            done.col = driver.finished_side(self.stats_of(torch.cat([home[0], *self.local_stats])))
        return done

    def stats_of(self, x: Tensor) -> SideStats:
        return stats_of(self.spec.numbers, x, stat_dtype(self.call.own.dtype))

    def reduce(self, part: Part) -> list[Tensor]:
        sides = driver.statistics(driver.Plan(part.call, self.call.backend), driver.ScoreStore(part.buffer))
        self.row.add(*part.rows, sides.rows.result())
        if not (self.spec.cols or self.spec.square):
            return []
        untouched = numbers(neutral(self.spec.numbers, part.call.rows.features, part.width))
        if part.call.spec.square:
            return [untouched]
        found = [numbers(column.result()) for column in sides.cols]
        self.local_stats += found[part.shared :]
        return [placed(torch.cat(found[: part.shared]), part, untouched)]

    # ---- gradients

    def reweigh(self) -> None:
        """The weights of this rank's columns have changed since they were sent."""

    def gradients(self, weights: Weights | None = None) -> Gradients:
        """Rows and columns carry their statistics; or weights: of a loss whose value and gradients come part by
        part."""
        home = self.travel(self.differentiate if weights is None else self.at_once(weights), statistics=False)
        return self.assembled(home)

    def differentiate(self, part: Part) -> list[Tensor]:
        plan = driver.Plan(part.call, self.call.backend)
        return self.left(part, driver.gradients(plan, part.needs, driver.ScoreStore(part.buffer)))

    def at_once(self, weights: Weights) -> Meet:
        def meet(part: Part) -> list[Tensor]:
            own = replace(
                weights, col=column_weights(part, "weight"), col_positive=column_weights(part, "positive_weight"),
                col_mean=None,
            )  # fmt: skip
            value, grads = driver.scalar(part.call, self.call.backend, own, part.needs, self.budget)
            assert grads is not None
            self.value = self.value + value
            return self.left(part, grads)

        return meet

    def left(self, part: Part, grads: Gradients) -> list[Tensor]:
        """Adds the rows' share to this rank's; returns the columns'."""
        for name in OF_ROWS:
            total, value = getattr(self.grads, name), getattr(grads, name)
            if total is not None and value is not None:
                total[slice(*part.rows)].add_(value)
        if part.call.spec.square:
            if self.grads.col_bias is not None and grads.col_bias is not None:
                self.grads.col_bias += grads.col_bias
            return nothing_left(part, self.needs)
        if len(part.call.blocks) > part.shared or not self.call.local:
            m = part.width
            col_scale, col_bias = (None if x is None else x[m:] for x in (grads.col_scale, grads.col_bias))
            second = grads.second_blocks[part.shared :]
            self.local_grads = Gradients(
                None, grads.blocks[part.shared :], None, col_scale, None, col_bias, second_blocks=second
            )
        return column_gradients(part, grads)

    def accumulators(self) -> Gradients:
        """Of this rank's rows; in a square call also of their biases as columns."""
        rows = self.call.own.rows.features

        def zeros(wanted: bool, *shape: int) -> Tensor | None:
            return rows.new_zeros(shape, dtype=stat_dtype(rows.dtype)) if wanted else None

        needs, n = self.needs, len(rows)
        own_bias = zeros(needs.col_bias and self.spec.square, n)
        row_scale, row_bias = zeros(needs.row_scale, n), zeros(needs.row_bias, n)
        second = self.call.own.rows.second
        return Gradients(
            zeros(needs.a, n, rows.shape[1]), [], row_scale, None, row_bias, own_bias,
            second_a=None if second is None else zeros(needs.second_a, n, second.shape[1]),
            second_scale=zeros(needs.second_scale, n),
        )  # fmt: skip

    def assembled(self, home: list[Tensor]) -> Gradients:
        """The gradients of this rank's rows and columns."""
        needs, rest = self.needs, list(home)
        if self.spec.square:
            if self.grads.a is not None:
                self.grads.a += rest.pop(0)
            if self.grads.col_bias is not None:
                self.grads.col_bias += rest.pop(0)[:, 0]
            return self.grads
        local, shared = self.local_grads, self.call.own.blocks
        assert local is not None
        sizes = [len(side) for side in shared]
        blocks = split_blocks(rest, needs.blocks, sizes)
        blocks = [
            None if x is None else directions_first(x, side.features.shape)
            for x, side in zip(blocks, shared, strict=True)
        ]
        second = split_blocks(rest, needs.second_blocks, sizes) if self.spec.second else []
        vectors = iter(rest.pop(0).unbind(1)) if rest else iter(())
        columns = {
            name: torch.cat([next(vectors), own]) if (own := getattr(local, name)) is not None else None
            for name in ("col_scale", "col_bias")
        }
        second += local.second_blocks
        return replace(self.grads, blocks=[*blocks, *local.blocks], second_blocks=second, **columns)  # type: ignore[arg-type]


def split_blocks(home: list[Tensor], needs: Sequence[bool], sizes: Sequence[int]) -> list[Tensor | None]:
    """Takes the gradients of shared blocks, where there are some, from what came home."""
    flags = needs[: len(sizes)]
    if not any(flags):
        return [None] * len(sizes)
    return [x if need else None for x, need in zip(home.pop(0).split(list(sizes)), flags, strict=True)]


def column_weights(part: Part, name: str) -> Tensor | None:
    found = [x for side in part.call.blocks if (x := getattr(side, name)) is not None]
    return torch.cat(found) if found else None


class Ring(Sweep):
    """Columns go from rank to rank; the next ones are under way while these are computed with. What is left on them
    follows one step behind, and from the last rank straight home."""

    def single(self) -> bool:
        return self.call.ranks.size == 1

    def travel(self, meet: Meet, statistics: bool) -> list[Tensor]:
        ranks, counts, owners = self.call.ranks, self.call.columns, self.call.owners()
        blocks = self.call.own.blocks
        current, behind, left = pack(blocks, form_of(blocks)), None, list[Tensor]()
        for owner, following in zip(owners, [*owners[1:], None], strict=True):
            onward = None if following is None else communication.shift(ranks, current, counts[following], 1, COLUMNS)
            found = meet(self.part(owner, current))
            left = found if behind is None else self.joined(behind.wait(), found, statistics)
            if onward is not None and following is not None:
                behind, current = communication.shift(ranks, left, counts[following], 1, LEFT), onward.wait()
        if len(owners) == 1:
            return left
        return communication.shift(ranks, left, counts[ranks.rank], 1 - len(owners), LEFT).wait()

    def joined(self, before: list[Tensor], found: list[Tensor], statistics: bool) -> list[Tensor]:
        if statistics:
            return [merged(self.spec.numbers, x, y) for x, y in zip(before, found, strict=True)]
        return [x.add_(y) for x, y in zip(before, found, strict=True)]


class Gather(Sweep):
    """All columns come at once, and what ranks leave on them is added up in one reduction."""

    def __init__(self, call: GlobalCall, needs: Needs, budget: int = 0) -> None:
        super().__init__(call, needs, budget)
        blocks, self.counts = call.own.blocks, call.columns
        columns = [communication.all_gather(call.ranks, x, self.counts) for x in pack(blocks, form_of(blocks))]
        self.parts = [self.part(owner, self.of(owner, columns)) for owner in self.owners()]
        self.cols: Upstream | None = None  # what has become known of all columns
        if self.single():
            self.parts[0].buffer = driver.Plan(self.parts[0].call, call.backend).scores_within(budget)

    def single(self) -> bool:
        return not self.spec.square

    def owners(self) -> Sequence[int | None]:
        return [None] if self.single() else self.call.owners()

    def of(self, owner: int | None, columns: list[Tensor]) -> list[Tensor]:
        return columns if owner is None else [x.split(self.counts)[owner] for x in columns]

    def travel(self, meet: Meet, statistics: bool) -> list[Tensor]:
        if self.cols is not None:
            for part in self.parts:
                self.refresh(part, self.cols)
        found = {part.owner: meet(part) for part in self.parts}
        left = found[None] if self.single() else self.on_all_columns(found, statistics)
        ranks = self.call.ranks
        if not statistics:
            return [communication.reduce_scatter(ranks, x, self.counts) for x in left]
        merged = [merge_everywhere(ranks, self.spec.numbers, x) for x in left]
        for x in merged:
            done = driver.finished_side(self.stats_of(x))
            target = None if done.target is None else done.target.stat
            self.cols = Upstream(done.stat, positive_stat=done.positive_stat, target_stat=target)
        return [x.split(self.counts)[ranks.rank] for x in merged]

    def reweigh(self) -> None:
        own = self.call.own.blocks
        names = [name for name in WEIGHTS if getattr(own[0], name) is not None]
        mine = torch.cat([torch.stack([getattr(x, name) for name in names], 1) for x in own])
        everywhere = communication.all_gather(self.call.ranks, mine, self.counts)
        assert self.cols is not None
        self.cols = replace(self.cols, **dict(zip(names, everywhere.unbind(1), strict=True)))

    def refresh(self, part: Part, known: Upstream) -> None:
        """Gives a part what became known after its statistics."""
        call, start = part.call, part.cols[0]
        start += sum(self.counts[: part.owner] if part.owner is not None else ())
        call.rows = self.call.own.rows.slice(*part.rows)
        for index, side in enumerate(call.blocks[: part.shared]):
            here = vars(known.slice(start, start + len(side)))
            call.blocks[index] = replace(side, **{name: x.contiguous() for name, x in here.items() if x is not None})
            start += len(side)
        for index, own in enumerate(self.call.local, start=part.shared):
            call.blocks[index] = driver.with_upstream(call.blocks[index], Upstream.of(own))

    def on_all_columns(self, found: dict[int | None, list[Tensor]], statistics: bool) -> list[Tensor]:
        """What the parts of a square call left, in the order of ranks; nothing where this rank met none. All ranks need
        the finished statistics of all columns, so this rank's come with what it has itself; `row` starts again."""
        own, joined = found[self.call.ranks.rank], []
        if statistics:
            own[0] = numbers(self.row.result())
            self.row = driver.StatsAccumulator(self.spec, self.call.own.rows)
        empty = neutral(self.spec.numbers, self.call.own.rows.features, 1)
        for k, like in enumerate(own):
            untouched = numbers(empty) if statistics else like.new_zeros(1, like.shape[1])
            joined.append(
                torch.cat([
                    found[owner][k] if owner in found else untouched.expand(count, -1)
                    for owner, count in enumerate(self.counts)
                ])
            )  # fmt: skip
        return joined


# ---- what autograd asks for ----------------------------------------------------------------------------------------


def sweep_of(call: GlobalCall, needs: Needs, budget: int = 0) -> Sweep:
    rows = call.own.rows.features
    held = sum(call.columns) * rows.shape[1] * call.own.products * (rows.dtype.itemsize + 4)
    return Ring(call, needs, budget) if call.ranks.rings(held) else Gather(call, needs, budget)


def stats(call: GlobalCall) -> driver.Statistics:
    """Finished statistics of this rank's rows and columns."""
    return sweep_of(call, NONE).statistics()


def visit(call: GlobalCall, see: Callable[[PairCall], None]) -> None:
    """Shows this rank's rows with all columns they have to meet, part by part; not of a square call."""

    def meet(part: Part) -> list[Tensor]:
        see(part.call)
        return []

    sweep_of(call, NONE).travel(meet, statistics=False)


def backward(call: GlobalCall, row: Upstream, col: Upstream | None, needs: Needs) -> Gradients:
    """row, col: of this rank's rows and columns."""
    attach(call, row, col)
    return sweep_of(call, needs).gradients()


def scalar(call: GlobalCall, weights: Weights, needs: Needs, budget: int) -> tuple[Tensor, Gradients | None]:
    """This rank's share of the weighted sum of all statistics: its rows and columns, or, of a sum, its pairs; and the
    gradients of its rows and columns in the sum of all ranks' shares."""
    spec = call.own.spec
    known = not (
        weights.cross_entropy or spec.split or spec.target
    )  # else slopes take the weights' place, once statistics are known
    if known:
        attach(call, *weights.upstream())
    sweep = sweep_of(call, needs, budget if needs.any() else 0)
    additive = spec.reduce.traits.additive or (sweep.single() and not spec.cols)
    if needs.any() and additive and not spec.square:
        grads = sweep.gradients(weights)
        return sweep.value, grads
    done = sweep.statistics()
    value, row, col = driver.weighed(done, weights)
    value = value.to(done.row.stat.dtype)
    if not needs.any():
        return value, None
    attach(call, row, col)
    if not known and (spec.cols or spec.square):
        sweep.reweigh()
    return value, sweep.gradients()


NONE = Needs(False, [])
