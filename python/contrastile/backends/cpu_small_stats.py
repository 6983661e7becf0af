"""Statistics of a small problem on a CPU, and gradients from them, each as one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..monoid import TARGET_PARTS
from .base import SmallStats
from .cpu_small import addressed, directions, gradient_places
from .native_struct import packer
from .small import numbers

STATS, GRADIENTS = 1, 2  # SmallWork in csrc/cpu/block.h
# where statistics of a side go, and those of its kept positives
PLACES = {"row": ("row_stat", "row_positive_stat"), "col": ("col_stat", "col_positive_stat")}


def small_stats(module: Any, kind: torch.dtype, padding: int) -> SmallStats:
    """kind: the type features are multiplied in. padding: of columns to a multiple of it."""

    def stats(args: Any, budget: int) -> tuple[Tensor, ...]:
        return statistics(module, args, kind, padding, budget)

    def of_stats(
        args: Any, known: Sequence[Tensor], scores: Tensor, row: Sequence[Tensor | None], col: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> list[Tensor]:  # fmt: skip
        return gradients(module, args, kind, padding, known, scores, row, col, needs)

    return SmallStats(stats, of_stats)


def statistics(module: Any, args: Any, kind: torch.dtype, padding: int, budget: int) -> tuple[Tensor, ...]:
    values, alive = addressed(args, kind)
    values["work"] = STATS
    sides = [set_outputs(values, args, "row", args.n, True), set_outputs(values, args, "col", args.m, args.cols)]
    scores = args.a.new_zeros(room_for_scores(args, padding, budget), dtype=torch.float32)
    set_scores(values, args, padding, scores)
    run(module, values)
    del alive
    return (*(x for both in zip(*sides, strict=True) for x in both), scores)


def run(module: Any, values: dict[str, Any]) -> None:
    module.small_call(packer(module, "SmallCall", tuple(values))(*values.values()))


def set_outputs(values: dict[str, Any], args: Any, side: str, count: int, on: bool) -> tuple[Tensor, ...]:
    """Memory for library.side_outputs; of a side that is off, empty."""
    count, split, new, single = count if on else 0, args.split, args.a.new_empty, torch.float32
    integers = ["kept_positives"] * split + ["kept"] * args.counts + ["positives"] * (split or args.counts)
    stat, positive = new(count, 2, dtype=single), new(count, dtype=single)
    positive_stat = new(count if split else 0, 2, dtype=single)
    counts = new(len(integers) if on else 0, count, dtype=torch.int64)
    if on:
        place, positive_place = PLACES[side]
        values[place], values[f"block.{side}.positive"] = stat.data_ptr(), positive.data_ptr()
        if split:
            values[positive_place] = positive_stat.data_ptr()
        if integers:
            values |= {f"block.{side}.{name}": x.data_ptr() for name, x in zip(integers, counts, strict=True)}
    return stat, positive, positive_stat, new(0, TARGET_PARTS, dtype=single), counts


def set_scores(values: dict[str, Any], args: Any, padding: int, scores: Tensor) -> None:
    """Where raw products are left for the backward pass, if there is room for all."""
    used = args.n * (-(-args.m // padding) * padding) * directions(args)
    if 0 < used <= len(scores):
        values["block.scores"] = scores.data_ptr()


def room_for_scores(args: Any, padding: int, budget: int) -> int:
    """As Plan.scores_within, which library.fake_stats foretells."""
    width = (args.m + padding * (1 if args.square else len(args.blocks))) * directions(args)
    return min(budget // torch.float32.itemsize, args.n * width) if budget > 0 else 0


def gradients(
    module: Any, args: Any, kind: torch.dtype, padding: int, known: Sequence[Tensor], scores: Tensor,
    row: Sequence[Tensor | None], col: Sequence[Tensor | None], needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    values, alive = addressed(args, kind)
    values["work"] = GRADIENTS
    set_scores(values, args, padding, scores)
    alive += set_weights(values, args, "row", known[0], known[2], row)
    if args.cols:
        alive += set_weights(values, args, "col", known[1], known[3], col)
    places = gradient_places(args, needs)
    grads = [torch.empty(shape, dtype=torch.float32) for shape in places.values()]
    values |= {place: x.data_ptr() for place, x in zip(places, grads, strict=True)}
    run(module, values)
    del alive
    return grads


def set_weights(
    values: dict[str, Any],
    args: Any,
    side: str,
    parts: Tensor,
    positive_parts: Tensor,
    weights: Sequence[Tensor | None],
) -> list[Tensor]:
    """A side's finished statistics, and the gradients of them that library.upstream_of takes."""
    given = {"stat": parts, "weight": weights[0]}
    if args.positives:
        given["positive_weight"] = weights[1]
    if args.split:
        given |= {"positive_stat": positive_parts, "positive_stat_weight": weights[2]}
    alive = [numbers(x) for x in given.values() if x is not None]
    for name, x in zip(given, alive, strict=True):
        values[f"block.{side}.{name}"] = x.data_ptr()
    return alive
