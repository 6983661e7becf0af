"""make gpu without a GPU: the order and limits of its parts, its references, and the benchmark's own logic."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import contrastile
from contrastile.benchmark import record
from contrastile.benchmark.clock import HostClock
from contrastile.benchmark.machine import short_name

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (str(ROOT / "bench/gpu"), str(ROOT / "bench"), str(ROOT / "tests"))
OURS = {"contrastile triton", "contrastile cuda", "contrastile torch"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    before = set(sys.modules)
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(folder)
    yield module
    for name in set(sys.modules) - before:  # their names are common ones
        if str(getattr(sys.modules[name], "__file__", "")).startswith((FOLDERS[1], FOLDERS[2] + "/official")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[record.Record]:
    out = tmp_path_factory.mktemp("figures") / "tiny.jsonl"
    path = os.pathsep.join([str(Path(contrastile.__file__).parents[1]), *FOLDERS])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "bench/gpu/figures.py"), "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return record.read(out)


@pytest.mark.slow
def test_every_line_says_what_was_measured_and_with_what(figures):
    assert {x.loss for x in figures} == {"clip_loss", "siglip_loss", "nt_xent", "gram_loss"}
    assert all({y.candidate for y in figures if y.problem == x.problem} >= OURS for x in figures)
    done = [x for x in figures if x.outcome == "ok"]
    assert {x.candidate for x in done} >= {"contrastile torch", "dense", "torch.compile"}
    for x in done:
        assert x.ms > 0 and 0 <= x.error < 1e-4
        assert math.isclose(x.of_gemm, x.tflops / x.gemm_tflops)
    assert all(x.why for x in figures if x.outcome in ("skipped", "refused", "failed"))


def test_tiny_numbers_do_not_get_among_the_results(load, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["figures.py", "--device", "cpu", "--tiny", "--out", "bench/results/x.jsonl"])
    with pytest.raises(SystemExit):
        load("figures").main()


def test_what_begins_too_late_is_not_run_and_what_is_there_is_not_run_again(load, tmp_path):
    entry, out = load("problems").TINY[2], tmp_path / "x.jsonl"
    load("figures").run(entry, out, time.monotonic() - 1.0)
    first = record.read(out)
    assert {x.outcome for x in first} == {"no time left"}
    load("figures").run(entry, out, time.monotonic() + 100.0)
    assert record.read(out) == first


def test_a_broken_context_ends_the_process_after_the_record_of_what_broke_it(load, tmp_path, monkeypatch):
    entry, out = load("problems").TINY[2], tmp_path / "x.jsonl"

    def sync(clock: Any) -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(HostClock, "sync", sync)
    with pytest.raises(SystemExit) as end:
        load("figures").run(entry, out, time.monotonic() + 100.0)
    assert end.value.code == load("run").LOST
    assert [x.candidate for x in record.read(out)] == ["contrastile triton"]


# ---- parts and limits


@pytest.fixture
def runner(load: Any, tmp_path: Path) -> Any:
    run = load("run")
    return run.Runner(tmp_path, dict(run.LIMITS))


def test_a_part_that_fails_or_hangs_is_reported_and_the_next_one_runs(runner, capsys):
    sleeps = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    begun = time.monotonic()
    for name, code, seconds in (
        ("bad", "print('why'); raise SystemExit(3)", 20),
        ("long", sleeps, 2),
        ("good", "", 20),
    ):
        runner.execute(name, [sys.executable, "-c", code], seconds)
    assert time.monotonic() - begun < 40
    assert [x.status for x in runner.outcomes] == [3, -1, 0]
    assert "why" in capsys.readouterr().out
    assert "FAILED (3)" in runner.summary()[0] and "STOPPED" in runner.summary()[1]


def test_each_part_fits_nine_minutes_with_a_build_before_it(load):
    limits = load("run").LIMITS
    assert all(limits["build"] + seconds <= 540 for part, seconds in limits.items() if part != "build")


def test_the_linked_folder_holds_the_whole_package(load, tmp_path, monkeypatch):
    run = load("processes")
    monkeypatch.setattr(run, "SITE", tmp_path / "site")
    run.link_site()
    (tmp_path / "site/contrastile/gone.py").symlink_to(tmp_path / "gone.py")
    run.link_site()
    assert not (tmp_path / "site/contrastile/gone.py").is_symlink()
    code = "import contrastile, contrastile.triton_kernels as t, sys; print(contrastile.__file__, t.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=run.environment(), capture_output=True, text=True)
    assert done.stdout.count(str(tmp_path / "site")) == 2, done.stderr


@pytest.mark.slow
def test_the_table_is_short_and_says_what_was_not_measured(load, figures):
    text = "\n".join(load("table").lines([json.loads(x.line()) for x in figures]))
    assert len(text) < 10_000 and "skipped" in text and "dense" in text
    assert load("table").lines([]) == ["no figures"]


@pytest.mark.parametrize(
    "device, short",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("CPU", "cpu"),
    ],
)
def test_results_are_named_by_device(device, short):
    assert short_name(device) == short
