"""Vector mode of small problems on a CPU: the statistics are one native call, their gradients another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import contrastile
from contrastile import pair_loss, pair_reduce
from contrastile.backends import cpu, cpu_small, cpu_small_stats, native
from contrastile.ops import library
from contrastile.spec import Score
from support import distances
from support.cases import EXTRAS, lacking, make_call
from support.combinations import by_default
from support.oracle import compare, engine, oracle, upstream

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")
STATS, GRADIENTS = cpu_small_stats.STATS, cpu_small_stats.GRADIENTS
HALF = torch.bfloat16
SPLIT = {"positives": "same_id", "split": True, "cols": True}


def lacking_ids():
    rules = {"keep": ("other_id", "other_group"), "positives": "same_id", "cols": True}
    return lacking(make_call(19, 41, 7, torch.float32, blocks=3, **rules), 1)


CALLS = {
    "one pair": lambda: make_call(1, 1, 1, cols=True, positives="same_index"),
    "a row": lambda: make_call(1, 7, 3, torch.float32, *EXTRAS, cols=True, positives="kept"),
    "a column": lambda: make_call(7, 1, 3, HALF, "col_scale", cols=True),
    "no rows": lambda: make_call(0, 5, 4, cols=True, positives="same_index"),
    "no columns": lambda: make_call(5, 0, 4, cols=True, positives="same_index"),
    "no features": lambda: make_call(5, 6, 0, cols=True, positives="same_index"),
    "rows alone": lambda: make_call(31, 37, 41, HALF, keep="other_index", positives="same_index"),
    "everything": lambda: make_call(37, 53, 19, torch.float32, *EXTRAS, blocks=3, cols=True, keep="other_id"),
    "everything, half": lambda: make_call(37, 53, 19, HALF, *EXTRAS, blocks=2, cols=True, positives="kept"),
    "float16": lambda: make_call(13, 17, 19, torch.float16, "row_scale", cols=True, positives="same_group"),
    "blocks without ids": lacking_ids,
    "labels": lambda: make_call(29, 70, 9, keep="no_shared_label", positives="shared_label", cols=True, counts=True),
    "order": lambda: make_call(29, 70, 9, keep="lower_order", cols=True),
    "partners": lambda: make_call(29, 70, 9, HALF, keep="no_partner", positives="partner", cols=True),
    "kept positives": lambda: make_call(29, 70, 9, torch.float32, *EXTRAS[5:], positives="same_id", cols=True,
                                        keep="other_id", keep_positives=True),
    "split": lambda: make_call(29, 70, 9, torch.float32, *EXTRAS[4:], blocks=2, counts=True, **SPLIT),
    "split, half": lambda: make_call(61, 67, 9, HALF, "col_scale", **SPLIT),
    "softplus": lambda: make_call(29, 70, 9, torch.float32, *EXTRAS[:4], reduce="softplus", positives="same_id",
                                  cols=True),
    "relu": lambda: make_call(29, 70, 9, torch.float32, *EXTRAS, reduce="relu", cols=True, counts=True),
    "own scales": lambda: make_call(29, 70, 9, torch.float32, *EXTRAS, own_scales=True, cols=True, positives="same_id"),
    "square": lambda: make_call(37, None, 19, keep="other_index", positives="same_id", cols=True),
    "square, half": lambda: make_call(65, None, 5, HALF, cols=True, split=True, positives="same_id", counts=True),
    "b is a, not square": lambda: make_call(37, None, 19, torch.float32, *EXTRAS, cols=True, keep="other_group"),
    "constants": lambda: make_call(9, 11, 5, torch.float32, *EXTRAS[:4], constant=("a", "col_scale", "row_bias")),
}  # fmt: skip


def refuse(*_):
    raise AssertionError("another kernel was asked")


@pytest.fixture
def at_once(monkeypatch):
    """What each native call did; no other kernel may run."""
    made, run, loss = [], cpu_small_stats.run, cpu_small.SmallCall.of_tensors

    def watched(native, values):
        made.append(values["work"])
        run(native, values)

    monkeypatch.setattr(cpu_small_stats, "run", watched)
    monkeypatch.setattr(cpu_small.SmallCall, "of_tensors", lambda *given: (made.append(0), loss(*given))[1])
    for name in ("slice_stats", "slice_score_grad", "accumulate"):
        monkeypatch.setattr(cpu.CpuBackend, name, refuse)
    return made


def general(monkeypatch):
    """From now on calls go the general way."""
    monkeypatch.undo()
    monkeypatch.setattr(cpu.CpuBackend, "small_stats", lambda *_: None)


def agree(found, right):
    """Two ways to the same statistics and gradients, whose score gradients were rounded to the features' type."""
    for part in ("values", "grads"):
        one, other = getattr(found, part), getattr(right, part)
        assert one.keys() == other.keys()
        for name, y in other.items():
            finite = y[y.isfinite()].abs()
            largest = float(finite.max()) if finite.numel() else 0.0
            share = 2e-6 if y.dtype == torch.float32 else 2**-7
            torch.testing.assert_close(one[name], y, rtol=0.0, atol=share * largest, equal_nan=True)


@pytest.mark.parametrize("name", CALLS)
def test_one_call_each_way(name, at_once, monkeypatch):
    """As exact as the oracle asks, and what the general way gives."""
    call = CALLS[name]()
    weights = upstream(call)
    found = engine(call, weights, backend="cpu")
    assert at_once == [STATS, GRADIENTS]
    compare(call, found, *oracle(call, weights))
    general(monkeypatch)
    agree(found, engine(call, weights, backend="cpu"))


@pytest.mark.parametrize("budget", [0, 1000, 1 << 20])
def test_kept_scores_save_work_alone(budget, at_once):
    """Products of all columns are kept, or none."""
    call = make_call(29, 70, 9, HALF, blocks=2, cols=True, positives="same_index")
    weights = upstream(call)
    agree(
        engine(call, weights, backend="cpu", memory_budget=budget),
        engine(call, weights, backend="cpu", memory_budget=0),
    )
    assert at_once == [STATS, GRADIENTS] * 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reduce", ["lse", "softplus"])
def test_what_is_not_finite_goes_as_far_as_in_general(value, reduce, monkeypatch):
    call = make_call(19, 41, 7, torch.float32, blocks=2, reduce=reduce, positives="same_index", cols=True)
    a, bias = call.a.clone(), torch.zeros(41)
    a[3, 2], bias[5] = value, value
    call = replace(call, a=a, options={**call.options, "col_bias": bias})
    weights = {name: torch.ones(41 if name.startswith("col") else 19) for name in upstream(call)}
    found = engine(call, weights, backend="cpu")
    general(monkeypatch)
    agree(found, engine(call, weights, backend="cpu"))


@pytest.mark.parametrize("split", [False, True])
def test_what_keeps_nothing_has_no_gradient_whatever_comes(at_once, split):
    a, b = make_call(6, 9, 5).a.requires_grad_(), torch.randn(9, 5, requires_grad=True)
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[2], mask[:, 4] = False, False
    ids = torch.arange(9)
    given = {"positives": "same_id", "row_ids": ids[:6], "col_ids": ids, "split": True} if split else {}
    found = pair_reduce(a, b, mask=mask, cols=True, **given)
    outputs = [found.row_negatives, found.col_negatives, found.row_positives_lse, found.col_positives_lse]
    outputs = outputs if split else [found.rows, found.cols]
    upstream = [torch.where(x == -torch.inf, torch.nan, 1.0) for x in outputs]
    assert all(x.isnan().any() for x in upstream)
    grads = torch.autograd.grad(outputs, [a, b], upstream)
    assert all(x.isfinite().all() and x.any() for x in grads)
    assert at_once == [STATS, GRADIENTS]


def test_tensors_of_any_layout(at_once):
    """Features that are not contiguous, and an upstream gradient that is one number."""
    g = torch.Generator().manual_seed(3)
    wide, deep = torch.randn(20, 24, generator=g), torch.randn(5, 14, 11, generator=g)
    a, b = wide[::2, ::2], deep.transpose(0, 1)[:, 1, :].repeat(1, 2)[:, :12]
    scale, bias = torch.rand(20, generator=g)[::2], torch.rand(14, 3, generator=g)[:, 1]
    mask = (torch.rand(14, 10, generator=g) < 0.8).T
    leaves = [x.detach().requires_grad_() for x in (a, b, scale, bias)]
    twins = [x.detach().double().requires_grad_() for x in (a, b, scale, bias)]
    found = pair_reduce(*leaves[:2], scale=leaves[2], col_bias=leaves[3], mask=mask, cols=True)
    (found.rows.sum() + found.cols.sum()).backward()
    z = (twins[2][:, None] * (twins[0] @ twins[1].T) + twins[3]).masked_fill(~mask, -torch.inf)
    (z.logsumexp(1).sum() + z.logsumexp(0).sum()).backward()
    for x, y in zip(leaves, twins, strict=True):
        torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-5, atol=1e-5)
    assert at_once == [STATS, GRADIENTS]


# ---- distances


@pytest.mark.parametrize("tiles, offset", [(1, True), (1, False), (2, True), (3, False)])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_distances(at_once, dtype, tiles, offset):
    """A direction has planes of scores, of score gradients and of features of its own."""
    x = distances.problem(13, 37, 5, tiles, dtype, offset)
    distances.check(x, distances.SCORES[tiles - 1], offset, backend="cpu")
    assert at_once == [STATS, GRADIENTS]


def test_blocks_of_flats(at_once, monkeypatch):
    """Each with all directions: what lies behind one is the next direction of this block, not the next block."""
    x = distances.leaves(distances.problem(20, 50, 8, 3, torch.float32, False))
    parts = [part.detach().requires_grad_() for part in x["b"].split([17, 0, 33], dim=1)]

    def run(budget):
        found = distances.engine({**x, "b": parts}, "distance", False, backend="cpu", memory_budget=budget)
        value = distances.weighted(found)
        return [*found.values(), *torch.autograd.grad(value, [x["a"], x["scale"], x["col_scale"], *parts])]

    kept, again = run(1 << 20), run(0)
    assert at_once == [STATS, GRADIENTS] * 2
    general(monkeypatch)
    for one, two, right in zip(kept, again, run(0), strict=True):
        torch.testing.assert_close(one, right)
        assert torch.equal(one, two)


def test_distances_between_the_rows_themselves(at_once):
    start = torch.randn(23, 6, generator=torch.Generator().manual_seed(5))

    def loss(x):
        norm = x.square().sum(1) + 0.5
        found = pair_reduce(x, scale=-1.5, row_bias=norm, col_bias=norm, score="squared_distance", keep="other_index")
        return found.rows

    x, y = start.clone().requires_grad_(), start.double().requires_grad_()
    right = -1.5 * ((y[:, None] - y).square().sum(2) + 1.0)
    right = right.masked_fill(torch.eye(23, dtype=torch.bool), -torch.inf).logsumexp(1)
    found, weights = loss(x), torch.linspace(-1.0, 2.0, 23)
    torch.testing.assert_close(found, right.float(), rtol=1e-5, atol=1e-5)
    (found @ weights).backward()
    (right @ weights.double()).backward()
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-4, atol=1e-5)
    assert at_once == [STATS, GRADIENTS]


@pytest.mark.parametrize("square", [False, True])
def test_a_weighted_sum_of_distances_is_one_call(at_once, square):
    given = distances.leaves(distances.problem(13, 13 if square else 37, 5, 1, torch.float32))
    norm = given["row_bias"]
    options = {"score": "distance", "scale": given["scale"], "row_bias": norm}
    if square:
        options |= {"col_bias": norm, "keep": "other_index"}
    else:
        options |= {"b": given["b"], "col_bias": given["col_bias"], "col_scale": given["col_scale"], "cols": True}
    leaves = [x for x in (given["a"], *options.values()) if isinstance(x, torch.Tensor)]
    leaves = list({id(x): x for x in leaves}.values())
    stats = pair_reduce(given["a"], **options)
    right = stats.rows.sum() + (0.5 * stats.cols.sum() if stats.cols is not None else 0.0)
    grads = torch.autograd.grad(right, leaves)
    at_once.clear()
    found = pair_loss(given["a"], **options, **({} if square else {"col_weight": 0.5}))
    assert at_once == [0]
    torch.testing.assert_close(found, right)
    for x, y in zip(torch.autograd.grad(found, leaves), grads, strict=True):
        torch.testing.assert_close(x, y)


def test_gram_loss_is_two_calls(at_once):
    tensors = [F.normalize(torch.randn(8, 12), dim=1).requires_grad_() for _ in range(3)]
    contrastile.gram_loss(*tensors).backward()
    assert at_once == [STATS, GRADIENTS]


# ---- which calls are small


def test_other_calls_go_the_general_way(monkeypatch):
    """Large ones, of several directions as well, of many blocks, in float64, with second operands, and maxima."""
    a, b = torch.randn(6, 4), torch.randn(9, 4)
    asked = []
    ask = library.small_stats
    monkeypatch.setattr(library, "small_stats", lambda args: (asked.append(ask(args)), asked[-1])[1])

    def small(*given, **options):
        pair_reduce(*given, **options)
        return asked.pop() is not None

    assert small(a, b)
    assert small(a, list(b[:8].split(2)))
    assert not small(a, list(b.split(1)))
    assert not small(a.double(), b.double())
    assert not small(a, b, gate=(a.square(), b.square()), score="gated")
    pair_reduce(a, b, reduce="max", backend="cpu")
    assert all(x is None for x in asked)
    asked.clear()
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 6 * 9 * 2)
    flats = {"row_bias": a.square().sum(1) + 9, "score": "distance", "offset": False}
    assert small(a, torch.stack([b, b]), **flats)
    assert not small(a, torch.stack([b, b, b]), **flats)


def test_private_columns_of_distances_are_no_small_call():
    """They are products of their own in the kernel."""
    call = make_call(5, 7, 3)
    args = library.Arguments(call.a, [*call.b], torch.tensor(1.0), score=int(Score.DOT))
    extras = library.SmallExtras(private=torch.randn(5, 2, 3))
    assert cpu_small.loss_fits(args, (1.0, None, None, None), extras)
    args.score = int(Score.DISTANCE)
    assert not cpu_small.loss_fits(args, (1.0, None, None, None), extras)


# ---- the backward pass


def test_only_a_watched_backward_pass_goes_through_the_dispatcher(monkeypatch):
    a, b = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    direct = []
    run = library.stats_backward
    monkeypatch.setattr(library, "stats_backward", lambda *given: (direct.append(1), run(*given))[1])
    rows = pair_reduce(a, b).rows
    first = torch.autograd.grad(rows.sum(), [a, b], retain_graph=True)
    assert len(direct) == 1
    with FlopCounterMode(display=False):
        again = torch.autograd.grad(rows.sum(), [a, b], retain_graph=True)
    assert len(direct) == 1
    for x, y in zip(first, again, strict=True):
        assert torch.equal(x, y)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(rows, [a, b], torch.eye(6), is_grads_batched=True)
    assert len(direct) == 1


@pytest.mark.parametrize("n", by_default((33, 300), 33))
def test_a_kept_graph_gives_its_gradients_again(n):
    a, b = torch.randn(n, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    rows = pair_reduce(a, b, cols=True).rows
    first, again = (torch.autograd.grad(rows.sum(), [a, b], retain_graph=True) for _ in range(2))
    for x, y in zip(first, again, strict=True):
        assert torch.equal(x, y)
