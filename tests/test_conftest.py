"""The test harness itself: poisoned memory, and the options that choose tests."""

from pathlib import Path

import pytest
import torch

import conftest
import contrastile
from support.combinations import each_once, each_pair

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parent
SAMPLE = """
import pytest, torch
def test_plain(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.gpu
def test_gpu(): pass
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_fresh_memory_is_poisoned(dtype):
    like = torch.ones(5, dtype=dtype)
    fresh = (torch.empty(5, dtype=dtype), torch.empty_like(like), like.new_empty(5), like.clone().resize_(9)[5:])
    assert all(x.isnan().all() for x in fresh)
    assert torch.empty(5, dtype=torch.int64).eq(torch.iinfo(torch.int64).max).all()


def test_memory_that_is_written_is_not_poisoned():
    assert not torch.add(torch.ones(3), 1).isnan().any()
    assert not (torch.ones(3, 2) @ torch.ones(2, 3)).isnan().any()


@pytest.mark.unpoisoned
def test_poison_can_be_left_out():
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("value", [0, 1])
def test_random_numbers_start_anew_in_every_test(value):
    assert torch.rand(()).item() == torch.rand((), generator=torch.Generator().manual_seed(0)).item()


@pytest.fixture
def run_sample(pytester):
    """Runs pytest with this conftest on a sample, in this process unless processes are asked for."""
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyprojecttoml((TESTS.parent / "pyproject.toml").read_text())

    def run(*options, processes=(), sample=SAMPLE):
        pytester.makepyfile(test_sample=sample)
        start = pytester.runpytest_subprocess if processes else pytester.runpytest_inprocess
        return start("-rs", ".", *processes, *options)

    return run


def test_slow_tests_are_left_out_and_gpu_tests_skipped_with_a_reason(run_sample):
    said = run_sample("--run-gpu=skip").stdout.str()
    assert "1 passed, 1 skipped, 1 deselected" in said
    assert "slow tests left out (--run-slow)" in said
    assert "--run-gpu=skip" in said
    header = next(line for line in said.splitlines() if line.startswith("contrastile: "))
    assert f"torch {torch.__version__}" in header
    assert all(f"{name}" in header for name in ("isa", "cores", "gpu", *contrastile.available_backends()))


def test_slow_tests_run_when_asked_for(run_sample):
    assert "2 passed, 1 skipped" in run_sample("--run-slow", "--run-gpu=skip").stdout.str()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_not_there_stops_everything(run_sample):
    done = run_sample("--run-gpu=require")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "no GPU" in done.stderr.str()


NEEDS_PACKAGES = f"""{SAMPLE}
def test_first(): pytest.importorskip("first_package")
def test_second(): pytest.importorskip("second_package")
"""
A_WHOLE_FILE = """
import pytest
pytest.importorskip("first_package")
def test_whole(): pass
def test_second(): pytest.importorskip("second_package")
"""
WITHOUT_SKIPS = """
import os
assert "TOUCHY" not in os.environ
def test_none(): pass
"""


@pytest.mark.parametrize("processes", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["one", "two"])
def test_what_was_skipped_for_a_package_runs_once_it_is_there(processes, run_sample, pytester, monkeypatch):
    """Not what ran before, nor what is slow; what is skipped once more runs when its own package has come. Other files
    are not imported."""
    monkeypatch.syspath_prepend(pytester.path)
    pytester.makepyfile(test_whole=A_WHOLE_FILE, test_without_skips=WITHOUT_SKIPS)

    def outcome(*options):
        done = run_sample("--run-gpu=skip", *options, processes=processes, sample=NEEDS_PACKAGES)
        return {name: n for name, n in done.parseoutcomes().items() if name in ("passed", "skipped", "failed")}

    assert outcome() == {"passed": 2, "skipped": 4}
    monkeypatch.setenv("TOUCHY", "1")
    (pytester.path / "first_package.py").touch()
    assert outcome("--skipped-before") == {"passed": 2, "skipped": 2}
    (pytester.path / "second_package.py").touch()
    assert outcome("--skipped-before", "--run-slow") == {"passed": 2}
    assert outcome("--skipped-before") == {}
    monkeypatch.delenv("TOUCHY")
    assert outcome() == {"passed": 6, "skipped": 1}


def test_without_a_cache_nothing_was_skipped_before(run_sample):
    done = run_sample("--skipped-before", "-p", "no:cacheprovider")
    assert done.ret == pytest.ExitCode.USAGE_ERROR and "cache" in done.stderr.str()


def test_by_default_every_value_occurs_and_all_combinations_otherwise():
    axes = ("a", "b", "c"), [(1, True), (2, False)], ([0], [1], [2], [3])
    chosen = each_once(*axes)
    quick = [x.values for x in chosen if not x.marks]
    assert len(chosen) == len({str(x.values) for x in chosen}) == 24 and len(quick) == 4
    letters, numbers, booleans, lists = zip(*quick, strict=True)
    assert (
        set(letters) == {*"abc"}
        and set(zip(numbers, booleans, strict=True)) == {*axes[1]}
        and sorted(lists) == [*axes[2]]
    )


def test_any_two_values_meet_that_meet_in_all():
    options = [(x, y, z) for x in "abc" for y in (True, False) for z in (1, 2) if (x, y) != ("a", True)]
    chosen = each_pair(options)
    pairs = {option: {(i, option[i], j, option[j]) for i, j in ((0, 1), (0, 2), (1, 2))} for option in options}
    assert set().union(*(pairs[x] for x in chosen)) == set().union(*pairs.values())
    assert set(chosen) < set(options) and len(chosen) == 6


def test_long_files_come_first(pytester):
    """And exist."""
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyfile(**{f"test_{name}": "def test_x(): pass" for name in ("a", "compile", "z", "losses")})
    found = [line.partition("::")[0] for line in pytester.runpytest_subprocess("--collect-only", "-q").outlines]
    assert found[:4] == ["test_compile.py", "test_losses.py", "test_a.py", "test_z.py"]
    stems = {path.stem for path in TESTS.rglob("test_*.py")}
    assert {f"test_{name}" for name in conftest.LONG} <= stems
