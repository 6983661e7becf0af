"""Scalar mode: a weighted sum of the statistics with its gradients, in one sweep where that is possible.

The weights are known beforehand, so a block's score gradients can follow as soon as its statistics are complete: those
of a sum at once, those of rows alone after a chunk of rows, those of both sides after all blocks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..backends.base import Backend
from ..monoid import stat_dtype
from ..spec import Gradients, Needs, PairCall, Weights
from .gradients import add_block, gradients, new_gradients, slice_gradients
from .plan import Plan, ScoreStore, Step
from .scaling import scaled
from .statistics import Sides, Statistics, finished, finished_side, statistics
from .value import weighed
from .weights import attach, given_weights, with_upstream


def scalar(
    call: PairCall, backend: Backend, weights: Weights, needs: Needs, budget: int
) -> tuple[Tensor, Gradients | None]:
    """The weighted sum of the statistics and, where wanted, its gradients (for upstream gradient 1)."""
    if not needs.any():
        done = finished(statistics(Plan(call, backend), ScoreStore(None)))
        return weighed(done, weights)[0].to(stat_dtype(call.dtype)), None
    plan = Plan(call, backend)
    if call.spec.reduce.traits.additive:
        return one_sweep(plan, weights, needs)
    if backend.gradients(call) is not None:
        return two_sweeps(plan, weights, needs, budget)
    if plan.keeps_more:
        return two_sweeps(plan, weights, needs, budget)
    if (step := plan.only_step()) is not None:
        return one_block(plan, step, weights, needs)
    both = call.spec.cols or call.spec.square
    # a factor against underflow is chosen from slopes: from all of them, not from those of the chunk at hand
    unknown = backend.narrow(call) and (weights.cross_entropy or call.spec.split)
    if not (both or unknown) and plan.whole_rows() >= (plan.limits.kept_chunk or plan.limits.min_chunk):
        return one_sided(Plan(call, backend, whole=True), weights, needs)
    return two_sweeps(plan, weights, needs, budget)


def one_block(plan: Plan, step: Step, weights: Weights, needs: Needs) -> tuple[Tensor, Gradients]:
    """A call that is one block: its scores, and what else the backend saves, serve the score gradients as well."""
    call, sides = plan.call, Sides(plan.call)
    block = plan.block(step, ScoreStore(plan.memory(plan.step_scores(step))).next(plan, step))
    block.again = True
    sides.add(step, *plan.backend.stats(block))
    done = finished(sides)
    value, row, col = weighed(done, weights)
    attach(call, row, col)
    grads = new_gradients(call, needs, fresh=True)
    with scaled(call, plan.backend, given_weights(call), grads):
        again = replace(plan.block(step, block.scores), saved=block.saved)
        add_block(plan, step, grads, again, needs)
    return value.to(stat_dtype(plan.call.dtype)), grads


def one_sided(plan: Plan, weights: Weights, needs: Needs) -> tuple[Tensor, Gradients]:
    """Row weights are known, so a chunk's score gradients follow its statistics while its scores are still at hand.
    plan: every chunk of rows meets all columns of a block at once."""
    call, backend, n = plan.call, plan.backend, len(plan.call.rows)
    grads, buffer = new_gradients(call, needs, fresh=True), plan.memory(min(plan.rows, n) * plan.width())
    value = call.rows.features.new_zeros((), dtype=torch.float64)
    with scaled(call, backend, [weights.row, weights.row_positive, weights.row_mean], grads):
        for start in range(0, n, plan.rows):
            stop = min(start + plan.rows, n)
            chunk = plan.chunk(start, stop)
            steps = list(chunk.steps())
            done = finished_side(statistics(chunk, ScoreStore(buffer), steps).rows.result())
            share, up, _ = weighed(Statistics(done), weights.of_rows(start, stop))
            value = value + share
            chunk.call.rows = with_upstream(chunk.call.rows, up)
            here, store = slice_gradients(grads, start, stop), ScoreStore(buffer)
            for step in steps:
                add_block(chunk, step, here, chunk.block(step, store.next(chunk, step)), needs)
    return value.to(stat_dtype(call.dtype)), grads


def one_sweep(plan: Plan, weights: Weights, needs: Needs) -> tuple[Tensor, Gradients]:
    """The slope of a sum does not depend on the sum, so statistics and score gradients come from one product, whose
    scores are held for one block at a time."""
    call, backend, sides = plan.call, plan.backend, Sides(plan.call)
    attach(call, *weights.upstream())
    grads, needs = new_gradients(call, needs, fresh=True), replace(needs, stats=backend.sums_with_score_grad)
    steps = list(plan.steps())
    buffer = plan.memory(max((plan.step_scores(step) for step in steps), default=0))
    with scaled(call, backend, given_weights(call), grads):
        for step in steps:
            block = plan.block(step, ScoreStore(buffer).next(plan, step))
            block.again = True
            stats = None if needs.stats else backend.stats(block)
            part = add_block(plan, step, grads, block, needs)
            row, col = (part.row_stats, part.col_stats) if stats is None else stats
            assert row is not None
            sides.add(step, row, col)
    done = finished(sides)
    return weighed(done, weights)[0].to(stat_dtype(call.dtype)), grads


def two_sweeps(plan: Plan, weights: Weights, needs: Needs, budget: int) -> tuple[Tensor, Gradients]:
    """Columns are complete only after all rows: statistics first, then score gradients, from saved or new scores."""
    buffer = plan.scores_within(budget)
    done = finished(statistics(plan, ScoreStore(buffer)))
    value, row, col = weighed(done, weights)
    attach(plan.call, row, col)
    return value.to(stat_dtype(plan.call.dtype)), gradients(plan, needs, ScoreStore(buffer))
