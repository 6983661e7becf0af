"""Which of many combinations run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, combinations, product
from typing import Any

import pytest


def by_default(values: Iterable[Any], *quick: Any) -> list[Any]:
    """The values as parameters, those that are not among the quick ones only with --run-slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


class One(tuple[Any, ...]):
    """A tuple that is one parameter."""


def parameters(value: Any) -> tuple[Any, ...]:
    return value if type(value) is tuple else (value,)


def each_value_once(lengths: Sequence[int], turn: int = 0) -> set[tuple[int, ...]]:
    """Indices of combinations that every value of every axis needs to occur once. Turns pair the values differently."""
    return {(i % lengths[0], *((i + turn) % n for n in lengths[1:])) for i in range(max(lengths))}


def each_once(*axes: Sequence[Any]) -> list[Any]:
    """All combinations as parameters. Those that every value of every axis needs to occur once run by default, the
    others with --run-slow. A value that is a tuple gives several parameters."""
    quick = each_value_once([len(axis) for axis in axes])
    chosen = []
    for indices in product(*(range(len(axis)) for axis in axes)):
        values = [axis[i] for axis, i in zip(axes, indices, strict=True)]
        flat = list(chain.from_iterable(map(parameters, values)))
        chosen.append(pytest.param(*flat, marks=() if indices in quick else pytest.mark.slow))
    return chosen


def each_pair(options: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Enough of these tuples for any two values, of two of their places, to meet that meet in all of them."""
    pairs = {option: set(combinations(enumerate(option), 2)) for option in options}
    missing, enough = set().union(*pairs.values()), []
    while missing:
        enough.append(max(options, key=lambda option: len(pairs[option] & missing)))
        missing -= pairs[enough[-1]]
    return enough


def in_turn(first: Sequence[Any], second: Sequence[Any], turn: int) -> list[tuple[Any, Any]]:
    """Each of the first with one of the second; in as many turns as there are of the second, with all of them."""
    return [(x, second[(i + turn) % len(second)]) for i, x in enumerate(first)]


def crossed(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All combinations, as an axis of `each_once`: every one of them runs. The last axis changes fastest; where another
    axis of `each_once` has no factor in common with its length, the two mix."""
    return [tuple(chain.from_iterable(map(parameters, some))) for some in product(*axes)]


def chosen(request: pytest.FixtureRequest, test: str) -> list[dict[str, Any]]:
    """The parameters with which this test of the requesting file will run; for fixtures that do the work of all."""
    items = [x for x in request.session.items if isinstance(x, pytest.Function) and x.path == request.path]
    return [x.callspec.params for x in items if x.originalname == test]
