"""Tests of the fused kernel in Triton's interpreter, on the CPU; test_interpreted_fused.py runs them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from contrastile import driver, pair_loss, pair_reduce
from contrastile.backends import measured, triton_device, triton_fused, triton_plan
from contrastile.backends import triton as backend_module
from contrastile.spec import Limits
from contrastile.triton_kernels import functors, second, slopes
from contrastile.triton_kernels import fused as kernels
from support.cases import EXTRAS, lacking, make_call
from support.combinations import each_once
from support.oracle import check, check_float16_range, compare, engine, engine_loss, oracle, scalar_of, upstream
from support.rules import CONJUNCTIONS, KEEPS, LIMITS, POSITIVES, SQUARE, SUMS, TESTS, TYPED_KEEPS

FLOATS = (torch.float32, torch.float16)


@pytest.fixture(autouse=True)
def measured_faster(monkeypatch):
    """The interpreter is a device on which the fused kernel was measured to be faster."""
    entry = {"triton": measured.triton_version(), "fused": {"float32": [256, 256], "float16": [256, 256]}}
    monkeypatch.setattr(measured, "table", lambda: {"cpu": entry})
    return entry


def refuse(*_):
    raise AssertionError("was asked")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No score gradients are made."""
    monkeypatch.setattr(backend_module.TritonBackend, "score_grad_tiles", refuse)
    monkeypatch.setattr(triton_plan.Plan, "gradients", refuse)


def fused(call):
    """All that comes from finished statistics: what pair_reduce returns, and pair_loss but for sums."""
    weights = upstream(call)
    truth, limit = oracle(call, weights)
    compare(call, engine(call, weights, backend="triton"), truth, limit)
    if call.options.get("reduce", "lse") == "lse":
        truth, limit = scalar_of(truth, limit, weights, 2.0**-23)
        compare(call, engine_loss(call, weights, backend="triton"), truth, limit)


@pytest.mark.parametrize("dtype, keep, reduce", each_once(TYPED_KEEPS, SUMS))
def test_every_reduce_and_keep(dtype, reduce, keep):
    """Bare, and with all scales, biases, thresholds, a mask and two column blocks at once; more than one tile."""
    options = {"reduce": reduce, "keep": keep, "positives": POSITIVES[KEEPS.index(keep) % 4], "keep_positives": True}
    fused(make_call(37, 70, 19, dtype, keep=keep, reduce=reduce))
    fused(make_call(37, 70, 19, dtype, *EXTRAS, blocks=2, cols=True, **options))


@pytest.mark.slow  # the functions are those of the other kernels; conjunctions call all of them
@pytest.mark.parametrize("positives, reduce", each_once(POSITIVES, SUMS))
def test_every_positives(reduce, positives):
    for keep_positives in (False, True):
        options = {"reduce": reduce, "positives": positives, "keep_positives": keep_positives, "keep": "other_id"}
        fused(make_call(34, 66, 5, torch.float32, *LIMITS, cols=keep_positives, **options))


@pytest.mark.slow  # the functions are those of the other kernels; conjunctions call all of them
@pytest.mark.parametrize("name, reduce", each_once(TESTS, SUMS))
def test_every_test(reduce, name):
    fused(make_call(37, 70, 9, torch.float32, keep=name, positives=name, cols=True, reduce=reduce))


@pytest.mark.parametrize("keep, positives, dtype", each_once(CONJUNCTIONS, FLOATS))
def test_conjunctions(dtype, keep, positives):
    options = {"keep": keep, "positives": positives, "keep_positives": True}
    fused(make_call(37, 70, 9, dtype, *EXTRAS, blocks=2, cols=True, **options))


@pytest.mark.slow  # the functions are those of the other kernels; conjunctions call all of them
@pytest.mark.parametrize("name, block, cols", each_once(TESTS[2:-1], (0, 1), (False, True)))
def test_a_column_block_without_ids_groups_or_labels(name, block, cols):
    """Swapped, it is rows that lack them."""
    options = {"keep": name, "positives": name}
    fused(lacking(make_call(37, 70, 9, torch.float32, blocks=2, cols=cols, **options), block))


@pytest.mark.slow  # the functions are those of the other kernels; conjunctions call all of them
@pytest.mark.parametrize("extra, cols", each_once(EXTRAS, (False, True)))
def test_every_extra_alone(cols, extra):
    fused(make_call(35, 66, 9, torch.float32, extra, cols=cols))


SHAPES = [[1, 1, 1], [1, 70, 8], [70, 1, 8], [5, 6, 0], [0, 5, 4], [5, 0, 4], [0, 0, 0]]


@pytest.mark.parametrize("shape, reduce", each_once(SHAPES, SUMS), ids=str)
def test_ragged_shapes(reduce, shape):
    fused(make_call(*shape, torch.float32, *EXTRAS, reduce=reduce, cols=True, positives="same_index"))


@pytest.mark.parametrize("d, dtype", each_once((1, 8, 40, 64, 200, 256), FLOATS))
def test_every_width(d, dtype):
    fused(make_call(33, 65, d, dtype, "row_scale", cols=True, positives="same_index"))


@pytest.mark.parametrize("keep, positives, reduce", each_once(SQUARE, SUMS))
def test_square_calls(reduce, keep, positives):
    """b=None: every pair twice, as the row of either."""
    for extras in ((), ("row_high",)):
        fused(make_call(100, None, 11, torch.float32, *extras, reduce=reduce, keep=keep, positives=positives))
    shared = make_call(70, None, 11, torch.float32, "row_bias", reduce=reduce, keep=keep, positives=positives)
    fused(replace(shared, options=shared.options | {"col_bias": shared.options["row_bias"]}))


@pytest.mark.parametrize("cols", [False, True])
def test_many_chunks_and_column_blocks(cols, monkeypatch):
    """Statistics come chunk by chunk; gradients do not."""
    monkeypatch.setattr(backend_module.TritonBackend, "granularity", 32)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 32 * 64, 64, 64, 32))
    fused(make_call(70, 150, 6, torch.float16, *EXTRAS, blocks=3, positives="same_index", cols=cols))


class Grids(list):
    """The fused kernel, remembering the grids it is launched with."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        self.append(grid)
        return self.kernel[grid]


@pytest.mark.parametrize("processors, parts", [(1, 1), (5, 2), (7, 3), (100, 3)])
def test_columns_shared_out_between_programs(processors, parts, monkeypatch):
    """2 tiles of rows and 3 of columns; as rows the columns are 5 tiles, and the rows 1."""
    grids = Grids(kernels.fused)
    monkeypatch.setattr(kernels, "fused", grids)
    monkeypatch.setattr(triton_fused, "processors", lambda device: processors)
    fused(make_call(37, 150, 8, torch.float32, *EXTRAS, cols=True, positives="same_index"))
    assert set(grids) == {(2, parts), (5, 1)}


@pytest.mark.parametrize("d, copied", [(8, True), (40, True), (9, False)])
def test_tensor_descriptors(d, copied, monkeypatch):
    """The path of sm_90 and newer; where rows do not begin at multiples of 16 bytes, pointers again."""
    found = []
    monkeypatch.setattr(triton_fused, "copies_tensors", lambda device, kind: True)
    monkeypatch.setattr(triton_fused, "copyable", lambda x: found.append(triton_device.copyable(x)) or found[-1])
    fused(make_call(70, 150, d, torch.float16, *EXTRAS, blocks=2, positives="same_index", cols=True))
    assert set(found) == {copied}


@pytest.mark.parametrize("weight", [1e-7, 1.0, 1e7])
def test_float16_score_gradients_neither_underflow_nor_overflow(weight):
    check_float16_range(weight, "triton")


@pytest.mark.parametrize("reduce", SUMS)
def test_nan_stays_alone(reduce):
    a, b = torch.randn(40, 8, requires_grad=True), torch.randn(70, 8)
    with torch.no_grad():
        a[5, 3] = torch.nan
    others = torch.arange(40) != 5
    pair_reduce(a, b, reduce=reduce, backend="triton").rows[others].sum().backward()
    assert a.grad is not None and a.grad[others].isfinite().all()


def test_a_row_that_keeps_nothing():
    mask = torch.ones(40, 70, dtype=torch.bool)
    mask[33] = False
    a = torch.randn(40, 8, requires_grad=True)
    pair_reduce(a, torch.randn(70, 8), mask=mask, backend="triton").rows[33].backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_one_gradient_alone():
    extras = ("row_scale", "col_scale", "row_bias", "col_bias")
    call = make_call(40, 75, 10, torch.float32, *extras, blocks=2, positives="same_index", cols=True)
    for leaf in call.tensors():
        fused(replace(call, constant=frozenset(call.tensors()) - {leaf}))


def test_two_runs_give_equal_bits(monkeypatch):
    monkeypatch.setattr(triton_fused, "processors", lambda device: 9)
    call = make_call(70, 150, 16, torch.float32, *EXTRAS, positives="same_index", cols=True)
    weights = upstream(call)
    first, second = (engine(call, weights, backend="triton") for _ in range(2))
    assert all(torch.equal(first.grads[name], second.grads[name]) for name in first.grads)


# ---- when it is taken


@pytest.mark.parametrize(
    "change",
    [
        {"fused": {"float32": [15, 256], "float16": [256, 256]}},
        {"fused": {}},
        {"triton": "another one"},
    ],
    ids=["too many features", "not measured", "another Triton"],
)
def test_two_kernels_where_it_was_not_measured_faster(change, measured_faster, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(measured, "table", lambda: {"cpu": measured_faster | change})
    monkeypatch.setattr(triton_fused, "add_row_gradients", refuse)
    check(make_call(37, 70, 16, torch.float32, cols=True), backend="triton")


def test_two_kernels_beyond_its_widest_tile(measured_faster, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(measured, "table", lambda: {"cpu": measured_faster | {"fused": {"float32": [1024, 1024]}}})
    monkeypatch.setattr(triton_fused, "add_row_gradients", refuse)
    check(make_call(17, 20, 257, torch.float32, cols=True), backend="triton")


def test_sums_in_one_sweep_keep_their_one_product(monkeypatch):
    """pair_loss of a sum needs its scores once; the fused kernel would compute them three times."""
    monkeypatch.undo()
    monkeypatch.setattr(triton_fused, "add_row_gradients", refuse)
    a, b = (torch.randn(40, 8, requires_grad=True) for _ in range(2))
    pair_loss(a, b, reduce="softplus", backend="triton").backward()


# ---- mutations


SLOPES = {  # name: the reduce that uses it
    "lse_slope": "lse",
    "softplus_slope": "softplus",
    "softplus_positive_slope": "softplus",
    "relu_slope": "relu",
    "linear_positive_slope": "lse",
}


STEPS = {"affine": kernels, "items": kernels, "logit_slope": second, "scaled": slopes}  # and where it is called


@cache
def small(reduce):
    return make_call(
        20, 30, 8, torch.float32, "row_scale", "col_scale", reduce=reduce, positives="same_index", cols=True
    )


@pytest.mark.parametrize("name", SLOPES)
def test_a_mutated_slope_fails(name, monkeypatch):
    """One part in a thousand off is noticed: the kernel reaches the functors of `score_grad`."""
    original = getattr(functors, name)
    fused(small(SLOPES[name]))
    monkeypatch.setattr(functors, name, lambda *x: original(*x) * 1.001)
    with pytest.raises(AssertionError, match="times the budget"):
        fused(small(SLOPES[name]))


@pytest.mark.parametrize("name", STEPS)
def test_a_mutated_step_fails(name, monkeypatch):
    original = getattr(STEPS[name], name)
    fused(small("lse"))
    monkeypatch.setattr(STEPS[name], name, lambda *x: original(*x) * 1.001)
    with pytest.raises(AssertionError):
        fused(small("lse"))


def test_an_order_that_is_not_turned_round_fails(monkeypatch):
    """Gradients of columns come from swapped sides."""
    call = make_call(20, 30, 8, torch.float32, keep="lower_order")
    fused(call)
    monkeypatch.setattr(triton_fused, "swapped", lambda block: replace(block, row=block.col, col=block.row))
    with pytest.raises(AssertionError):
        fused(call)
