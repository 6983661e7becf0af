"""Rules of pairs beyond tests/test_pair.py: any conjunction, operands at their edges, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import contrastile
from contrastile import pair_loss, pair_reduce
from support.cases import lacking, make_call
from support.oracle import check
from support.rules import LIMITS, TESTS

BACKENDS = ("torch", "cpu")
KINDS = (("same_index", "other_index"), ("same_id", "other_id"), ("same_group", "other_group"))
CONTRARY = [set(kind) for kind in (*KINDS, ("shared_label", "no_shared_label"), ("partner", "no_partner"))]
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)


def consistent(rule: tuple[str, ...]) -> bool:
    return not any(pair <= set(rule) for pair in CONTRARY)


CONJUNCTIONS = [rule for size in (2, 3) for rule in itertools.combinations(TESTS, size) if consistent(rule)]


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    keep=st.sampled_from(CONJUNCTIONS), positives=st.sampled_from([None, "kept", *CONJUNCTIONS]),
    reduce=st.sampled_from(["lse", "softplus"]), limits=st.sets(st.sampled_from(LIMITS)), square=st.booleans(),
    keep_positives=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    split=st.booleans(), counts=st.booleans(),
)  # fmt: skip
@on_every_backend
def test_any_conjunction(backend, keep, positives, reduce, limits, square, keep_positives, dtype, split, counts):
    if backend == "cpu" and dtype == torch.float64:
        dtype = torch.float16
    if square and positives not in (None, "kept") and "same_index" in positives:
        positives = None  # an item is never its own positive
    size = (23, None) if square else (19, 40)
    call = make_call(
        *size, 7, dtype, *sorted(limits), blocks=2, reduce=reduce, keep=keep, positives=positives, cols=True,
        keep_positives=keep_positives, split=split and reduce == "lse" and positives not in (None, "kept"),
        counts=counts,
    )  # fmt: skip
    check(call, backend=backend)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("name", [test for test in TESTS if test.rpartition("_")[2] in ("id", "group", "label")])
@on_every_backend
def test_a_block_without_an_operand_is_unlike_every_row(backend, name, block):
    for kind in ("keep", "positives"):
        check(lacking(make_call(17, 30, 5, blocks=2, cols=True, **{kind: name}), block), backend=backend)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
@on_every_backend
def test_any_number_of_labels(backend, count):
    """The last bit of a word is its sign."""
    g = torch.Generator().manual_seed(count)
    a, b = torch.randn(9, 4, generator=g), torch.randn(13, 4, generator=g)
    row, col = (torch.rand(n, count, generator=g) < 1.5 / max(count, 1) for n in (9, 13))
    row[:1, -1:], col[:1, -1:] = True, True
    found = pair_reduce(a, b, keep="shared_label", row_labels=row, col_labels=col, backend=backend).rows
    meet = (row.double() @ col.double().T) > 0
    torch.testing.assert_close(found, (a @ b.T).masked_fill(~meet, -torch.inf).logsumexp(1))


ORDERS = {
    "float": torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-300, 1.0, 1.0, torch.inf], dtype=torch.float64),
    "close": 1.0 + torch.arange(8, dtype=torch.float64) * 2.0**-52,
    "float32": torch.tensor([3.0, -2.0, 5.0, 5.0, 0.0, -7.0, 1.0, 2.0]),
    "int64": torch.tensor([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, 0, -1, 1, 1]),
}


@pytest.mark.parametrize("name", ORDERS)
@on_every_backend
def test_orders_are_compared_exactly(backend, name):
    order = ORDERS[name]
    a, b = torch.randn(8, 3), torch.randn(8, 3)
    lower = order < order[:, None]
    truth = (a @ b.T).masked_fill(~lower, -torch.inf).logsumexp(1)
    options = {"keep": "lower_order", "row_order": order, "backend": backend}
    torch.testing.assert_close(pair_reduce(a, b, col_order=order, **options).rows, truth)
    truth = (a @ a.T).masked_fill(~lower, -torch.inf)
    found = pair_reduce(a, cols=True, **options)
    torch.testing.assert_close(found.rows, truth.logsumexp(1))
    torch.testing.assert_close(found.cols, truth.logsumexp(0))


@on_every_backend
def test_limits_are_open_below_and_closed_above(backend):
    a, b = torch.tensor([[1.0], [1.0], [torch.nan]]), torch.tensor([[1.0], [2.0], [3.0]])
    low, high = torch.tensor([1.0, 0.5, 1.0]), torch.tensor([2.0, 3.0, 2.0])
    found = pair_reduce(a, b, row_low=low, row_high=high, reduce="softplus", backend=backend).rows
    kept = torch.tensor([[False, True, False], [True, True, True]])
    truth = (torch.nn.functional.softplus(a[:2] @ b.T) * kept).sum(1)
    torch.testing.assert_close(found[:2], truth)
    assert found[2].isnan()  # NaN is outside no limit


@on_every_backend
def test_a_limit_just_below_the_maximum_drops_it(backend):
    """What "max" reports is the z that limits compare."""
    a, b = (torch.nn.functional.normalize(torch.randn(n, 24), dim=1) for n in (80, 300))
    first = pair_reduce(a, b, reduce="max", cols=True, backend=backend)
    below = [torch.nextafter(x, torch.full_like(x, -9.0)) for x in first[:2]]
    limits = {"row_high": below[0], "col_high": below[1]}
    second = pair_reduce(a, b, reduce="max", cols=True, backend=backend, **limits)
    assert (second.rows < first.rows).all() and (second.cols < first.cols).all()
    again = pair_reduce(a, b, reduce="max", row_high=first.rows, backend=backend).rows
    assert torch.equal(again, first.rows)


@pytest.mark.parametrize("square", [False, True])
@on_every_backend
def test_joining_two_rows_that_keep_nothing_makes_no_nan_gradient(backend, square):
    a = torch.randn(6, 8, requires_grad=True)
    ids = {"keep": "same_id", "row_ids": torch.arange(6)} | ({} if square else {"col_ids": torch.arange(6) + 100})
    options = ids | ({"keep": ("same_id", "other_index")} if square else {})
    first, second = (pair_reduce(a, None if square else a, cols=True, backend=backend, **options) for _ in range(2))
    for name in ("rows", "cols"):
        both = torch.logaddexp(getattr(first, name), getattr(second, name))
        (grad,) = torch.autograd.grad(torch.where(both.isinf(), 0.0, both).sum(), a, retain_graph=True)
        assert torch.equal(grad, torch.zeros_like(a))


@pytest.mark.parametrize("dynamic", [False, True])
def test_rules_are_compiled(dynamic):
    call = make_call(12, 20, 6, keep=("other_group", "lower_order"), positives="shared_label", cols=True, blocks=2)

    def loss(a, b):
        return pair_loss(a, [b, b * 2], row_positive_weight=0.5, **call.options)

    b = call.b[0]
    names = ("col_groups", "col_labels", "col_order")
    call.options.update({name: torch.cat([call.options[name][: len(b)]] * 2) for name in names})
    call.options["backend"] = "torch"
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="eager")
    assert torch.equal(compiled(call.a, b), loss(call.a, b))


A, B, IDS = torch.randn(4, 3), torch.randn(6, 3), torch.arange(4)
TWO = [B[:2], B[2:]]
ALL = torch.arange(6)
FLAGS = torch.ones(6, 2, dtype=torch.bool)
REFUSED = [
    (B, {"keep": ()}, ValueError, "keep must name at least one test"),
    (B, {"keep": "not_same_index"}, ValueError, "keep must be one of 'all', 'same_index'"),
    (B, {"keep": ("all", "other_index")}, ValueError, "keep must be one of"),
    (B, {"keep": "kept"}, ValueError, "keep must be one of"),
    (B, {"keep": ("same_index", "other_index")}, ValueError, "keep must not name both same_index and other_index"),
    (B, {"positives": ("same_id", "other_id")}, ValueError, "positives must not name both same_id and other_id"),
    (B, {"positives": ("kept", "same_index")}, ValueError, "positives='kept' stands alone"),
    (None, {"positives": ("same_index", "same_id")}, ValueError, "needs b: for b=None an item is never its own"),
    (B, {"keep": "same_group"}, ValueError, "compare groups: row_groups and col_groups must be given"),
    (B, {"keep": "same_id", "row_ids": IDS}, ValueError, "row_ids and col_ids must be given together"),
    (B, {"row_order": IDS, "col_order": ALL}, ValueError, "row_order, col_order must not be given without a keep or"),
    (B, {"keep": "same_id", "row_ids": IDS, "col_ids": IDS}, ValueError, r"col_ids must have shape \(6,\), got \(4,\)"),
    (TWO, {"keep": "same_id", "row_ids": IDS, "col_ids": [ALL]}, ValueError, "an entry for each of the 2 blocks of b"),
    (TWO, {"keep": "same_id", "row_ids": IDS, "col_ids": [ALL, None]}, ValueError, r"col_ids\[0\] must have shape"),
    (B, {"keep": "same_id", "row_ids": IDS, "col_ids": "ids"}, TypeError, "col_ids must be a tensor or a list"),
    (None, {"keep": "same_id", "row_ids": IDS, "col_ids": IDS}, ValueError, "col_ids must be None for b=None"),
    (B, {"keep": "same_id", "row_ids": IDS * 1.0, "col_ids": ALL}, TypeError, "row_ids must be int64"),
    (B, {"keep": "shared_label", "row_labels": IDS, "col_labels": FLAGS}, TypeError, "row_labels must be a bool"),
    (B, {"keep": "shared_label", "row_labels": FLAGS, "col_labels": FLAGS}, ValueError, "row_labels must have shape"),
    (B, {"keep": "shared_label", "row_labels": FLAGS[:4], "col_labels": torch.ones(6, 65, dtype=torch.bool)},
     ValueError, "col_labels must have as many labels as row_labels"),
    (B, {"keep": "lower_order", "row_order": IDS.log(), "col_order": torch.full((6,), torch.nan)},
     ValueError, "col_order must not hold NaN"),
    (B, {"keep": "lower_order", "row_order": IDS, "col_order": ALL * 1.0}, TypeError, "must both be integers or both"),
    (B, {"row_low": torch.ones(4), "row_high": torch.zeros(4)}, ValueError, "row_low must not be above row_high"),
    (B, {"col_low": torch.zeros(6)}, ValueError, "col_low must not be given without cols=True"),
    (B, {"row_low": torch.zeros(3)}, ValueError, r"row_low must have shape \(4,\)"),
    (B, {"keep": "no_partner"}, ValueError, "partner must be given with a rule that names it"),
    (B, {"partner": IDS}, ValueError, "partner must not be given without a keep or positives rule"),
    (B, {"keep": "no_partner", "partner": IDS + 3}, ValueError, r"partner must lie in \[-1, 6\)"),
    (B, {"keep": "no_partner", "partner": IDS - 2}, ValueError, r"partner must lie in \[-1, 6\)"),
    (B, {"keep": "no_partner", "partner": ALL}, ValueError, r"partner must have shape \(4,\) or \(4, count\)"),
    (B, {"keep": "no_partner", "partner": IDS * 1.0}, TypeError, "partner must be a tensor of integers"),
    (B, {"keep": "no_partner", "partner": IDS, "share": IDS / 4}, ValueError, "share must not be given without"),
    (B, {"positives": "partner", "partner": IDS, "share": IDS}, TypeError, "share must be floating point"),
    (B, {"positives": "partner", "partner": IDS, "share": torch.ones(4, 2)}, ValueError, "share must have the shape"),
    (B, {"keep_positives": True}, ValueError, "keep_positives must not be given without positives"),
]  # fmt: skip


@pytest.mark.parametrize("b, options, error, message", REFUSED, ids=[x[3][:40] for x in REFUSED])
def test_what_is_refused(b, options, error, message):
    for function in (pair_reduce, pair_loss):
        with pytest.raises(error, match=message):
            function(A, b, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": True}, "split needs reduce='lse' and positives"),
        ({"split": True, "positives": "same_index", "reduce": "softplus"}, "split needs reduce='lse'"),
        ({"stat_dtype": torch.float32}, "stat_dtype must be None or torch.float64"),
        ({"stat_dtype": torch.float64, "reduce": "max"}, "stat_dtype must be None with reduce='max'"),
    ],
)
def test_statistics_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pair_reduce(A, B, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": "other_id", "row_ids": IDS, "col_ids": IDS},
        {"positives": "kept"},
        {"positives": "same_index", "keep_positives": True},
        {"reduce": "softplus"},
    ],
)
def test_a_cross_entropy_needs_its_positive_apart(options):
    with pytest.raises(ValueError, match="cross_entropy needs reduce='lse' and positives that keep leaves out"):
        pair_loss(A, B[:4], cross_entropy=True, **{"positives": "same_index"} | options)


@on_every_backend
def test_no_id_is_taken_for_none(backend):
    """Negatives without ids are unlike every query, whatever its id."""
    g = torch.Generator().manual_seed(0)
    query, key, negatives = (torch.nn.functional.normalize(torch.randn(n, 16, generator=g), dim=1) for n in (8, 8, 50))
    ids = torch.arange(8)
    extreme = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 0, -1, 1, 2, 3, 4])
    first, second = (
        contrastile.info_nce(query, key, negatives=negatives, query_ids=x, reduction="none", backend=backend)
        for x in (ids, extreme)
    )
    assert torch.equal(first, second)


@on_every_backend
def test_a_cross_entropy_where_there_is_nothing(backend):
    """A row whose others are at -inf, and a row of weight 0 with NaN, add nothing; a positive at -inf is infinite."""
    a, b = torch.randn(5, 4), torch.randn(6, 4)
    options = {"keep": "other_index", "positives": "same_index", "cross_entropy": True, "backend": backend}
    ones = torch.ones(5)
    without = pair_loss(a, b, row_weight=ones.index_fill(0, torch.tensor([1]), 0.0), **options)
    bias = torch.zeros(5).index_fill(0, torch.tensor([1]), -torch.inf)
    torch.testing.assert_close(pair_loss(a, b, row_bias=bias, **options), without)
    spoilt = a.index_fill(0, torch.tensor([1]), torch.nan)
    weights = ones.index_fill(0, torch.tensor([1]), 0.0)
    torch.testing.assert_close(pair_loss(spoilt, b, row_weight=weights, **options), without)
    far = torch.zeros(6).index_fill(0, torch.tensor([0]), -torch.inf)
    assert pair_loss(a, b, col_bias=far, **options) == torch.inf
