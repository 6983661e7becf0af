"""Which of many combinations run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def by_default(values: Iterable[Any], *quick: Any) -> list[Any]:
    """The values as parameters, those that are not among the quick ones only with --run-slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def each_once(*axes: Sequence[Any]) -> list[Any]:
    """All combinations as parameters. Those that every value of every axis needs to occur once run by default, the
    others with --run-slow. A value that is a tuple gives several parameters."""
    quick = {tuple(i % len(axis) for axis in axes) for i in range(max(map(len, axes)))}
    chosen = []
    for indices in itertools.product(*(range(len(axis)) for axis in axes)):
        values = [axis[i] for axis, i in zip(axes, indices, strict=True)]
        flat = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
        chosen.append(pytest.param(*flat, marks=() if indices in quick else pytest.mark.slow))
    return chosen


def chosen(request: pytest.FixtureRequest, test: str) -> list[dict[str, Any]]:
    """The parameters with which this test of the requesting file will run; for fixtures that do the work of all."""
    items = [x for x in request.session.items if isinstance(x, pytest.Function) and x.path == request.path]
    return [x.callspec.params for x in items if x.originalname == test and x.get_closest_marker("skip") is None]
