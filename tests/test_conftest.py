"""The test harness itself: poisoned memory, and the options for GPUs and slow tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import contrastile

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


def run_sample(folder, *options):
    (folder / "test_sample.py").write_text(SAMPLE)
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-c",
        str(TESTS.parent / "pyproject.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(contrastile.__file__).parents[1])}
    command += ["--rootdir", str(folder), *options, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_slow_and_gpu_tests_are_skipped_with_a_reason(tmp_path):
    done = run_sample(tmp_path, "--run-gpu=skip")
    assert "1 passed, 2 skipped" in done.stdout
    assert "needs --run-slow" in done.stdout
    assert "--run-gpu=skip" in done.stdout
    header = next(line for line in done.stdout.splitlines() if line.startswith("contrastile: "))
    assert f"torch {torch.__version__}" in header
    assert all(f"{name}" in header for name in ("isa", "cores", "gpu", *contrastile.available_backends()))


def test_slow_tests_run_when_asked_for(tmp_path):
    assert "2 passed, 1 skipped" in run_sample(tmp_path, "--run-slow", "--run-gpu=skip").stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_not_there_stops_everything(tmp_path):
    done = run_sample(tmp_path, "--run-gpu=require")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no GPU" in done.stderr
