"""The model of what a GPU should need (bench/gpu/model), and the tables that docs/performance.md has of it."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in (ROOT / "bench", ROOT / "bench/gpu"):
        monkeypatch.syspath_prepend(str(folder))
    yield lambda name: importlib.import_module(f"model.{name}")
    for name in [x for x in sys.modules if x.split(".")[0] == "model"]:
        del sys.modules[name]


def test_the_page_has_the_tables_of_the_counts_and_of_the_blocks_that_the_driver_takes(load):
    tables, counts = load("tables"), load("counts").stored()
    text = tables.PAGE.read_text()
    assert not tables.differing(text, counts), "PYTHONPATH=bench/gpu:bench:tests python -m model --write"
    assert tables.rewritten(text, counts) == text
    other = {loss: {name: replace(x, instructions=99.0) for name, x in found.items()} for loss, found in counts.items()}
    assert len(tables.differing(text, other)) == 2
    assert tables.differing(tables.rewritten(text, other), other) == []


@pytest.mark.slow
@pytest.mark.aot
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter does not compile")
def test_the_counts_are_those_of_the_kernels(load, monkeypatch, tmp_path):
    """With the Triton that counted them."""
    triton = pytest.importorskip("triton")
    counts = load("counts")
    if f'"triton": "{triton.__version__}"' not in counts.STORED.read_text():
        pytest.skip("counted with another Triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / x) for x in ("bench/gpu", "bench", "tests")))
    assert counts.compiled() == counts.stored()


def test_no_kernel_spills_much_and_those_of_log_sum_exps_share_a_multiprocessor(load):
    counts = load("counts")
    found = counts.stored()
    assert set(found) == {*counts.LOSSES, counts.KEPT}
    assert all(x.stack <= 64 for kernels in found.values() for x in kernels.values())
    lean = [x for loss in ("clip_loss", "nt_xent", counts.KEPT) for x in found[loss].values()]
    assert all(x.resident() > 1 and x.wide >= 128 for x in lean)


# ---- the model


def kernel(load: Any, **numbers: Any) -> Any:
    given = {
        "rows": 128, "cols": 128, "warps": 8, "registers": 128, "stack": 0, "shared": 64 << 10, "instructions": 30.0,
        "mufu": 2.0, "static": 0, "wide": 128,
    }  # fmt: skip
    return load("counts").Kernel(**given | numbers)


@pytest.mark.parametrize(
    "numbers, programs",
    [({}, 2), ({"registers": 129}, 1), ({"warps": 4, "registers": 168}, 3), ({"shared": 114 << 10}, 1),
     ({"registers": 255, "warps": 16}, 1)],
)  # fmt: skip
def test_programs_that_share_a_multiprocessor(load, numbers, programs):
    assert kernel(load, **numbers).resident() == programs


def test_instructions_come_after_products_only_where_a_program_is_alone(load):
    cycles = load("cycles")
    alone, two = (
        cycles.kernel_time(kernel(load, registers=count), cycles.H100, 1 << 32, 768, 2.0) for count in (255, 128)
    )
    products = 2 * (768 + cycles.FILL) * 2**32 / cycles.H100.product
    instructions = 30 * 2**32 / (128 * 132 * cycles.H100.clock)
    assert alone == pytest.approx((products + instructions,) * 2)
    assert two == pytest.approx((products, products + instructions / 2))


@pytest.mark.parametrize(
    "numbers, written, bound",
    [
        ({"instructions": 500.0, "mufu": 0.0}, 2.0, lambda x: 500 / (128 * 132 * x.clock)),
        ({"instructions": 0.0, "mufu": 80.0}, 2.0, lambda x: 80 / (16 * 132 * x.clock)),
        ({"instructions": 0.0, "mufu": 0.0}, 40.0, lambda x: 40 / x.memory),
        ({"rows": 16, "cols": 16}, 2.0, lambda x: 2 * 768 / 8 / (2 * x.cache)),
    ],
    ids=["instructions", "exponentials", "memory", "cache"],
)
def test_a_kernel_takes_as_long_as_what_it_wants_most_of(load, numbers, written, bound):
    cycles = load("cycles")
    found = cycles.kernel_time(kernel(load, **numbers), cycles.H100, 1 << 30, 768, written)
    assert found.low == pytest.approx(2**30 * bound(cycles.H100))


def test_short_tensor_core_instructions_wait_for_their_operands(load):
    cycles = load("cycles")
    wide, short, shorter = (
        cycles.kernel_time(kernel(load, wide=x, rows=999, cols=999), cycles.H100, 1, 768, 0.0).low
        for x in (128, 64, 32)
    )
    assert wide == short == pytest.approx(shorter / 1.5)


def test_a_prediction_is_made_of_its_parts(load):
    cycles, blocks, counts = load("cycles"), load("blocks"), load("counts")
    for loss in counts.LOSSES:
        problem = blocks.Problem(loss, 16_384, 512, 3 if loss == "gram_loss" else 1)
        h100, h200 = (cycles.predict(problem, device, counts.stored()) for device in cycles.DEVICES)
        assert sum(x.low for x in h100) == pytest.approx(h100.total.low) and h100.total.low <= h100.total.high
        assert h200.total.low < h100.total.low
        assert (h100.stats.low == 0) == (loss == "siglip_loss")
    assert cycles.device_of("NVIDIA H200") is cycles.H200 and cycles.device_of("dry") is cycles.H100


def test_time_goes_with_the_pairs(load):
    """But for gaps between kernels, and for gradients, which every block adds to."""
    cycles, blocks, counts = load("cycles"), load("blocks"), load("counts").stored()
    one, two = (cycles.predict(blocks.Problem("clip_loss", x * 5632, 768), cycles.H100, counts) for x in (8, 11))
    assert two.total.low / one.total.low == pytest.approx((11 / 8) ** 2, rel=0.02)
