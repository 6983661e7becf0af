"""Properties over random calls: the oracle, permutations, column blocks, the merge monoid, shifts and scales."""

from dataclasses import replace
from functools import reduce as fold

import pytest

from support.rules import REDUCES

pytest.importorskip("hypothesis")

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from contrastile import pair_reduce, row_lse
from contrastile.monoid import SideStats, finish, merge, neutral
from contrastile.spec import PairSpec, Reduce
from support.cases import BACKEND_DTYPES, EXTRAS, make_call
from support.oracle import STATISTICS, Call, check, oracle, upstream

KEEPS = ("all", "other_index", "other_id", "same_id")
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
ENGINE = settings(deadline=None, derandomize=True, suppress_health_check=SLOW)


def strided(x):
    return x.new_zeros([2 * size for size in x.shape])[tuple(slice(None, None, 2) for _ in x.shape)].copy_(x)


LAYOUTS = {"contiguous": lambda x: x, "strided": strided, "transposed": lambda x: x.t().contiguous().t()}


@st.composite
def calls(draw, dtypes=(torch.float32,), extras=EXTRAS, keeps=KEEPS, reduces=REDUCES, square=True):
    """Any call of pair_reduce; most values are small, so that failures shrink to something legible."""
    n, m, d = draw(st.integers(0, 45)), draw(st.integers(0, 80)), draw(st.integers(0, 20))
    reduce, dtype = draw(st.sampled_from(reduces)), draw(st.sampled_from(dtypes))
    assume(reduce != "max" or d > 2)  # no exact ties
    positives = None if reduce == "max" else draw(st.sampled_from([None, "same_index", "same_id"]))
    chosen = draw(st.sets(st.sampled_from(extras))) if extras else ()
    b_is_a = square and positives is None and draw(st.booleans())
    options = {"reduce": reduce, "positives": positives, "keep": draw(st.sampled_from(keeps))}
    options |= {"keep_positives": draw(st.booleans()), "cols": draw(st.booleans())}
    call = make_call(
        n, None if b_is_a else m, d, dtype, *sorted(chosen), **options,
        blocks=draw(st.integers(1, 3)), scale=draw(st.sampled_from([0.0, 0.5, 4.0, -8.0, 64.0])),
        seed=draw(st.integers(0, 10**6)),
    )  # fmt: skip
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    b = None if call.b is None else tuple(layout(x) for x in call.b)
    return replace(call, a=layout(call.a), b=b)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=150)
@given(data=st.data())
def test_any_call_agrees_with_the_oracle(backend, data):
    dtypes = [dtype for name, dtype in BACKEND_DTYPES if name == backend]
    call = data.draw(calls(dtypes))
    check(call, backend=backend, memory_budget=data.draw(st.sampled_from([None, 0, 5000, 10**7])))


def assert_within(found, expected, call):
    """Two results of the engine differ by at most what either may be off."""
    _, limit = oracle(call, upstream(call))
    for name, x in found.items():
        finite = torch.where(expected[name].isinf(), 0.0, x.double() - expected[name].double())
        assert torch.equal(x.isinf(), expected[name].isinf())
        assert (finite.abs() <= 2 * limit.values[name]).all(), name


def named(found):
    return {name: x for name in STATISTICS if (x := getattr(found, name)) is not None}


def permuted(call, rows, cols):
    by_row = ("row_bias", "row_ids", "row_low", "row_high")
    by_col = ("col_scale", "col_bias", "col_ids", "col_low", "col_high")
    options = dict(call.options)
    for names, order in ((by_row, rows), (by_col, cols)):
        options |= {name: options[name][order] for name in names if name in options}
    if options["scale"].dim():
        options["scale"] = options["scale"][rows]
    if "mask" in options:
        options["mask"] = options["mask"][rows][:, cols]
    return replace(call, a=call.a[rows], b=(torch.cat(call.b)[cols],), options=options)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(keeps=("all", "same_id", "other_id"), square=False), seed=st.integers(0, 999))
def test_permuting_items_permutes_statistics(backend, call, seed):
    assume(call.options["positives"] != "same_index")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(call.a), generator=generator)
    cols = torch.randperm(sum(map(len, call.b)), generator=generator)
    expected = named(pair_reduce(call.a, call.b, **call.options, backend=backend))
    other = permuted(call, rows, cols)
    found = named(pair_reduce(other.a, other.b, **other.options, backend=backend))
    order = {name: rows if name.startswith("row") else cols for name in found}
    assert_within(found, {name: x[order[name]] for name, x in expected.items()}, other)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(square=False), cuts=st.lists(st.integers(0, 80), max_size=5))
def test_splitting_columns_into_blocks_changes_nothing(backend, call, cuts):
    whole = torch.cat(call.b)
    parts = tuple(whole.tensor_split(sorted(min(cut, len(whole)) for cut in cuts)))
    expected = named(pair_reduce(call.a, whole, **call.options, backend=backend))
    found = named(pair_reduce(call.a, parts, **call.options, backend=backend))
    assert_within(found, expected, replace(call, b=(whole,)))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(extras=(), keeps=("all", "same_id", "other_id"), square=False))
def test_columns_are_the_rows_of_the_exchanged_call(backend, call):
    b = torch.cat(call.b)
    ids = ("row_ids", "col_ids")
    exchanged = {name: call.options[other] for name, other in zip(ids, ids[::-1], strict=True) if other in call.options}
    options = call.options | {"cols": True}
    expected = pair_reduce(call.a, b, **options, backend=backend)
    found = pair_reduce(b, call.a, **options | exchanged, backend=backend)
    other = replace(call, a=b, b=(call.a,), options=options | exchanged)
    pairs = {"rows": expected.cols, "cols": expected.rows}
    assert_within({name: getattr(found, name) for name in pairs}, pairs, other)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(extras=(), reduces=("lse",), square=False), shift=st.floats(-300, 300, width=16))
def test_a_bias_shifts_row_lse(backend, call, shift):
    assume(call.options["positives"] is None)
    call = replace(call, options=call.options | {"cols": False})
    options = {name: x for name, x in call.options.items() if name not in ("reduce", "cols")}
    n, m = len(call.a), sum(map(len, call.b))
    plain = row_lse(call.a, call.b, **options, backend=backend)
    for bias in ({"row_bias": torch.full((n,), shift)}, {"col_bias": torch.full((m,), shift)}):
        shifted = row_lse(call.a, call.b, **options, **bias, backend=backend)
        biased = replace(call, options=call.options | bias)
        assert_within({"rows": shifted}, {"rows": plain + shift}, biased)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(extras=(), keeps=("same_id",), reduces=("lse",), square=False))
def test_equal_and_other_ids_together_are_all_pairs(backend, call):
    options = {"scale": call.options["scale"], "backend": backend}
    ids = {name: call.options[name] for name in ("row_ids", "col_ids")}
    parts = [row_lse(call.a, call.b, keep=k, **ids, **options) for k in ("same_id", "other_id")]
    whole = row_lse(call.a, call.b, **options)
    call = Call(call.a, call.b, {"scale": call.options["scale"]})
    assert_within({"rows": torch.logaddexp(*parts)}, {"rows": whole}, call)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@settings(ENGINE, max_examples=40)
@given(call=calls(extras=(), square=False), power=st.integers(-6, 6))
def test_a_power_of_two_moves_freely_between_features_and_scale(backend, call, power):
    """Exactly: it changes exponents only."""
    options = call.options | {"scale": call.options["scale"] * 2.0**-power}
    expected = named(pair_reduce(call.a, call.b, **call.options, backend=backend))
    found = named(pair_reduce(call.a * 2.0**power, call.b, **options, backend=backend))
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


# ---- the merge monoid


@st.composite
def partial_stats(draw, reduce, n=4):
    """A partial statistic of n items; some of them are empty."""
    values = st.one_of(st.just(-torch.inf), st.floats(-500, 500, width=32))
    peak = torch.tensor(draw(st.lists(values, min_size=n, max_size=n)))
    empty = peak == -torch.inf
    seed = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    total = torch.where(empty, 0.0, 1.0 + torch.rand(n, generator=seed))
    arg = torch.where(empty, -1, torch.randint(0, 1000, (n,), generator=seed))
    positive = torch.randn(n, generator=seed)
    drawn = {"peak": peak, "total": total, "positive": positive, "arg": arg}
    return SideStats(**{name: drawn[name] for name in PairSpec(reduce).numbers})


def assert_same(x, y):
    assert_close(finish(x), finish(y), rtol=1e-5, atol=1e-5)
    assert_close(x.positive, y.positive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", list(Reduce))
@settings(ENGINE, max_examples=40)
@given(data=st.data())
def test_merge_is_a_commutative_monoid(reduce, data):
    x, y, z = (data.draw(partial_stats(reduce)) for _ in range(3))
    nothing = neutral(PairSpec(reduce).numbers, torch.empty(0), 4)
    assert_same(merge(x, y), merge(y, x))
    assert_same(merge(merge(x, y), z), merge(x, merge(y, z)))
    for one in (merge(x, nothing), merge(nothing, x)):
        assert torch.equal(finish(one), finish(x))
        assert torch.equal(one.positive, x.positive)
        assert reduce != Reduce.MAX or torch.equal(one.arg, x.arg)


@pytest.mark.parametrize("reduce", list(Reduce))
def test_merge_never_loses_nan(reduce):
    """NaN is in the total of lse and of sums, in the peak of max."""
    n = 4
    bad = neutral(PairSpec(reduce).numbers, torch.empty(0), n)
    (bad.peak if reduce == Reduce.MAX else bad.total)[2] = torch.nan
    good = neutral(PairSpec(reduce).numbers, torch.empty(0), n)
    for name in ("peak", "total"):
        if getattr(good, name) is not None:
            getattr(good, name).fill_(3.0)
    for order in ([bad, good, good], [good, bad, good], [good, good, bad]):
        found = finish(fold(merge, order)).sum(1)
        assert torch.equal(found.isnan(), torch.arange(n) == 2)
