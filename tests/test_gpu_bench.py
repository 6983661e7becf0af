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
import torch

import contrastile

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (str(ROOT / "bench/gpu"), str(ROOT / "bench"))
OURS = {"triton", "cuda", "torch"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    before = set(sys.modules)
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(folder)
    yield module
    for name in set(sys.modules) - before:  # their names are common ones
        if str(getattr(sys.modules[name], "__file__", "")).startswith(FOLDERS[1]):
            del sys.modules[name]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("figures") / "tiny.jsonl"
    path = os.pathsep.join([str(Path(contrastile.__file__).parents[1]), *FOLDERS])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "bench/gpu/figures.py"), "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_every_line_says_what_was_measured_and_with_what(figures):
    keys = {"benchmark", "loss", "rows", "d", "dtype", "candidate", "outcome", "device", "driver", "torch", "triton"}
    assert all(keys | {"cuda", "contrastile", "date"} <= x.keys() for x in figures)
    assert {x["loss"] for x in figures} == {"clip", "siglip", "nt_xent", "gram"}
    assert all({y["candidate"] for y in figures if y["benchmark"] == x["benchmark"]} >= OURS for x in figures)
    done = [x for x in figures if x["outcome"] == "ok"]
    assert {x["candidate"] for x in done} >= {"torch", "eager", "torch.compile"}
    for x in done:
        assert x["ms"] > 0 and 0 <= x["error"] < 1e-4
        assert math.isclose(x["of_gemm"], x["tflops"] / x["gemm_tflops"])
    assert all(x["why"] for x in figures if x["outcome"] in ("skipped", "refused", "failed"))


def test_tiny_numbers_do_not_get_among_the_results(load, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["figures.py", "--device", "cpu", "--tiny", "--out", "bench/results/x.jsonl"])
    with pytest.raises(SystemExit):
        load("figures").main()


def bench(load: Any, folder: Path, seconds: float = 100.0) -> Any:
    module = load("figures")
    return module, module.Bench("cpu", True, folder / "x.jsonl", time.monotonic() + seconds)


def run_with(load: Any, folder: Path, monkeypatch: Any, **candidates: Any) -> dict[str, dict[str, Any]]:
    module, made = bench(load, folder)
    monkeypatch.setattr(module, "makers_of", lambda problem: candidates)
    made.run(module.TINY[0])
    return {x["candidate"]: x for x in module.read(made.out)}


def test_a_wrong_value_or_gradient_is_refused_and_the_rest_goes_on(load, tmp_path, monkeypatch):
    def right(a, b):
        return contrastile.clip_loss(a, b, 14.3)

    def broken(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("none left")

    found = run_with(
        load, tmp_path, monkeypatch,
        value=lambda p: lambda a, b: right(a, b) + 0.01,
        gradient=lambda p: lambda a, b: right(a, b.detach()) + 0.0 * b.sum(),
        nan=lambda p: lambda a, b: right(a, b) * torch.nan,
        memory=lambda p: broken,
        right=lambda p: right,
    )  # fmt: skip
    assert {name: x["outcome"] for name, x in found.items()} == {
        "value": "refused", "gradient": "refused", "nan": "refused", "memory": "out of memory", "right": "ok",
    }  # fmt: skip
    assert "ms" in found["right"] and "ms" not in found["value"]


def test_what_begins_too_late_is_not_run_and_what_is_there_is_not_run_again(load, tmp_path):
    module, made = bench(load, tmp_path, seconds=-1.0)
    made.run(module.TINY[0])
    first = module.read(made.out)
    assert {x["outcome"] for x in first} == {"no time left"}
    _, again = bench(load, tmp_path)
    again.run(module.TINY[0])
    assert module.read(made.out) == first


@pytest.mark.parametrize("loss", ["clip", "siglip", "nt_xent", "gram"])
def test_the_references_equal_the_package_s(load, loss, monkeypatch):
    """In several chunks."""
    truth, problems = load("truth"), load("problems")
    monkeypatch.setattr(truth, "CHUNK_BYTES", 5 * 48 * 8)
    problem = next(x for x in problems.TINY if x.loss == loss)
    x = [y.detach().double().requires_grad_() for y in problem.features(0, "cpu")]
    value, grads = truth.truth(loss, x, torch.float64)
    t, reference = truth, contrastile.reference
    dense = {
        "clip": lambda: reference.clip_loss(*x, t.SCALE),
        "siglip": lambda: reference.siglip_loss(*x, t.SCALE, t.BIAS),
        "nt_xent": lambda: reference.nt_xent(*x, temperature=t.TEMPERATURE),
        "gram": lambda: reference.gram_loss(*x, temperature=t.VOLUME_TEMPERATURE, label_smoothing=t.SMOOTHING),
    }[loss]()
    dense.backward()
    assert truth.error(value, grads, (dense.item(), [y.grad for y in x])) < 1e-9


def test_steps_take_turns_and_slow_ones_stop_early(load):
    clock = load("clock")
    counts = [0, 0]

    def step(which: int) -> Any:
        def run(_: int) -> None:
            counts[which] += 1
            time.sleep(0.03 if which else 0.004)

        return run

    (fast, many), (slow, few) = clock.medians(clock.HostClock(), [step(0), step(1)], 0.15)
    assert fast < slow and few == 3 and many > 3
    assert counts[0] > counts[1]


# ---- parts and limits


@pytest.fixture
def runner(load: Any, tmp_path: Path) -> Any:
    run = load("run")
    return run.Runner(tmp_path, dict(run.LIMITS), 100.0)


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


def test_parts_share_the_time_that_there_is(runner):
    assert runner.limit("test") <= 100
    assert runner.limit("build") <= runner.limits["build"]


def test_the_linked_folder_holds_the_whole_package(load, tmp_path, monkeypatch):
    run = load("run")
    monkeypatch.setattr(run, "SITE", tmp_path / "site")
    run.link_site()
    code = "import contrastile, contrastile.triton_kernels as t, sys; print(contrastile.__file__, t.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=run.environment(), capture_output=True, text=True)
    assert done.stdout.count(str(tmp_path / "site")) == 2, done.stderr


def test_the_table_is_short_and_says_what_was_not_measured(load, figures):
    text = "\n".join(load("table").lines(figures))
    assert len(text) < 10_000 and "skipped" in text and "eager" in text
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
def test_results_are_named_by_device(load, device, short):
    assert load("surroundings").short_name(device) == short
