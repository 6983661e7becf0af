"""Walks the blocks of a pair reduction; every loss and every backend goes through these loops.

A backend supplies two tile functions (stats, coeff); chunks, merges, score reuse and the output products dA = G B and
dB = G^T A are here, once. Blocks of a square call (b is a) cover the triangle: a chunk of rows meets itself (row role)
and the columns after it (both roles), so that each unordered pair is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from .backends.base import Backend
from .spec import (
    Coefficients,
    Gradients,
    Limits,
    Needs,
    PairBlock,
    PairCall,
    PairSpec,
    Reduce,
    Side,
    SideStats,
    Weights,
)


@dataclass
class Step:
    """Rows [start, stop) against columns [first, last) of block `index`; `mirrored`: both roles of a square call."""

    start: int
    stop: int
    index: int
    first: int
    last: int
    mirrored: bool = False


def limits(call: PairCall, backend: Backend) -> Limits:
    return backend.limits(call.rows.features.device)


def plan(call: PairCall, backend: Backend, chunk: int | None = None) -> Iterator[Step]:
    """The blocks of a call, chunk of rows by chunk of rows, in an order that depends on shapes alone."""
    n, widths = len(call.rows), [len(block) for block in call.blocks]
    rows = chunk or chunk_rows(call, backend)
    columns = limits(call, backend).workspace // (4 * rows * call.tiles) // backend.granularity * backend.granularity
    columns = max(backend.granularity, columns)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        if call.spec.square:
            yield Step(start, stop, 0, start, stop)
            for first in range(stop, n, columns):
                yield Step(start, stop, 0, first, min(first + columns, n), mirrored=True)
            continue
        for index, width in enumerate(widths):
            for first in range(0, width, columns):
                yield Step(start, stop, index, first, min(first + columns, width))


def chunk_rows(call: PairCall, backend: Backend) -> int:
    """Rows per chunk: a multiple of the backend's granularity whose scores fit the workspace."""
    width = max((len(block) for block in call.blocks), default=1)
    limit = limits(call, backend)
    fit = limit.workspace // (4 * max(width, 1) * call.tiles)
    most = limit.square_chunk if call.spec.square else limit.max_chunk
    rows = max(min(fit, most), limit.min_chunk)
    return max(rows // backend.granularity, 1) * backend.granularity


def prepare(call: PairCall, backend: Backend) -> None:
    """Puts the columns into the backend's layout, once for all chunks."""
    for block in call.blocks:
        block.prepared = backend.prepare(block.features)


def block_of(call: PairCall, step: Step, scores: Tensor | None = None) -> PairBlock:
    row = call.rows.slice(step.start, step.stop)
    col = call.blocks[step.index].slice(step.first, step.last)
    if call.spec.square:
        col = replace(col, on=step.mirrored)
    mask = call.mask
    if mask is not None:
        before = columns_before(call, step.index)
        mask = mask[step.start : step.stop, before + step.first : before + step.last]
    return PairBlock(call.spec, row, col, mask, scores, call.factor)


def columns_before(call: PairCall, index: int) -> int:
    """Columns in the blocks before; their origins may have gaps."""
    return sum(len(block) for block in call.blocks[:index])


class ScoreStore:
    """Raw scores kept from stats for coeff, first blocks first, while they fit the buffer."""

    def __init__(self, buffer: Tensor | None, padding: int) -> None:
        self.buffer, self.padding, self.used = buffer, padding, 0

    def next(self, step: Step, tiles: int) -> Tensor | None:
        rows = step.stop - step.start
        width = -(-(step.last - step.first) // self.padding) * self.padding
        size = tiles * rows * width
        if self.buffer is None or self.used + size > len(self.buffer):
            self.buffer = None  # later blocks are recomputed, also when they are smaller
            return None
        part = self.buffer[self.used : self.used + size].view(tiles, rows, width)
        self.used += size
        return part


# ---- statistics ---------------------------------------------------------------------------------------------------


def empty_stats(spec: PairSpec, like: Tensor, n: int) -> SideStats:
    """The neutral element for n items."""
    dtype = stat_dtype(like.dtype)
    peak = torch.full((n,), -torch.inf, dtype=dtype, device=like.device)
    total = torch.zeros((n,), dtype=dtype, device=like.device)
    arg = torch.full((n,), -1, dtype=torch.int64, device=like.device)
    return SideStats(
        peak=peak if spec.reduce in (Reduce.LSE, Reduce.MAX) else None,
        total=total if spec.reduce != Reduce.MAX else None,
        positive=torch.zeros_like(total),
        arg=arg if spec.reduce == Reduce.MAX else None,
    )


def stat_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def merge(spec: PairSpec, x: SideStats, y: SideStats) -> SideStats:
    """Joins two partial statistics of the same items: tiles, chunks, column blocks or ranks."""
    positive = x.positive + y.positive if x.positive is not None and y.positive is not None else None
    if spec.reduce == Reduce.MAX:
        assert x.peak is not None and y.peak is not None and x.arg is not None and y.arg is not None
        better = (y.peak > x.peak) | (y.peak.isnan() & ~x.peak.isnan())
        return SideStats(torch.where(better, y.peak, x.peak), None, positive, torch.where(better, y.arg, x.arg))
    assert x.total is not None and y.total is not None
    if spec.reduce != Reduce.LSE:
        return SideStats(None, x.total + y.total, positive, None)
    assert x.peak is not None and y.peak is not None
    peak = torch.maximum(x.peak, y.peak)
    base = peak.clamp_min(torch.finfo(peak.dtype).min)  # an empty item has peak -inf: e^(-inf - base) is 0
    total = x.total * (x.peak - base).exp() + y.total * (y.peak - base).exp()
    return SideStats(peak, total, positive, None)


def finish(spec: PairSpec, stats: SideStats) -> Tensor:
    """The statistic in parts, (n, 2): (peak, log total) for LSE, else (value, 0); the statistic is their sum.

    At scale 100 one number would leave a converged model's loss and p_ii - 1 with four digits fewer.
    """
    if spec.reduce != Reduce.LSE:
        value = stats.peak if spec.reduce == Reduce.MAX else stats.total
        assert value is not None
        return torch.stack([value, torch.zeros_like(value)], 1)
    assert stats.peak is not None and stats.total is not None
    return torch.stack([stats.peak, stats.total.log()], 1)


class Running:
    """The statistic of one side while blocks arrive."""

    def __init__(self, spec: PairSpec, side: Side) -> None:
        self.spec, self.side = spec, side
        self.stats: SideStats | None = None

    def add(self, start: int, stop: int, part: SideStats) -> None:
        if self.stats is None and stop - start == len(self.side):
            self.stats = part
            return
        here = self.result().slice(start, stop)
        joined = merge(self.spec, here, part)
        for name in ("peak", "total", "positive", "arg"):
            target, value = getattr(here, name), getattr(joined, name)
            if target is not None and value is not None:
                target.copy_(value)

    def result(self) -> SideStats:
        if self.stats is None:
            self.stats = empty_stats(self.spec, self.side.features, len(self.side))
        return self.stats


def statistics(
    call: PairCall, backend: Backend, store: ScoreStore, steps: list[Step] | None = None
) -> tuple[Running, list[Running]]:
    """Runs stats over all blocks: (rows, one per column block). Scores are kept as far as the store reaches."""
    rows = Running(call.spec, call.rows)
    cols = [Running(call.spec, block) for block in call.blocks]
    for step in steps if steps is not None else plan(call, backend):
        row, col = backend.stats(block_of(call, step, store.next(step, call.tiles)))
        rows.add(step.start, step.stop, row)
        if col is not None:
            (rows if step.mirrored else cols[step.index]).add(step.first, step.last, col)
    return rows, cols


# ---- gradients ----------------------------------------------------------------------------------------------------


def new_gradients(call: PairCall, needs: Needs, create: Callable[..., Tensor] = torch.zeros) -> Gradients:
    features = call.rows.features
    dtype = stat_dtype(features.dtype)

    def new(*shape: int) -> Tensor:
        return create(shape, dtype=dtype, device=features.device)

    n, m, d = len(call.rows), sum(len(block) for block in call.blocks), features.shape[1]
    return Gradients(
        a=new(n, d) if needs.a else None,
        blocks=[
            new(*block.features.shape) if need else None
            for block, need in zip(call.blocks, needs.blocks or [False], strict=True)
        ],
        row_scale=new(n) if needs.row_scale else None,
        col_scale=new(m) if needs.col_scale else None,
        row_bias=new(n) if needs.row_bias else None,
        col_bias=new(m) if needs.col_bias else None,
    )


def add_block(
    call: PairCall, step: Step, backend: Backend, grads: Gradients, block: PairBlock, needs: Needs
) -> Coefficients:
    """Adds one block's share to every accumulator."""
    part = backend.coeff(block, needs)
    to_col = grads.a if call.spec.square else grads.blocks[step.index]
    for tile, grad in enumerate(part.grad):
        if grads.a is not None:
            backend.accumulate(grads.a[step.start : step.stop], grad, block.col.tiles[tile])
        if to_col is not None:
            target = to_col[tile] if to_col.dim() == 3 else to_col
            backend.accumulate(target[step.first : step.last], grad.T, block.row.features)
    before = columns_before(call, step.index)
    for name, start, stop in (
        ("row_scale", step.start, step.stop),
        ("row_bias", step.start, step.stop),
        ("col_scale", before + step.first, before + step.last),
        ("col_bias", before + step.first, before + step.last),
    ):
        target, value = getattr(grads, name), getattr(part, name)
        if target is not None and value is not None:
            target[start:stop].add_(value)
    return part


def gradients(call: PairCall, backend: Backend, needs: Needs, store: ScoreStore) -> Gradients:
    """Second sweep: sides carry stat, weight and positive_weight. Reads kept scores in the order stats wrote them."""
    grads = new_gradients(call, needs)
    scale_coefficients(call, backend, given_weights(call))
    if backend.fuses(call):
        add_fused(call, backend, grads)
    else:
        for step in plan(call, backend):
            add_block(call, step, backend, grads, block_of(call, step, store.next(step, call.tiles)), needs)
    unscale(call, grads)
    return grads


def add_fused(call: PairCall, backend: Backend, grads: Gradients) -> None:
    """All gradients without coefficients in memory: no reason to cut the blocks of columns any further."""
    for index, side in enumerate(call.blocks):
        here = slice(before := columns_before(call, index), before + len(side))
        col_scale, col_bias = (None if x is None else x[here] for x in (grads.col_scale, grads.col_bias))
        part = replace(grads, blocks=grads.blocks[index : index + 1], col_scale=col_scale, col_bias=col_bias)
        backend.fused(block_of(call, Step(0, len(call.rows), index, 0, len(side))), part)


def given_weights(call: PairCall) -> list[Tensor | None]:
    return [x for side in (call.rows, *call.blocks) for x in (side.weight, side.positive_weight)]


def scale_coefficients(call: PairCall, backend: Backend, weights: list[Tensor | None]) -> None:
    """Brings the largest coefficient there can be near 2^14: float16 ends at 2^16, and below 2^-24 it is 0.

    No slope is above 1, so no coefficient is above the sum of the largest weights, times the scales. One factor for the
    whole call, because blocks add up. Nothing is read back: the factor stays on the device.
    """
    if not backend.narrow(call):
        return
    bound = call.rows.features.new_zeros((), dtype=torch.float32)
    for weight in weights:
        bound = bound if weight is None or not len(weight) else bound + weight.abs().amax()
    for scales in ([call.rows], call.blocks):
        given = [side.scale.abs().amax() for side in scales if side.scale is not None and len(side)]
        bound = bound * torch.stack(given).amax() if given else bound
    call.factor = power_of_two(bound)


def power_of_two(bound: Tensor) -> Tensor:
    """What brings the bound near 2^14; 1 where there is none."""
    exponent = (14.0 - torch.frexp(bound).exponent).clamp(-100.0, 100.0)
    usable = (bound > 0) & (bound < torch.inf)
    return torch.exp2(torch.where(usable, exponent, 0.0))


def unscale(call: PairCall, grads: Gradients) -> None:
    if call.factor is not None:
        for grad in (grads.a, *grads.blocks):
            if grad is not None:
                grad.div_(call.factor)


def with_weights(side: Side, stat: Tensor | None, weight: Tensor | None, positive_weight: Tensor | None) -> Side:
    """stat None: of a sum, whose slopes do not depend on it."""
    if weight is None:
        weight = side.features.new_zeros(len(side), dtype=stat_dtype(side.features.dtype))
    return replace(side, stat=stat, weight=weight, positive_weight=positive_weight)


# ---- scalar mode: loss and gradients in one sweep -------------------------------------------------------------------


def weighted(stat: Tensor, weight: Tensor | None, positive: Tensor | None, positive_weight: Tensor | None) -> Tensor:
    """Contribution of one side, float64: the statistic and the positive are large and nearly equal. An item with
    nothing kept (statistic -inf) contributes 0."""
    parts = []
    if weight is not None:
        parts.append(stat.sum(1, dtype=torch.float64).nan_to_num_(torch.nan, torch.inf, 0.0).mul_(weight))
    if positive_weight is not None:
        assert positive is not None
        parts.append(positive.double() * positive_weight)
    return sum(parts[1:], parts[0]).sum() if parts else stat.new_zeros((), dtype=torch.float64)


def scalar(
    call: PairCall, backend: Backend, weights: Weights, needs: Needs, budget: int
) -> tuple[Tensor, Gradients | None]:
    """The weighted sum of the statistics and, where wanted, its gradients (for upstream gradient 1)."""
    complete = weights.col is not None or not call.spec.cols
    if needs.any() and complete and backend.takes_whole(call):
        grads = new_gradients(call, needs, torch.empty)
        scale_coefficients(call, backend, [weights.row, weights.row_positive, weights.col, weights.col_positive])
        value = backend.whole(call, weights, grads)
        unscale(call, grads)
        return value, grads
    prepare(call, backend)
    if not needs.any():
        rows, cols = statistics(call, backend, ScoreStore(None, 1))
        return scalar_value(finished(call, rows, cols), weights), None
    if call.spec.reduce in (Reduce.SOFTPLUS, Reduce.RELU):
        return one_sweep_scalar(call, backend, weights, needs)
    if backend.fuses(call):
        return two_sweep_scalar(call, backend, weights, needs, budget)
    steps = list(islice(plan(call, backend), 2))
    if len(steps) == 1:
        return one_block_scalar(call, backend, weights, needs, steps[0])
    width = sum(-(-len(block) // backend.padding) * backend.padding for block in call.blocks) * call.tiles
    limit = limits(call, backend)
    if not (call.spec.cols or call.spec.square) and 4 * width * limit.min_chunk <= limit.workspace:
        return one_sided_scalar(call, backend, weights, needs, width)
    return two_sweep_scalar(call, backend, weights, needs, budget)


@dataclass
class Finished:
    """Finished statistics and sums over positives of all rows and, where wanted, all columns."""

    row: Tensor
    row_positive: Tensor | None
    col: Tensor | None = None
    col_positive: Tensor | None = None


def finished(call: PairCall, rows: Running, cols: list[Running]) -> Finished:
    result = rows.result()
    done = Finished(finish(call.spec, result), result.positive)
    if call.spec.cols:
        done.col, done.col_positive = joined_columns(call, cols)
    return done


def scalar_value(done: Finished, weights: Weights) -> Tensor:
    value = weighted(done.row, weights.row, done.row_positive, weights.row_positive)
    if done.col is not None:
        value = value + weighted(done.col, weights.col, done.col_positive, weights.col_positive)
    return value.to(done.row.dtype)


def joined_columns(call: PairCall, cols: list[Running]) -> tuple[Tensor, Tensor]:
    results = [running.result() for running in cols]
    stats = [finish(call.spec, result) for result in results]
    positives = [result.positive for result in results if result.positive is not None]
    if len(stats) == 1:
        return stats[0], positives[0]
    return torch.cat(stats), torch.cat(positives)


def one_block_scalar(
    call: PairCall, backend: Backend, weights: Weights, needs: Needs, step: Step
) -> tuple[Tensor, Gradients]:
    """A call that is one block: its scores, and what else the backend leaves there, serve the coefficients as well."""
    buffer = new_buffer(call, block_size(call, backend, step))
    block = block_of(call, step, backend_store(backend, buffer).next(step, call.tiles))
    block.again = True
    row, col = backend.stats(block)
    done = Finished(finish(call.spec, row), row.positive)
    if call.spec.cols:
        assert col is not None
        done.col, done.col_positive = finish(call.spec, col), col.positive
    set_weights(call, done, weights)
    scale_coefficients(call, backend, given_weights(call))
    grads = new_gradients(call, needs)
    add_block(call, step, backend, grads, replace(block_of(call, step, block.scores), kept=block.kept), needs)
    unscale(call, grads)
    return scalar_value(done, weights), grads


def one_sided_scalar(
    call: PairCall, backend: Backend, weights: Weights, needs: Needs, width: int
) -> tuple[Tensor, Gradients]:
    """Row weights are known, so a chunk's coefficients follow its statistics while its scores are still at hand."""
    grads = new_gradients(call, needs)
    n, rows = len(call.rows), chunk_rows(call, backend)
    fit = limits(call, backend).workspace // (4 * max(width, 1))
    rows = max(min(rows, fit) // backend.granularity, 1) * backend.granularity
    buffer = new_buffer(call, min(rows, n) * width) if backend.keeps_scores else None
    scale_coefficients(call, backend, [weights.row, weights.row_positive])
    value = call.rows.features.new_zeros((), dtype=torch.float64)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        positive_weight = None if weights.row_positive is None else weights.row_positive[start:stop]
        chunk = replace_rows(call, call.rows.slice(start, stop), call.mask, start)
        steps = list(plan(chunk, backend, rows))
        running, _ = statistics(chunk, backend, backend_store(backend, buffer), steps)
        stats = running.result()
        stat = finish(call.spec, stats)
        value = value + weighted(stat, weights.row[start:stop], stats.positive, positive_weight)
        chunk.rows = with_weights(chunk.rows, stat, weights.row[start:stop], positive_weight)
        store = backend_store(backend, buffer)
        here = slice_gradients(grads, start, stop)
        for step in steps:
            add_block(chunk, step, backend, here, block_of(chunk, step, store.next(step, call.tiles)), needs)
    unscale(call, grads)
    return value.to(stat_dtype(call.dtype)), grads


def block_size(call: PairCall, backend: Backend, step: Step) -> int:
    """Scores of a block, padded; none for a backend that keeps none."""
    width = -(-(step.last - step.first) // backend.padding) * backend.padding
    return call.tiles * (step.stop - step.start) * width if backend.keeps_scores else 0


def backend_store(backend: Backend, buffer: Tensor | None) -> ScoreStore:
    return ScoreStore(buffer if backend.keeps_scores else None, backend.padding)


def replace_rows(call: PairCall, rows: Side, mask: Tensor | None, start: int) -> PairCall:
    part = None if mask is None else mask[start : start + len(rows)]
    return PairCall(call.spec, rows, call.blocks, part, call.factor)


def slice_gradients(grads: Gradients, start: int, stop: int) -> Gradients:
    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[start:stop]

    return replace(grads, a=rows(grads.a), row_scale=rows(grads.row_scale), row_bias=rows(grads.row_bias))


def one_sweep_scalar(call: PairCall, backend: Backend, weights: Weights, needs: Needs) -> tuple[Tensor, Gradients]:
    """The slope of a sum does not depend on the sum, so statistics and coefficients come from one product, whose scores
    are kept for one block at a time."""
    rows, cols = Running(call.spec, call.rows), [Running(call.spec, block) for block in call.blocks]
    set_weights(call, None, weights)
    grads, needs = new_gradients(call, needs), replace(needs, stats=backend.sums_with_coeff)
    scale_coefficients(call, backend, given_weights(call))
    steps = list(plan(call, backend))
    buffer = new_buffer(call, max((block_size(call, backend, step) for step in steps), default=0))
    for step in steps:
        block = block_of(call, step, backend_store(backend, buffer).next(step, call.tiles))
        block.again = True
        stats = None if needs.stats else backend.stats(block)
        part = add_block(call, step, backend, grads, block, needs)
        row, col = (part.row_stats, part.col_stats) if stats is None else stats
        assert row is not None
        rows.add(step.start, step.stop, row)
        if col is not None:
            (rows if step.mirrored else cols[step.index]).add(step.first, step.last, col)
    unscale(call, grads)
    return scalar_value(finished(call, rows, cols), weights), grads


def two_sweep_scalar(
    call: PairCall, backend: Backend, weights: Weights, needs: Needs, budget: int
) -> tuple[Tensor, Gradients]:
    """Columns are complete only after all rows: statistics first, then coefficients from kept or recomputed scores."""
    buffer = score_buffer(call, backend, budget)
    rows, cols = statistics(call, backend, backend_store(backend, buffer))
    done = finished(call, rows, cols)
    value = scalar_value(done, weights)
    set_weights(call, done, weights)
    return value, gradients(call, backend, needs, backend_store(backend, buffer))


def set_weights(call: PairCall, done: Finished | None, weights: Weights) -> None:
    row, col = (None, None) if done is None else (done.row, done.col)
    call.rows = with_weights(call.rows, row, weights.row, weights.row_positive)
    if call.spec.square:
        call.blocks = [with_weights(call.blocks[0], row, weights.row, weights.row_positive)]
    elif call.spec.cols:
        attach_columns(call, col, weights.col, weights.col_positive)


def attach_columns(call: PairCall, stat: Tensor | None, weight: Tensor | None, positive_weight: Tensor | None) -> None:
    """Gives every column block its part of vectors over all columns."""
    start = 0
    for index, block in enumerate(call.blocks):
        stop = start + len(block)
        parts = (None if x is None else x[start:stop] for x in (stat, weight, positive_weight))
        call.blocks[index] = with_weights(block, *parts)
        start = stop


def score_buffer(call: PairCall, backend: Backend, budget: int) -> Tensor | None:
    """Memory for scores kept between the sweeps, at most `budget` bytes."""
    if not backend.keeps_scores or budget <= 0:
        return None
    width = sum(len(block) + backend.padding for block in call.blocks) * call.tiles
    return new_buffer(call, min(budget // stat_dtype(call.dtype).itemsize, len(call.rows) * width))


def new_buffer(call: PairCall, size: int) -> Tensor:
    return torch.empty(size, dtype=stat_dtype(call.dtype), device=call.rows.features.device)
