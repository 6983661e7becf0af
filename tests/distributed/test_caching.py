"""cached_backward across ranks: the gradients of one process in every step, or a refusal on every rank."""

from __future__ import annotations

import pytest

from support.launch import gather_from

from . import caching_rules as rules
from . import caching_worker as worker

pytestmark = pytest.mark.dist
LIMIT = 1e-10  # float64; a gradient that is not averaged is off by tenths


@pytest.fixture(scope="module")
def found():
    return gather_from(2, rules.everything)


@pytest.mark.parametrize("name", worker.CASES)
def test_gradients_are_those_of_one_process(found, name):
    for rank in found:
        assert isinstance(rank, dict), rank
        assert isinstance(rank[name], list), rank[name]
        assert len(rank[name]) == worker.STEPS
        assert max(rank[name]) < LIMIT


@pytest.mark.parametrize(("function", "text"), rules.REFUSALS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_refused_on_every_rank_before_a_gradient_is_touched(found, function, text):
    for rank in found:
        message, untouched = rank[function.__name__]
        assert text in message
        assert untouched


def test_gradients_are_reduced_as_often_as_without_cache(found):
    for rank in found:
        cached, plain = rank["reductions"]
        assert cached == plain > 0


def test_parameters_that_no_rank_reaches_keep_no_gradient(found):
    assert [rank["unused_stays_none"] for rank in found] == [["d", "q"]] * 2


def test_settings_of_fully_shard_come_back(found):
    assert [rank["flags_come_back"] for rank in found] == [[True, False, True]] * 2


def test_running_statistics_move_once(found):
    assert max(rank["statistics"] for rank in found) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_gradients_with_other_numbers_of_ranks(world):
    for rank in gather_from(world, worker.trainings, worker.CASES):
        for name, errors in rank.items():
            assert isinstance(errors, list) and max(errors) < LIMIT, (name, errors)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", worker.WRAPS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_gradients_of_every_combination(world, wrap):
    for rank in gather_from(world, worker.trainings, worker.product(wrap)):
        for name, errors in rank.items():
            assert isinstance(errors, list) and max(errors) < LIMIT, (name, errors)
