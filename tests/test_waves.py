"""Blocks whose output products fill a GPU: what the driver takes, that it covers every pair once, and that gradients
are written before they are added to. torch's meta device stands for a GPU with 132 multiprocessors."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from contrastile import driver, pair_loss
from contrastile.backends import base, waves
from contrastile.backends.cuda import CudaBackend
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.backends.triton import TritonBackend
from contrastile.backends.waves import Block, Pairs, Product
from contrastile.spec import Needs, PairCall, PairSpec, Score, Side
from support.cases import EXTRAS, make_call
from support.oracle import check

PROCESSORS = 132
MIB = 1 << 20


def call(n: int, m: int | None, d: int, dtype: torch.dtype = torch.bfloat16, directions: int = 1, blocks: int = 1):
    rows = Side(torch.empty(n, d, dtype=dtype, device="meta"))
    if m is None:
        return PairCall(PairSpec(square=True), rows, [rows])
    shape = (m, d) if directions == 1 else (directions, m, d)
    columns = [Side(torch.empty(shape, dtype=dtype, device="meta")) for _ in range(blocks)]
    score = Score.DOT if directions == 1 else Score.DISTANCE
    return PairCall(PairSpec(cols=True, score=score), rows, columns)


def test_a_wave_is_as_many_tiles_as_multiprocessors():
    product = Product(4096, 768, 65_536)
    assert (product.waves(PROCESSORS), Product(5633, 768, 1).waves(PROCESSORS)) == (1, 2)
    assert waves.fill([product], PROCESSORS) == 96 / 132
    assert waves.fill([Product(5632, 768, 65_536)], PROCESSORS) == 1.0
    assert waves.fill([product, replace_depth(product, 0)], PROCESSORS) == 96 / 132
    assert waves.fill([], PROCESSORS) == 1.0


def replace_depth(product: Product, depth: int) -> Product:
    return product._replace(depth=depth)


@pytest.mark.parametrize(
    "n, d, square, rows, cols",
    [
        (65_536, 768, False, 5632, 65_536),
        (65_536, 768, True, 5632, 65_536),
        (65_536, 512, False, 8192, 65_536),
        (65_536, 256, False, 16_384, 32_768),  # all columns would leave half of the device idle
        (16_384, 768, False, 5632, 16_384),
        (1000, 768, False, 1024, 1000),
    ],
)
def test_rows_of_a_block_fill_whole_waves(n, d, square, rows, cols):
    plan = driver.Plan(call(n, None if square else n, d), TritonBackend())
    assert (plan.rows, plan.columns) == (rows, cols)


def test_one_multiprocessor_more_is_room_for_more_rows():
    taken = [waves.best_block(Pairs(65_536, 65_536, 768), 1 << 29, 2048, False, count) for count in (108, 132, 144)]
    assert taken == [Block(108 // 3 * 128, 65_536), Block(132 // 3 * 128, 65_536), Block(144 // 3 * 128, 65_536)]


@pytest.mark.parametrize("backend", [TritonBackend(), CudaBackend(), TorchBackend()], ids=lambda x: x.name)
@pytest.mark.parametrize("n, m", [(65_536, 65_536), (40_000, None), (5_003, 70_001), (300_000, 7), (3, 2_000_003)])
def test_a_block_fits_the_workspace_and_every_pair_is_in_one(backend, n, m):
    for d, directions in itertools.product((1, 100, 768, 4096), (1, 3)[: 1 + (m is not None)]):
        asked = call(n, m, d, directions=directions)
        plan = driver.Plan(asked, backend)
        steps = list(plan.steps())
        size = max((x.stop - x.start) * (x.last - x.first) for x in steps)
        least = 128 * min(plan.limits.min_chunk, n)
        assert size <= max(plan.fit, least) and plan.fit * directions <= plan.limits.workspace // 2
        visited = sum((x.stop - x.start) * (x.last - x.first) * (1 + x.mirrored) for x in steps)
        assert visited == n * (m or n)


@pytest.mark.parametrize("dtype, bytes_of_a_pair", [(torch.bfloat16, 2), (torch.float16, 2), (torch.float32, 4)])
def test_the_workspace_of_triton_counts_what_a_score_gradient_takes(dtype, bytes_of_a_pair):
    assert TritonBackend().pair_bytes(call(8, 8, 4, dtype)) == bytes_of_a_pair
    distances = 2 if dtype == torch.bfloat16 else 4  # float16 ones have no factor
    assert TritonBackend().pair_bytes(call(8, 8, 4, dtype, directions=2)) == distances
    assert CudaBackend().pair_bytes(call(8, 8, 4, dtype)) == TorchBackend().pair_bytes(call(8, 8, 4, dtype)) == 4


@pytest.mark.parametrize("whole", [False, True])
def test_chunks_of_a_loss_of_rows_meet_all_columns_where_that_is_asked(whole):
    plan = driver.Plan(call(50_000, 20_000, 64, blocks=3), TritonBackend(), whole=whole)
    assert plan.columns >= 20_000 and plan.rows * 20_000 * (3 if whole else 1) <= plan.fit


# ---- gradients: the first product of each is written


@pytest.fixture
def few_at_once(monkeypatch):
    """Blocks as on a GPU of two multiprocessors and little memory."""
    monkeypatch.setattr(waves, "TILE_ROWS", 16)
    monkeypatch.setattr(waves, "TILE_COLS", 16)
    waves.best_block.cache_clear()
    few = replace(base.CPU_LIMITS, workspace=4 * 32 * 48, min_chunk=16, processors=2)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: few)
    yield
    waves.best_block.cache_clear()


@pytest.mark.parametrize("m, blocks", [(150, 1), (150, 3), (None, 1)])
@pytest.mark.parametrize("cols", [True, False])
def test_values_and_gradients_of_such_blocks(few_at_once, m, blocks, cols):
    """Memory that was not written is poisoned."""
    options = {"cols": cols, "positives": "same_id" if m is None else "same_index"}
    check(make_call(90, m, 6, torch.float32, *EXTRAS[:4], blocks=blocks, **options), backend="torch")


@pytest.mark.parametrize("square", [False, True])
def test_every_gradient_is_written_once_and_then_added_to(few_at_once, square, monkeypatch):
    calls = {"put": [], "accumulate": []}
    for name, found in calls.items():
        run = getattr(TorchBackend, name)
        watch = lambda it, out, *x, run=run, found=found: found.append(len(out)) or run(it, out, *x)  # noqa: E731
        monkeypatch.setattr(TorchBackend, name, watch)
    a, b = (torch.rand(100, 8).requires_grad_() for _ in range(2))
    pair_loss(a, None if square else b, cols=True, backend="torch", memory_budget=0).backward()
    assert sum(calls["put"]) == 100 * (1 if square else 2)
    assert len(calls["accumulate"]) > 3


def test_gradients_without_a_pair_are_zeros():
    for n, m in ((0, 5), (5, 0)):
        features = [torch.empty(k, 4) for k in (n, m)]
        asked = PairCall(PairSpec(), Side(features[0]), [Side(features[1])])
        found = driver.gradients(driver.Plan(asked, TorchBackend()), Needs(True, [True]), driver.ScoreStore(None))
        assert not found.fresh and not any(x.any() for x in (found.a, *found.blocks))
