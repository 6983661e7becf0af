"""pair_reduce and pair_loss against the dense float64 oracle: all statistics, all gradients."""

from dataclasses import replace

import pytest
import torch

from contrastile import driver, pair_loss, pair_reduce, row_lse
from contrastile.backends import cpu_small, select
from contrastile.spec import Limits, Needs, PairCall, PairSpec, Reduce, Side, Weights
from support.cases import BACKEND_DTYPES, EXTRAS, make_call
from support.combinations import crossed, each_once
from support.oracle import VECTORS, check, engine, upstream
from support.rules import KEEPS, POSITIVES, REDUCES

BACKENDS = ("torch", "cpu")
SHAPES = [  # n, m, d
    *((1, 1, 1), (1, 1, 0), (1, 7, 3), (7, 1, 3), (2, 3, 1), (5, 6, 0)),
    *((0, 5, 4), (5, 0, 4), (0, 0, 4), (0, 0, 0)),
    *((13, 17, 19), (31, 37, 41), (64, 64, 64), (65, 63, 2), (97, 101, 7)),
    *((12, 32, 16), (24, 256, 8), (11, 257, 33), (25, 511, 3)),  # edges of the cpu tiles
]


def name(value):
    return str(value).removeprefix("torch.")


on_every_backend_and_dtype = pytest.mark.parametrize("backend, dtype", BACKEND_DTYPES, ids=name)


def positives_of(reduce, positives):
    return {} if reduce == "max" else {"positives": positives}  # max sums no positives


@pytest.fixture
def small_workspace(monkeypatch):
    """Rows come in chunks and columns are split already at a hundred items."""
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 96, 64, 64, 32))
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 0)  # no shortcut for small problems


@pytest.mark.parametrize(
    "backend, dtype, reduce, keep, positives", each_once(crossed(BACKEND_DTYPES, REDUCES, KEEPS), POSITIVES), ids=name
)
def test_every_reduce_keep_and_positives(backend, dtype, reduce, keep, positives):
    """With all scales, biases, thresholds, a mask and two column blocks at once."""
    options = {"reduce": reduce, "keep": keep, "cols": True} | positives_of(reduce, positives)
    for keep_positives in (False, True):
        call = make_call(37, 53, 19, dtype, *EXTRAS, blocks=2, keep_positives=keep_positives, **options)
        check(call, backend=backend)


@pytest.mark.parametrize(
    "extra, backend, dtype, reduce", each_once(crossed((None, *EXTRAS), BACKEND_DTYPES), REDUCES), ids=name
)
def test_every_extra_alone(backend, dtype, reduce, extra):
    """Each optional input alone, and none: absent ones must be absent, not zero or one."""
    for cols in (False, True):
        call = make_call(29, 70, 9, dtype, *([extra] if extra else []), reduce=reduce, cols=cols)
        check(call, backend=backend)


@pytest.mark.parametrize(
    "n, m, d, backend, dtype, reduce", each_once(crossed(SHAPES, BACKEND_DTYPES), REDUCES), ids=name
)
def test_ragged_shapes(backend, dtype, reduce, n, m, d):
    options = {"reduce": reduce, "cols": True} | positives_of(reduce, "same_index")
    for extras in ((), EXTRAS):
        check(make_call(n, m, d, dtype, *extras, **options), backend=backend)


@pytest.mark.parametrize(
    "keep, positives, n, backend, dtype",
    each_once(crossed(KEEPS, (None, "same_id", "kept"), (0, 1, 2, 37, 65)), BACKEND_DTYPES),
    ids=name,
)
def test_square(backend, dtype, keep, positives, n):
    """b=None: each unordered pair is computed once."""
    for reduce in REDUCES:
        options = {"reduce": reduce, "keep": keep, "cols": n % 2 == 0, "keep_positives": n > 40}
        options |= positives_of(reduce, positives)
        check(make_call(n, None, 11, dtype, **options), backend=backend)


@pytest.mark.parametrize("extra", ["shared_bias", *EXTRAS])
@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_square_with_every_extra(backend, reduce, extra, small_workspace):
    """Whether z is still symmetric with it must not change what b=None means."""
    for cols in (False, True):
        options = {"reduce": reduce, "cols": cols} | positives_of(reduce, "same_id")
        shared = extra == "shared_bias"
        call = make_call(110, None, 5, torch.float32, "row_bias" if shared else extra, **options)
        if shared:
            bias = {"col_bias": call.options["row_bias"]}
            call = replace(call, options=call.options | bias)
        check(call, backend=backend)


@pytest.mark.parametrize("scale", [2.0, torch.full((4,), 2.0)], ids=["number", "per row"])
@pytest.mark.parametrize("positives", ["same_index", "same_id"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_item_of_a_square_call_is_never_its_own_positive(backend, positives, scale):
    ids = torch.arange(4)
    options = {"scale": scale, "row_ids": ids, "keep": "other_index", "keep_positives": True}
    try:
        found = pair_reduce(torch.eye(4), positives=positives, backend=backend, **options)
    except ValueError:  # refusing what can have no positives is right, too
        return
    assert torch.equal(found.row_positives, torch.zeros(4))
    assert torch.equal(found.rows, torch.tensor(3.0).log().expand(4))


@pytest.mark.parametrize(
    "backend, n, m, memory_budget",
    each_once(crossed(BACKENDS, [(1100, 1030), (1030, None), (2100, 300)]), [None, 0, 300_000, 1 << 30]),
)
def test_many_rows_in_several_chunks(backend, n, m, memory_budget):
    """The default chunks: 1024 rows, 512 for b=None."""
    options = {"keep": "other_index", "positives": "same_id", "memory_budget": memory_budget}
    dtype = torch.bfloat16 if m == 1030 else torch.float32
    call = make_call(n, m, 3, dtype, blocks=3, cols=m != 300, **options)
    check(call, backend=backend)


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["plain", "extras"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_columns_in_many_pieces(backend, extras, reduce, small_workspace):
    options = {"reduce": reduce, "keep": "other_id"} | positives_of(reduce, "same_index")
    for cols in (False, True):
        call = make_call(200, 333, 6, torch.float32, *extras, blocks=3, cols=cols, **options)
        for budget in (0, 10_000, 1 << 20):
            check(call, backend=backend, memory_budget=budget)


@pytest.mark.parametrize(
    "backend, keep, reduce, dtype",
    each_once(crossed(BACKENDS, KEEPS), crossed(REDUCES, (torch.float32, torch.bfloat16))),
    ids=name,
)
def test_square_in_many_pieces(backend, keep, reduce, dtype, small_workspace):
    options = {"reduce": reduce, "keep": keep} | positives_of(reduce, "same_id")
    call = make_call(210, None, 6, dtype, **options)
    for budget in (0, 30_000, 1 << 30):
        check(call, backend=backend, memory_budget=budget)


@pytest.mark.parametrize("leaf", ["a", "b[0]", "b[1]", *VECTORS, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gradient_alone(backend, leaf):
    """Whatever needs no gradient costs none and changes nothing; a queue is such a column block."""
    for cols in (False, True):
        extras = ("row_scale", "col_scale", "row_bias", "col_bias")
        call = make_call(40, 75, 10, torch.float32, *extras, blocks=2, positives="same_index", cols=cols)
        call = replace(call, constant=frozenset(call.tensors()) - {leaf})
        check(call, backend=backend)


@pytest.mark.parametrize("used", ["rows", "cols", "row_positives", "col_positives"])
@pytest.mark.parametrize("m", [50, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_statistic_alone_is_differentiated(backend, m, used):
    call = make_call(40, m, 10, positives="same_id", cols=True)
    weights = upstream(call)
    only = {name: w if name == used else torch.zeros_like(w) for name, w in weights.items()}
    whole = engine(call, only, backend=backend)
    a = call.a.clone().requires_grad_()
    b = None if call.b is None else call.b
    getattr(pair_reduce(a, b, **call.options, backend=backend), used).backward(weights[used])
    assert torch.equal(a.grad, whole.grads["a"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_max_gradient_goes_to_one_of_equal_columns(backend, dtype):
    """A tie is broken for one column: any split by whole rows is a right subgradient."""
    a = torch.eye(6, 8).repeat(50, 1).to(dtype).requires_grad_()
    b = torch.eye(3, 8).repeat(4, 1).to(dtype).requires_grad_()  # columns j, j + 3, ... are equal
    rows = pair_reduce(a, b, reduce="max", backend=backend).rows
    rows.sum().backward()
    assert torch.equal(rows, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).repeat(50))
    assert torch.equal(a.grad[:3], torch.eye(3, 8).to(dtype))
    total = b.grad.view(4, 3, 8).sum(0)[:, :3]
    assert torch.equal(total, 50 * torch.eye(3).to(dtype))
    assert b.grad.sum() == 300.0  # one whole unit for each row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_max_accumulates_a_popular_column_in_float32(backend, dtype):
    """Thousands of rows meet in one column: sums in a half type would stop growing."""
    a = torch.ones(3000, 1, dtype=dtype)
    b = torch.tensor([[1.0], [-1.0]], dtype=dtype, requires_grad=True)
    pair_reduce(a, b, reduce="max", backend=backend).rows.sum().backward()
    assert torch.equal(b.grad, torch.tensor([[3000.0], [0.0]]).to(dtype))


@pytest.mark.parametrize("shape", [(5, 0), (0, 5), (0, 0)])
@pytest.mark.parametrize("reduce", REDUCES)
@on_every_backend_and_dtype
def test_empty_inputs_are_differentiable(backend, dtype, reduce, shape):
    a, b = (torch.ones(size, 3, dtype=dtype, requires_grad=True) for size in shape)
    found = pair_reduce(a, b, reduce=reduce, cols=True, backend=backend)
    empty = -torch.inf if reduce in ("lse", "max") else 0.0
    for x, size in zip(found[:2], shape, strict=True):
        assert x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(x, torch.full((size,), empty, dtype=x.dtype))
    (found.rows.sum() + found.cols.sum()).backward()
    assert torch.equal(a.grad, torch.zeros_like(a)) and torch.equal(b.grad, torch.zeros_like(b))


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compute_dtype_rounds_features_but_not_gradients(backend, compute, reduce):
    call = make_call(40, 50, 20, reduce=reduce, cols=True, compute_dtype=compute)
    check(call, backend=backend)


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float16")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_promote_like_torch(backend, dtypes):
    first, second = (getattr(torch, name) for name in dtypes)
    call = make_call(40, 50, 20, torch.float32, blocks=2, positives="same_index", cols=True)
    b = (call.b[0].to(second), call.b[1].to(first))
    call = replace(call, a=call.a.to(first), b=b)
    check(call, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threshold_keeps_equality(backend):
    """A pair is dropped when its z is above the threshold, not when it equals it."""
    a, b = torch.eye(4), torch.tensor([[2.0, 1, 1, 1], [1, 2, 1, 1], [3, 1, 2, 1]])
    limit = torch.tensor([2.0, 2.0, 0.5, 1.0])
    rows = pair_reduce(a, b, reduce="max", row_high=limit, backend=backend).rows
    assert torch.equal(rows, torch.tensor([2.0, 2.0, -torch.inf, 1.0]))
    cols = pair_reduce(b, a, reduce="max", col_high=limit, cols=True, backend=backend).cols
    assert torch.equal(cols, rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_column_ids_of_their_own_are_used_or_refused_for_a_square_call(backend):
    a, ids = torch.eye(3), torch.tensor([0, 0, 1])
    try:
        found = pair_reduce(a, row_ids=ids, col_ids=ids.flip(0), keep="same_id", backend=backend)
    except ValueError:
        return
    expected = pair_reduce(a, a, row_ids=ids, col_ids=ids.flip(0), keep="same_id", backend=backend)
    assert torch.allclose(found.rows, expected.rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_gradient_is_scaled_by_its_upstream_gradient(backend):
    call = make_call(30, 40, 8)
    grads = []
    for factor in (1.0, -4.0):
        a = call.a.clone().requires_grad_()
        (pair_loss(a, call.b, backend=backend) * factor).backward()
        grads.append(a.grad)
    assert torch.equal(grads[1], -4.0 * grads[0])


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_kept_alive_gives_the_same_gradient_again(backend, loss):
    a, b = (x.requires_grad_() for x in torch.randn(2, 30, 8, generator=torch.Generator()))
    function = pair_loss if loss else row_lse
    value = function(a, b, backend=backend, memory_budget=10**6).sum()
    first = torch.autograd.grad(value, (a, b), retain_graph=True)
    again = torch.autograd.grad(value, (a, b))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduce", ["LSE", "SOFTPLUS"])
def test_blocks_of_columns_whose_origins_have_gaps(backend, reduce):
    """As shards that travel between ranks have them: where a column's numbers are does not depend on its index."""
    chosen = select(backend, torch.device("cpu"), torch.float32, 0)
    a, b, scale, bias = torch.randn(9, 4), torch.randn(12, 4), torch.rand(12), torch.randn(12)
    weights, needs = Weights(torch.rand(9), col=torch.rand(12)), Needs(True, [True, True], False, True, True, True)
    found = []
    for gap in (0, 15):
        blocks = [Side(b[k], k.start + gap * (k.start > 0), scale[k], bias[k]) for k in (slice(0, 5), slice(5, 12))]
        call = PairCall(PairSpec(Reduce[reduce], cols=True), Side(a, scale=torch.ones(9)), blocks)
        value, grads = driver.scalar(call, chosen, weights, needs, 0)
        found.append([value, grads.a, *grads.blocks, grads.col_scale, grads.col_bias])
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)
