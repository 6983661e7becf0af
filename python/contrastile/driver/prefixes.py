"""Scalar mode of a sum over prefixes of the features, whose scores come from one product.

Each prefix is a call of its own whose features are those that the prefix before does not have. A backend takes a block
of all calls at once: its scores grow from one prefix to the next by the products of the slice between them, and the
score gradients of a slice's features are the sums of those of all prefixes that hold it, so that the output products
cost no more than those of whole features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..backends.base import Backend
from ..monoid import stat_dtype
from ..spec import Gradients, Needs, PairBlock, PairCall, Weights
from .gradients import add_part, new_gradients
from .plan import Plan, ScoreStore, Step
from .statistics import Sides, finished
from .value import weighed
from .weights import attach


def prefix_sum(
    calls: Sequence[PairCall], backend: Backend, weights: Sequence[Weights], needs: Needs, budget: int, width: int
) -> tuple[Tensor, Gradients | None]:
    """The sum of the calls' weighted sums and, where wanted, its gradients, as `scalar`; those of scales have a row for
    each prefix. width: of the whole features, of which the last may be in no prefix."""
    sweep = Prefixes(calls, backend, budget if needs.any() else 0)
    value = calls[0].rows.features.new_zeros((), dtype=torch.float64)
    for plan, sides, own in zip(sweep.plans, sweep.statistics(), weights, strict=True):
        part, row, col = weighed(finished(sides), own)
        attach(plan.call, row, col)
        value = value + part
    value = value.to(stat_dtype(calls[0].dtype))
    return value, sweep.gradients(needs, width) if needs.any() else None


class Prefixes:
    """The walk over the blocks, of all prefixes at once. The scores of the longest prefix, whose slice is the widest of
    those that double, are saved from one sweep to the next; to save more would cost the time that it spares."""

    def __init__(self, calls: Sequence[PairCall], backend: Backend, budget: int) -> None:
        self.backend, self.plans = backend, [Plan(call, backend, beside=len(calls)) for call in calls]
        self.buffer = self.plans[-1].scores_within(budget)

    def blocks(self) -> Iterator[tuple[Step, list[PairBlock]]]:
        """Every step with its block of each prefix."""
        store, longest = ScoreStore(self.buffer), self.plans[-1]
        for step in longest.steps():
            blocks = [plan.block(step) for plan in self.plans]
            blocks[-1].scores = store.next(longest, step)
            yield step, blocks

    def statistics(self) -> list[Sides]:
        every = [Sides(plan.call) for plan in self.plans]
        for step, blocks in self.blocks():
            for sides, found in zip(every, self.backend.slice_stats(blocks), strict=True):
                sides.add(step, *found)
        return every

    def gradients(self, needs: Needs, width: int) -> Gradients:
        calls = [plan.call for plan in self.plans]
        whole = gradients_of_all(calls, needs, width)
        parts = list(by_prefix(whole, calls))
        for step, blocks in self.blocks():
            found = self.backend.slice_score_grad(blocks, needs)
            for plan, grads, block, part in zip(self.plans, parts, blocks, found, strict=True):
                add_part(plan, step, grads, block, part)
        return whole


def gradients_of_all(calls: Sequence[PairCall], needs: Needs, width: int) -> Gradients:
    """Accumulators of whole features, and of the scales of every prefix."""
    grads = new_gradients(calls[0], needs)

    def wide(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.new_zeros(x.shape[0], width)

    def each(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.new_zeros(len(calls), x.shape[0])

    return replace(
        grads, a=wide(grads.a), blocks=[wide(block) for block in grads.blocks], row_scale=each(grads.row_scale),
        col_scale=each(grads.col_scale),
    )  # fmt: skip


def by_prefix(grads: Gradients, calls: Sequence[PairCall]) -> Iterator[Gradients]:
    """What each call adds to: its slice of the features, and its own scales."""
    start = 0
    for index, call in enumerate(calls):
        here = slice(start, start := start + call.rows.features.shape[1])

        def own(x: Tensor | None, where: int | slice | tuple[slice, slice]) -> Tensor | None:
            return None if x is None else x[where]

        features = slice(None), here
        yield replace(
            grads, a=own(grads.a, features), blocks=[own(block, features) for block in grads.blocks],
            row_scale=own(grads.row_scale, index), col_scale=own(grads.col_scale, index),
        )  # fmt: skip
