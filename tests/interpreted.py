"""Tests of the Triton kernels in Triton's interpreter, on the CPU; test_interpreted.py runs them.

The interpreter must be chosen before the kernels are imported, so these have a process of their own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from contrastile import backends, driver, pair_loss, pair_reduce, spec
from contrastile.backends import base, triton_device, triton_launch, triton_segments
from contrastile.backends import triton as backend_module
from contrastile.backends.cpu import CpuBackend
from contrastile.spec import FLOOR, Limits, Reduce, Score
from contrastile.triton_kernels import config, functors, lean, partials, rules, slopes, tiles
from support import distances, launches, segments
from support.cases import EXTRAS, lacking, make_call
from support.combinations import each_once
from support.oracle import Call, check, check_float16_range, engine, engine_loss, upstream
from support.rules import CONJUNCTIONS, KEEPS, LIMITS, POSITIVES, REDUCES, SQUARE, SUMS, TESTS, TYPED_KEEPS


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """No other backend may do the work."""

    def refuse(*_):
        raise AssertionError("another backend was asked")

    for other in (CpuBackend, type(backends.BACKENDS[-1])):
        for name in ("stats", "score_grad"):
            monkeypatch.setattr(other, name, refuse)


def triton(call, **options):
    return check(call, backend="triton", **options)


@pytest.mark.parametrize("dtype, keep, reduce", each_once(TYPED_KEEPS, REDUCES))
def test_every_reduce_and_keep(dtype, reduce, keep):
    """Bare, and with all scales, biases, thresholds, a mask and two column blocks at once; more than one tile."""
    positives = {} if reduce == "max" else {"positives": POSITIVES[KEEPS.index(keep) % 4], "keep_positives": True}
    for extras, blocks in ((((), 1),) if dtype == torch.float32 else ()) + ((EXTRAS, 2),):
        triton(make_call(37, 70, 19, dtype, *extras, blocks=blocks, keep=keep, reduce=reduce, cols=True, **positives))


@pytest.mark.parametrize("positives, reduce", each_once(POSITIVES, SUMS))
def test_every_positives(reduce, positives):
    for keep_positives in (False, True):
        options = {"reduce": reduce, "positives": positives, "keep_positives": keep_positives, "keep": "other_id"}
        triton(make_call(34, 66, 5, torch.float32, *LIMITS, cols=keep_positives, **options))


def calls_of(name, dtype, **options):
    """The test as what is kept and, but for maxima, as what is positive; two column blocks, labels of two words."""
    yield make_call(37, 70, 9, dtype, blocks=2, keep=name, cols=True, **options)
    if options.get("reduce") != "max":
        yield make_call(37, 70, 9, dtype, blocks=2, positives=name, cols=True, **options)


@pytest.mark.parametrize("name, reduce", each_once(TESTS, REDUCES))
def test_every_test(reduce, name):
    for call in calls_of(name, torch.float32, reduce=reduce):
        triton(call)


@pytest.mark.parametrize("keep, positives, dtype", each_once(CONJUNCTIONS, (torch.float32, torch.float16)))
def test_conjunctions(dtype, keep, positives):
    options = {"keep": keep, "positives": positives, "keep_positives": True}
    triton(make_call(37, 70, 9, dtype, *EXTRAS, blocks=2, cols=True, **options))


@pytest.mark.parametrize("name, block, cols", each_once(TESTS[2:-1], (0, 1), (False, True)))
def test_a_column_block_without_ids_groups_or_labels(name, block, cols):
    for options in ({"keep": name}, {"positives": name, "keep": ("other_id", "no_shared_label")}):
        triton(lacking(make_call(37, 70, 9, torch.float32, blocks=2, cols=cols, **options), block))


def test_limits_are_open_below_and_closed_above():
    a, b = torch.eye(4), torch.tensor([[2.0, 1, 1, 1], [1, 2, 1, 1], [3, 1, 2, 1]])
    a[3] = torch.nan
    options = {"row_low": torch.tensor([1.0, 1.0, 0.5, 5.0]), "row_high": torch.tensor([2.0, 1.5, 1.0, 6.0])}
    rows = pair_reduce(a, b, reduce="max", backend="triton", **options).rows
    expected = torch.tensor([2.0, -torch.inf, 1.0, torch.nan])  # NaN is outside no limit
    torch.testing.assert_close(rows, expected, rtol=0.0, atol=0.0, equal_nan=True)
    options = {name.replace("row", "col"): x for name, x in options.items()}
    cols = pair_reduce(b, a, reduce="max", cols=True, backend="triton", **options).cols
    torch.testing.assert_close(cols, expected, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("extra, reduce", each_once(EXTRAS, ("lse", "softplus")))
def test_every_extra_alone(reduce, extra):
    triton(make_call(35, 66, 9, torch.float32, extra, reduce=reduce, cols=True))


SHAPES = [
    [1, 1, 1], [1, 1, 0], [1, 7, 3], [7, 1, 3], [5, 6, 0], [0, 5, 4], [5, 0, 4], [0, 0, 0],
    [33, 65, 33], [64, 128, 32],
]  # fmt: skip


@pytest.mark.parametrize("shape, reduce", each_once(SHAPES, REDUCES), ids=str)
def test_ragged_shapes(reduce, shape):
    positives = {} if reduce == "max" else {"positives": "same_index"}
    triton(make_call(*shape, torch.float32, *EXTRAS, reduce=reduce, cols=True, **positives))


@pytest.mark.parametrize("keep, positives, reduce", each_once(SQUARE, REDUCES))
def test_square_calls(reduce, keep, positives, monkeypatch):
    """b=None: a chunk's own square, then the columns after it in both sides."""
    monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    monkeypatch.setattr(backend_module.TritonBackend, "granularity", 32)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 32 * 64, 64, 32, 32))
    options = {"reduce": reduce, "keep": keep} | ({} if reduce == "max" else {"positives": positives})
    triton(make_call(100, None, 11, torch.float32, **options))


@pytest.mark.parametrize("cols", [False, True])
def test_many_chunks_and_column_blocks(cols, monkeypatch):
    monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    monkeypatch.setattr(backend_module.TritonBackend, "granularity", 32)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 32 * 64, 64, 64, 32))
    triton(make_call(70, 150, 6, torch.float16, *EXTRAS, blocks=2, positives="same_index", cols=cols), memory_budget=0)


@pytest.mark.parametrize("d, persistent", each_once((8, 40, 9), (False, True)))
def test_tensor_descriptors(d, persistent, monkeypatch):
    """The path of sm_90 and newer; where rows do not begin at multiples of 16 bytes, pointers again."""
    copied = []
    monkeypatch.setattr(triton_launch, "copies_tensors", lambda device, kind: True)
    monkeypatch.setattr(triton_launch, "copyable", lambda x: copied.append(triton_device.copyable(x)) or copied[-1])
    tile = replace(config.INTERPRETER, per_processor=int(persistent))
    monkeypatch.setattr(triton_launch, "tile_for", lambda *_: tile)
    for extras, blocks in (((), 1), (EXTRAS, 2)):
        triton(make_call(70, 150, d, torch.float16, *extras, blocks=blocks, positives="same_index", cols=True))
    x = distances.problem(37, 70, d, 3, torch.float32, True)
    distances.check(x, "distance", True, backend="triton")
    assert set(copied) == {d % 8 == 0}


@pytest.mark.parametrize("weight", [1e-7, 1.0, 1e7])
def test_float16_score_gradients_neither_underflow_nor_overflow(weight):
    """Weights as a mean over 10^7 rows has them, repaired by a loss scaler in backward, and the other way round."""
    check_float16_range(weight, "triton")


def test_bfloat16_is_widened_in_the_interpreter():
    triton(make_call(37, 70, 19, torch.bfloat16, *EXTRAS, positives="same_index", cols=True))


@pytest.mark.parametrize(
    "tiles, offset, score", each_once([(1, True), (1, False), (3, True), (2, False)], distances.SCORES)
)
def test_distances_from_flats(score, tiles, offset):
    x = distances.problem(37, 70, 16, tiles, torch.float32, offset)
    distances.check(x, score, offset, backend="triton")


@pytest.mark.parametrize("score", distances.SCORES)
def test_points_nearer_than_rounding(score):
    distances.check_the_floor("triton", torch.float32, score)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("score", distances.SCORES)
def test_a_distance_that_is_not_finite_stays_alone(score, value):
    distances.check_a_row_that_is_not_finite("triton", score, value)


@pytest.mark.parametrize("reduce", REDUCES)
def test_nan_stays_nan_and_stays_alone(reduce):
    a, b = torch.randn(40, 8, requires_grad=True), torch.randn(70, 8)
    with torch.no_grad():
        a[5, 3] = torch.nan
    rows = pair_reduce(a, b, reduce=reduce, backend="triton").rows
    rows[torch.arange(40) != 5].sum().backward()
    assert rows[5].isnan() and rows[torch.arange(40) != 5].isfinite().all()
    assert a.grad is not None and a.grad[torch.arange(40) != 5].isfinite().all()


@pytest.mark.parametrize("reduce, empty", [("lse", -torch.inf), ("max", -torch.inf), ("softplus", 0.0), ("relu", 0.0)])
def test_a_row_that_keeps_nothing(reduce, empty):
    mask = torch.ones(40, 70, dtype=torch.bool)
    mask[33] = False
    a = torch.randn(40, 8, requires_grad=True)
    rows = pair_reduce(a, torch.randn(70, 8), mask=mask, reduce=reduce, backend="triton").rows
    rows[33].backward()
    assert rows[33] == empty and torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_large_scales(scale):
    triton(make_call(40, 70, 16, torch.float32, scale=scale, positives="same_index", cols=True))


def test_small_softplus_terms_keep_their_digits():
    """Terms of e^-20 are what a million negatives of SigLIP sum up."""
    a, b = torch.ones(1, 1), torch.linspace(-30.0, -8.0, 100)[:, None]
    rows = pair_reduce(a, b, reduce="softplus", backend="triton").rows
    truth = torch.log1p(b.double().exp()).sum()
    assert abs(rows.item() / truth.item() - 1.0) < 1e-6


def test_two_runs_give_equal_bits():
    call = make_call(70, 150, 16, torch.float32, *EXTRAS, positives="same_index", cols=True)
    weights = upstream(call)
    first, second = (engine(call, weights, backend="triton") for _ in range(2))
    for x, y in ((first.values, second.values), (first.grads, second.grads)):
        assert all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that ran, in order."""
    names, run = [], GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", lambda x, *a, **k: names.append(x.fn.__name__) or run(x, *a, **k))
    return names


@pytest.mark.parametrize("small_call", [True, False])
@pytest.mark.parametrize(
    "reduce, kernels",
    [
        ("softplus", ["score_grad", "merge", "merge"]),
        ("relu", ["score_grad", "merge", "merge"]),
        ("lse", ["stats", "merge", "merge", "score_grad"]),
    ],
)
def test_the_kernels_of_a_loss(reduce, kernels, small_call, launched, monkeypatch):
    """SigLIP takes 6 N^2 D without keeping scores: no sweep of `stats`. Partial results of a side: one kernel; where
    the call is done at once, of both sides."""
    if small_call:
        kernels = [name for name in kernels if name != "merge"]
        kernels.insert(1, "finish")
    monkeypatch.setattr(base, "SMALL_PAIRS", 1600 if small_call else 1599)
    a, b = (torch.randn(40, 8, requires_grad=True) for _ in range(2))
    pair_loss(a, b, reduce=reduce, cols=True, col_weight=1.0, backend="triton").backward()
    assert launched == kernels


@pytest.mark.parametrize("m", [70, None])
@pytest.mark.parametrize("reduce", SUMS)
def test_calls_done_at_once_and_in_steps_agree(reduce, m, monkeypatch):
    extras = EXTRAS if m else ("row_bias", "row_ids")
    call = make_call(40, m, 8, torch.float32, *extras, reduce=reduce, positives="same_id", cols=m is not None)
    weights = upstream(call)
    found = []
    for limit in (40 * 70, 0):
        monkeypatch.setattr(base, "SMALL_PAIRS", limit)
        result = engine_loss(call, weights, backend="triton")
        found.append(result.values | result.grads)
    for name, x in found[0].items():
        torch.testing.assert_close(x, found[1][name], rtol=1e-4, atol=1e-5)


def test_the_scores_are_not_kept():
    assert not backend_module.TritonBackend().saves_scores


def test_named_and_auto():
    x = torch.randn(5, 4)
    assert backends.select("auto", x.device, x.dtype, 25).name == "cpu"
    with pytest.raises(backends.BackendUnsupported, match="float64 features need the torch backend"):
        pair_loss(x.double(), x.double(), backend="triton")
    with pytest.raises(backends.BackendUnsupported, match="it needs cpu"):
        pair_reduce(x.to("meta"), x.to("meta"), backend="triton")


# ---- reduces over segments


@pytest.mark.parametrize(
    "name, dtype", each_once(list(segments.RAGGED), (torch.float32, torch.float16, torch.bfloat16))
)
def test_maxima_over_ragged_segments(name, dtype):
    """Segments shorter and longer than a tile, that begin anywhere; rows beyond a tile."""
    for n, d, extra in ((5, 7, 0), (37, 40, 11)):
        problem = segments.problem(n, segments.RAGGED[name], d, dtype, d == 40, extra)
        for way in segments.HOW if name in ("ragged", "primes", "columns before the first") else ("max",):
            segments.check(segments.how(problem, way), "triton")


@pytest.mark.parametrize("way", segments.MORE)
def test_sharpness_large_and_small(way):
    segments.check(segments.how(segments.problem(11, segments.RAGGED["ragged"], 7, masked=True), way), "triton")


def test_maxima_over_segments_of_one_length():
    for length, count in ((1, 9), (33, 2), (64, 3), (130, 2)):
        problem = segments.problem(6, [length * s for s in range(count + 1)], 5, masked=length > 1)
        for way in ("max", "softmax_mean"):
            segments.check(segments.how(replace(problem, segments=length), way), "triton")


@pytest.mark.parametrize("d", [8, 40, 9], ids=["one step", "several", "rows not aligned"])
def test_maxima_over_segments_with_tensor_descriptors(d, monkeypatch):
    copied = []
    monkeypatch.setattr(triton_segments, "copies_tensors", lambda device, kind: True)
    monkeypatch.setattr(triton_segments, "copyable", lambda x: copied.append(triton_device.copyable(x)) or copied[-1])
    for dtype in (torch.float32, torch.float16):
        for name in ("ragged", "one long", "primes"):
            problem = segments.problem(37, segments.RAGGED[name], d, dtype, True, 5)
            segments.check(segments.how(problem, "lse" if name == "primes" else "max"), "triton")
    assert (d % 8 == 0) == all(copied)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite(value):
    for way in segments.HOW:
        segments.check_nan_and_infinity("triton", value, way)
        if value != -torch.inf:
            segments.check_dropped_columns("triton", value, way)


def test_the_first_of_equal_columns_and_of_nan():
    segments.check_equal_columns("triton")
    segments.check_the_first_nan("triton")
    segments.check_minus_infinity("triton")


def test_small_tiles_for_short_segments():
    tile = config.Tile(128, 128, 64, 8, 4)
    widths = [triton_segments.narrowed(tile, average).cols for average in (0, 1, 32, 63, 64, 65, 127, 128, 10**6)]
    assert widths == [32, 32, 32, 64, 64, 128, 128, 128, 128]


def test_a_mutated_maximum_fails(monkeypatch):
    """The last of equals instead of the first."""
    import triton.language as tl

    from contrastile.triton_kernels import segments as kernels

    def last(z, others, AXIS):
        peak = tl.max(z, AXIS)
        return peak, tl.max(tl.where(z == peak[:, None], others[None, :], -1), AXIS)

    monkeypatch.setattr(kernels, "first_maximum", last)
    with pytest.raises(AssertionError):
        segments.check_equal_columns("triton")


# ---- functors


def test_constants_equal_those_of_the_specification():
    for enum, names in (
        (Reduce, ("LSE", "SOFTPLUS", "RELU", "MAX")),
        (Score, ("DOT", "SQUARED_DISTANCE", "DISTANCE", "LOG_DISTANCE")),
    ):
        assert [getattr(functors, name).value for name in names] == [enum[name] for name in names]
    assert {test.name: getattr(rules, test.name).value for test in spec.PairTest} == {
        test.name: int(test) for test in spec.PairTest
    }
    peaks = [reduce for reduce in Reduce if reduce.traits.peak]
    assert functors.PEAKS.value == sum(1 << reduce for reduce in peaks)
    assert tiles.FLOOR.value == FLOOR[torch.float32]


FUNCTORS = {  # name: the reduce or score that uses it
    "lse_slope": "lse",
    "softplus_term": "softplus",
    "softplus_slope": "softplus",
    "softplus_positive_term": "softplus",
    "softplus_positive_slope": "softplus",
    "log1p_unit": "softplus",
    "relu_term": "relu",
    "relu_slope": "relu",
    "linear_positive_term": "lse",
    "linear_positive_slope": "relu",
    "squared_distance_value": "squared_distance",
    "squared_distance_slope": "squared_distance",
    "distance_value": "distance",
    "distance_slope": "distance",
    "log_distance_value": "log_distance",
    "log_distance_slope": "log_distance",
}


@cache
def mutants(name):
    """Small calls that the test decides, as kept and as positive; without shares, which no other pairs have."""
    calls = [make_call(20, 30, 8, torch.float32, **{role: name}) for role in ("keep", "positives")]
    return [replace(x, options={k: v for k, v in x.options.items() if k != "share"}) for x in calls]


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_holds_for_all_fails(name, monkeypatch):
    """Each test is reached, in either rule, and what the calls above compare depends on it."""
    original, others = rules.holds, ~spec.PairTest[name.upper()]
    for call in mutants(name):
        triton(call)
    for module in (rules, lean):
        monkeypatch.setattr(module, "holds", lambda tests, *x: original(int(tests) & others, *x))
    for call in mutants(name):
        with pytest.raises(AssertionError):
            triton(call)


@pytest.mark.parametrize("name", LIMITS)
def test_a_forgotten_limit_fails(name, monkeypatch):
    axis, field = {"row": 1, "col": 0}[name[:3]], name[4:]
    call, side_z = make_call(20, 30, 8, torch.float32, name, cols=True), rules.side_z

    def forgetful(z, positive, drop, side, *rest):
        return side_z(z, positive, drop, side._replace(**{field: None}) if rest[-1] == axis else side, *rest)

    triton(call)
    for module in (partials, slopes):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(module, "side_z", forgetful)
            triton(call)


def test_a_label_of_the_second_word_is_compared(monkeypatch):
    a, labels = torch.randn(20, 8), torch.zeros(20, 70, dtype=torch.bool)
    labels[::3, 69] = True
    call = Call(a, (a,), {"keep": "shared_label", "row_labels": labels, "col_labels": labels})
    triton(call)
    shared = rules.shared
    monkeypatch.setattr(rules, "shared", lambda X, Y, words, *rest: shared(X, Y, 1, *rest))
    with pytest.raises(AssertionError):
        triton(call)


def run_functor(use):
    if use in SUMS:
        triton(make_call(20, 30, 8, torch.float32, reduce=use, positives="same_index", cols=True))
    else:
        distances.check(distances.problem(20, 30, 8, 1, torch.float32), use, True, backend="triton")


unmutated = cache(run_functor)  # once for all that a reduce or score uses


@pytest.mark.parametrize("name", FUNCTORS)
def test_a_mutated_functor_fails(name, monkeypatch):
    """One part in a thousand off is noticed: each functor is reached, and the budgets above are tight."""
    original = getattr(functors, name)
    unmutated(FUNCTORS[name])
    monkeypatch.setattr(functors, name, lambda *x: original(*x) * 1.001)
    with pytest.raises(AssertionError):
        run_functor(FUNCTORS[name])


def test_every_functor_is_mutated():
    values = [name for name in vars(functors) if name.endswith(("_term", "_slope", "_value", "_unit"))]
    chosen = {"positive_term", "positive_slope", "score_value", "score_slope"}  # choose among the others
    assert set(values) - chosen == set(FUNCTORS)


def test_one_gradient_alone():
    extras = ("row_scale", "col_scale", "row_bias", "col_bias")
    call = make_call(40, 75, 10, torch.float32, *extras, positives="same_index", cols=True)
    for leaf in call.tensors():
        triton(replace(call, constant=frozenset(call.tensors()) - {leaf}))


@pytest.mark.parametrize("name", launches.LOSSES)
def test_small_batches_take_no_more_launches_than_eager_code(name, monkeypatch):
    """Where launches are what a loss costs."""
    counter, run = launches.Launches(), GridExecutor.__call__
    monkeypatch.setattr(
        GridExecutor, "__call__", lambda x, *a, **k: counter.kernel(x.fn.__name__, partial(run, x), *a, **k)
    )
    found = launches.count(launches.LOSSES[name], counter, backend="triton")
    eager = launches.count(launches.EAGER[name], launches.Launches())
    assert "score_grad" in found and len(found) <= len(eager), (found, eager)
    assert (len(found), len(eager)) == tuple(launches.documented(name, x) for x in ("triton", "eager"))
