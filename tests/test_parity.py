"""One training run with the dense loss and with ours: equal curves within rounding, equal recall, as the page says."""

import importlib
import json

import pytest

from support.scripts import ROOT

LINES = ROOT / "bench/results/parity/cpu-zen4.jsonl"
DTYPES = ("float32", "bfloat16")


@pytest.fixture
def runs():
    found = [json.loads(line) for line in LINES.read_text().splitlines()]
    return {dtype: {run["loss"]: run for run in found if run["dtype"] == dtype} for dtype in DTYPES}


def distance(run, other):
    return max(abs(x - y) for x, y in zip(run["values"], other["values"], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_committed_run_is_dense_training_within_rounding(runs, dtype):
    dense, permuted, ours = runs[dtype].values()
    assert len(dense["values"]) == 300 and dense["values"][-1] < 0.2 * dense["values"][0]
    off, rounding = distance(ours, dense), distance(permuted, dense)
    assert off <= 2 * rounding
    assert ours["recall"] == dense["recall"]
    row = f"| {dtype} | {rounding:.1e} | {off:.1e} |"
    row += "".join(f" {dense['recall'][k]:.3f} / {ours['recall'][k]:.3f} |" for k in ("1", "5"))
    assert row in (ROOT / "docs/numerics.md").read_text()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_steps_are_those_of_the_committed_run(monkeypatch, runs, dtype):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    parity = importlib.import_module("parity")
    monkeypatch.setattr(parity, "ROWS", 64)
    curves = {name: parity.train(loss, parity.TYPES[dtype], 8)[0] for name, loss in parity.LOSSES.items()}
    dense, _, ours = curves.values()
    bound = {"float32": 2e-6, "bfloat16": 2e-2}[dtype]
    assert max(abs(x - y) for x, y in zip(dense, ours, strict=True)) <= bound
