"""What the first look at a GPU calls right: a chunk's statistics and score gradients, spoilt as a kernel could."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from contrastile.backends.torch_tiles import TorchBackend
from contrastile.monoid import finish
from contrastile.spec import PairBlock, PairSpec, PairTest, Reduce, ScoreGradients, Side

BENCH = Path(__file__).parents[1] / "bench"
ROWS, COLUMNS, FEATURES, TILE = 256, 8192, 64, 64


@pytest.fixture
def levers(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("triton")
    for folder in (BENCH, BENCH / "gpu"):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("first.levers")
    for name in [x for x in sys.modules if x.split(".")[0] in ("first", "processes")]:
        del sys.modules[name]


@pytest.fixture
def chunk() -> PairBlock:
    """As block.clip makes it, smaller."""
    generator = torch.Generator().manual_seed(0)
    row, col = (
        Side(F.normalize(torch.randn(n, FEATURES, generator=generator), dim=1).bfloat16()) for n in (ROWS, COLUMNS)
    )
    row.scale = torch.full((ROWS,), 14.3)
    for side in (row, col):
        side.weight = torch.full((len(side),), 0.5 / COLUMNS)
        side.positive_weight = -side.weight
    found = PairBlock(PairSpec(reduce=Reduce.LSE, positives=PairTest.SAME_INDEX, cols=True), row, col)
    for side, stats in zip((row, col), TorchBackend().stats(found), strict=True):
        side.stat = finish(stats)
    return found


def without(chunk: PairBlock, columns: int) -> PairBlock:
    """Without the last columns."""
    col, kept = chunk.col, COLUMNS - columns
    sliced = {name: getattr(col, name)[:kept] for name in ("features", "stat", "weight", "positive_weight")}
    return replace(chunk, col=replace(col, **sliced))


def spoilt(x: ScoreGradients, columns: int | slice, value: float) -> ScoreGradients:
    grad = x.grad.clone()
    grad[0, :TILE, columns] = value
    return replace(x, grad=grad)


@pytest.mark.parametrize("columns", [TILE, COLUMNS // 20])
def test_statistics_without_some_columns_are_wrong(levers, chunk, columns):
    truth, _ = TorchBackend().stats(chunk)
    found, _ = TorchBackend().stats(without(chunk, columns))
    assert levers.of_side(truth, truth) == 0.0 and levers.of_side(found, truth) > 1.0


def test_a_row_that_was_not_written_and_a_positive_that_is_missing_are_wrong(levers, chunk):
    truth, _ = TorchBackend().stats(chunk)
    for name, value in (("total", torch.nan), ("peak", torch.nan), ("positive", torch.nan), ("positive", 0.0)):
        x = getattr(truth, name).clone()
        x[5] = value
        assert levers.of_side(replace(truth, **{name: x}), truth) > 1.0, name


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("columns", [slice(TILE), slice(4096, 4096 + TILE), slice(COLUMNS - COLUMNS // 20, None)])
def test_score_gradients_without_a_tile_or_some_columns_are_wrong(levers, chunk, columns, value):
    """Also off the diagonal, which has nearly all of the norm."""
    truth = TorchBackend().score_grad(chunk, levers.block.NEEDS)
    truth.grad = truth.grad.bfloat16()
    assert levers.of_score_gradients(truth, truth) == 0.0
    assert levers.of_score_gradients(spoilt(truth, columns, value), truth) > 1.0


def test_a_scale_without_some_columns_is_wrong(levers, chunk):
    truth = TorchBackend().score_grad(chunk, levers.block.NEEDS)
    found = TorchBackend().score_grad(without(chunk, COLUMNS // 20), levers.block.NEEDS)
    assert levers.of_score_gradients(replace(truth, row_scale=found.row_scale), truth) > 1.0


def test_float32_arithmetic_and_the_next_bfloat16_are_right(levers, chunk):
    truth = TorchBackend().score_grad(chunk, levers.block.NEEDS)
    neighbour = (truth.grad.bfloat16().view(torch.int16) + 1).view(torch.bfloat16)
    assert 0.5 < levers.of_score_gradients(replace(truth, grad=neighbour), truth) <= 1.0
    stats, _ = TorchBackend().stats(chunk)
    assert 0.0 < levers.of_side(replace(stats, total=stats.total * (1.0 + 2e-5)), stats) <= 1.0


def test_each_kernel_is_tried_and_the_tables_tile_first_and_last(levers):
    for name in levers.block.TILES:
        tried = list(levers.trials(levers.Look(None), name))
        assert tried[0] == tried[-1] == ("table", None, False) and len(tried) > 3
