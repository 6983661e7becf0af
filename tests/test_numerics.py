"""The numerics contract: extreme logits, empty rows, NaN and infinity, half precision."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import driver, pair_loss, pair_reduce
from contrastile.backends import cpu_small
from contrastile.catalog import CATALOG
from contrastile.spec import Limits
from contrastile.testing import EPS
from support.cases import BACKEND_DTYPES, EXTRAS, make_call
from support.oracle import Call, check, engine_loss, logits, statistics, upstream
from support.rules import REDUCES

BACKENDS = ("torch", "cpu")
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_reduce = pytest.mark.parametrize("reduce", REDUCES)
on_every_backend_and_dtype = pytest.mark.parametrize(
    "backend, dtype", BACKEND_DTYPES, ids=lambda x: str(x).removeprefix("torch.")
)


def positives_of(reduce):
    return {} if reduce == "max" else {"positives": "same_index"}


# ---- size of logits


@pytest.mark.parametrize("scale", [0.0, 1e-4, 100.0, 1 / 0.005, 1000.0, -50.0])
@on_every_reduce
@on_every_backend_and_dtype
def test_any_scale(backend, dtype, reduce, scale):
    """Temperature 0.005 is a normal end state, and at scale 0 its gradient is still exact."""
    for m in (70, None):
        options = {"reduce": reduce, "cols": True} | ({} if m is None else positives_of(reduce))
        check(make_call(45, m, 24, dtype, scale=scale, **options), backend=backend)


@pytest.mark.parametrize("offset", [1e4, -1e4])
@pytest.mark.parametrize("name", ["row_bias", "col_bias"])
@on_every_reduce
@on_every_backend
def test_logits_far_from_zero(backend, reduce, name, offset):
    """The running maximum is never a fixed one, so e^z may lie anywhere."""
    call = make_call(45, 70, 8, torch.float32, name, reduce=reduce, cols=True)
    bias = (call.options[name] + offset).round()
    check(replace(call, options=call.options | {name: bias}), backend=backend)
    mixed = torch.where(torch.arange(len(bias)) % 2 == 0, bias, -bias)
    check(replace(call, options=call.options | {name: mixed}), backend=backend)


@pytest.mark.parametrize("apart", [3.5, 8.0, 30.0, 120.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_statistics_far_from_each_other_in_one_tile(dtype, apart):
    """One exponential may serve the row and the column of a pair, unless their statistics lie too far apart."""
    call = make_call(45, 64, 24, dtype, "row_bias", "col_bias", reduce="lse", cols=True)
    for name, every in (("row_bias", 2), ("col_bias", 3)):
        bias = call.options[name]
        some = torch.arange(len(bias)) % every == 0
        check(replace(call, options=call.options | {name: bias + some * apart}), backend="cpu")


@on_every_reduce
@on_every_backend
def test_equal_rows_and_zero_rows(backend, reduce):
    call = make_call(40, 60, 16, torch.float32, "row_bias", "col_bias", reduce=reduce, cols=True)
    a, b = call.a.clone(), call.b[0].clone()
    a[5:20], b[10:30], a[30], b[40] = a[5], b[10], 0.0, 0.0
    check(replace(call, a=a, b=(b,)), backend=backend)
    check(Call(torch.zeros(7, 3), (torch.zeros(9, 3),), {"cols": True}), backend=backend)


# ---- nothing kept


@pytest.mark.parametrize("rule", ["mask", "threshold", "ids"])
@on_every_reduce
@on_every_backend_and_dtype
def test_rows_and_columns_that_keep_nothing(backend, dtype, reduce, rule):
    """-inf for lse and max, 0 for sums, finite gradients, and no share in pair_loss."""
    call = make_call(40, 60, 8, dtype, "row_bias", reduce=reduce, cols=True)
    if rule == "mask":
        mask = torch.ones(40, 60, dtype=torch.bool)
        mask[[0, 17, 39]], mask[:, [1, 59]] = False, False
        more = {"mask": mask}
    elif rule == "threshold":
        low = torch.where(torch.arange(60) % 3 == 0, -1e6, 1e6).to(call.stat_dtype())
        more = {"row_high": low[:40], "col_high": low}
    else:
        ids = torch.arange(60)
        more = {"keep": "same_id", "row_ids": ids[:40] * 2, "col_ids": ids}
    call = replace(call, options=call.options | more)
    check(call, backend=backend)
    nothing = pair_reduce(call.a, call.b, **call.options, backend=backend)
    empty = -torch.inf if reduce in ("lse", "max") else 0.0
    assert (nothing.rows == empty).sum() >= 3 and (nothing.cols == empty).sum() >= 2


@on_every_reduce
@on_every_backend
def test_everything_masked(backend, reduce):
    mask = torch.zeros(20, 35, dtype=torch.bool)
    call = make_call(20, 35, 4, torch.float32, "row_bias", "col_scale", reduce=reduce, cols=True)
    check(replace(call, options=call.options | {"mask": mask}), backend=backend)
    if reduce != "max":
        assert pair_loss(call.a, call.b, mask=mask, reduce=reduce, backend=backend) == 0.0


# ---- NaN and infinity


def poisoned(call, row=None, column=None, value=torch.nan):
    a, b = call.a.clone(), call.b[0].clone()
    if row is not None:
        a[row, 1] = value
    if column is not None:
        b[column, 0] = value
    return replace(call, a=a, b=(b,))


@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["plain", "extras"])
@on_every_reduce
@on_every_backend_and_dtype
def test_nan_row_poisons_itself_and_all_columns_only(backend, dtype, reduce, extras):
    call = make_call(40, 70, 8, dtype, *extras, reduce=reduce, cols=True)
    call = replace(call, options=call.options | {"mask": None})
    clean = pair_reduce(call.a, call.b, **call.options, backend=backend)
    for row in (0, 13, 39):
        bad = poisoned(call, row=row)
        found = pair_reduce(bad.a, bad.b, **call.options, backend=backend)
        others = torch.arange(40) != row
        assert found.rows[row].isnan() and found.cols.isnan().all()
        assert torch.equal(found.rows[others], clean.rows[others])


@on_every_reduce
@on_every_backend
def test_nan_column_poisons_every_row_from_any_place(backend, reduce):
    """Also from the last columns of a vector register, a tile or a padded panel."""
    call = make_call(13, 300, 4, reduce=reduce, cols=True)
    for column in (*range(0, 40), *range(250, 300)):
        bad = poisoned(call, column=column)
        found = pair_reduce(bad.a, bad.b, **call.options, backend=backend)
        assert found.rows.isnan().all() and found.cols.isnan().sum() == 1
        assert found.cols[column].isnan()


@pytest.mark.parametrize("row", [0, 64, 149])
@on_every_reduce
@on_every_backend
def test_nan_survives_merges_of_chunks(backend, reduce, row, monkeypatch):
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 64, 64, 64, 64))
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 0)  # no shortcut for small problems
    bad = poisoned(make_call(150, 150, 4, reduce=reduce), row=row, column=row)
    found = pair_reduce(bad.a, bad.b, reduce=reduce, cols=True, backend=backend)
    assert found.rows.isnan().all() and found.cols.isnan().all()
    assert pair_reduce(bad.a, reduce=reduce, backend=backend).rows.isnan().all()


@pytest.mark.parametrize("reduce", ["lse", "softplus", "relu"])
@pytest.mark.parametrize("m", [70, None])
@on_every_backend_and_dtype
def test_nan_reaches_the_scalar_and_every_gradient(backend, dtype, m, reduce):
    call = make_call(40, m, 8, dtype, reduce=reduce, cols=True, positives="same_id")
    a = call.a.clone()
    a[7] = torch.nan
    call = replace(call, a=a)
    found = engine_loss(call, upstream(call), backend=backend)
    assert found.values["loss"].isnan()
    for name in ("a",) if m is None else ("b[0]", "scale"):
        assert found.grads[name].isnan().all(), name
    assert found.grads["a"][7].isnan().all()


@pytest.mark.parametrize("name", ["scale", "row_bias", "col_bias", "col_scale"])
@on_every_reduce
@on_every_backend
def test_nan_in_a_vector_is_not_lost(backend, reduce, name):
    call = make_call(40, 70, 8, torch.float32, *EXTRAS[:4], reduce=reduce, cols=True)
    vector = call.options[name].clone()
    vector[3] = torch.nan
    found = pair_reduce(call.a, call.b, **call.options | {name: vector}, backend=backend)
    one, all_of = (found.rows, found.cols) if len(vector) == 40 else (found.cols, found.rows)
    assert one[3].isnan() and one.isnan().sum() == 1 and all_of.isnan().all()


@on_every_reduce
@on_every_backend
def test_a_masked_nan_does_not_count(backend, reduce):
    """Masks come before the maximum: what is dropped leaves no trace in a statistic."""
    call = make_call(40, 70, 8, torch.float32, "mask", reduce=reduce, cols=True)
    mask = call.options["mask"].clone()
    mask[:, 5] = False
    expected = pair_reduce(call.a, call.b, **call.options | {"mask": mask}, backend=backend)
    bad = poisoned(call, column=5)
    found = pair_reduce(bad.a, bad.b, **call.options | {"mask": mask}, backend=backend)
    assert torch.equal(found.rows, expected.rows) and torch.equal(found.cols, expected.cols)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@on_every_reduce
@on_every_backend_and_dtype
def test_infinity_never_gives_a_wrong_finite_number(backend, dtype, reduce, value):
    """NaN and infinities may come out, but what comes out finite is right."""
    call = poisoned(make_call(40, 70, 8, dtype, reduce=reduce, cols=True), 11, 23, value)
    found = pair_reduce(call.a, call.b, **call.options, backend=backend)
    z = logits(call.double())
    for name, right in statistics(call.double(), z).items():
        x = getattr(found, name).double()
        finite = x.isfinite()
        assert right[finite].isfinite().all(), name
        torch.testing.assert_close(x[finite], right[finite], rtol=1e-5, atol=1e-5)


@on_every_backend
def test_a_pair_at_minus_infinity_counts_as_not_kept(backend):
    """As documented: a bias of -inf masks, so a row of such pairs is an empty row."""
    a, b, bias = torch.ones(2, 1), torch.ones(3, 1), torch.tensor([-torch.inf, 0.0])
    assert pair_reduce(a, b, row_bias=bias, backend=backend).rows[0] == -torch.inf
    torch.testing.assert_close(pair_loss(a, b, row_bias=bias, backend=backend), 1.0 + torch.tensor(3.0).log())


@pytest.mark.parametrize("card", CATALOG, ids=lambda card: card.name)
def test_nan_features_give_a_nan_loss(card):
    maker = next(iter(card.variants.values()))
    for backend in BACKENDS if card.gemm else (None,):
        for place in (0, 29):
            case = maker(30, 8, torch.Generator().manual_seed(0), torch.float32)
            features = case.args[0] if case.views or case.args[0].dim() == 2 else case.args[0].flatten(0, 1)
            features[..., place, :] = torch.nan
            extra = {} if backend is None else {"backend": backend}
            assert card.function(*case.args, **case.kwargs, **extra).isnan()


@pytest.mark.parametrize("present", [None, torch.ones(5, dtype=torch.bool)], ids=["all", "present"])
@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_a_nan_is_no_floor_of_a_debiased_loss(hardness, present):
    x, y = F.normalize(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    y[-1] = torch.nan
    for loss in (contrastile.debiased_info_nce, contrastile.debiased_nt_xent):
        found = loss(x, y, hardness=hardness, present=present, reduction="none")
        assert found.isnan().all()


def test_a_nan_among_the_items_that_are_present_reaches_the_others():
    x, y = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    x[-1], present = torch.nan, torch.ones(5, dtype=torch.bool)
    assert contrastile.dhel(x, y, present=present, reduction="none").isnan().all()
    assert contrastile.mv_dhel([x, y], present=present.expand(2, 5), reduction="none").isnan().all()


# ---- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@on_every_backend
def test_half_features_have_float32_logits(backend, dtype):
    """At scale 100 half an ulp of a bfloat16 logit would be 0.25."""
    g = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(200, 64, generator=g), dim=1).to(dtype) for _ in "ab")
    truth = contrastile.reference.clip_loss(image.double(), text.double(), 100.0)
    found = contrastile.clip_loss(image, text, 100.0, backend=backend)
    assert abs(found.item() - truth.item()) <= 1e-6 * 100.0


def converged_pair(scale, dtype, n=64, d=128):
    """Rows that find their own column with probability 1 - 1e-4 or so, as a trained model's do."""
    g = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    gap = 14.0 / scale * (1 + 0.1 * torch.rand(n, 1, generator=g))
    own, common = (gap / 2).sqrt() * basis[:n] * 2**0.5, (1 - gap).clamp_min(0).sqrt() * basis[n]
    rows = F.normalize(own + common, dim=1)
    noise = F.normalize(torch.randn(n, d, generator=g), dim=1) * 0.02 / scale
    return rows.to(dtype), F.normalize(rows + noise, dim=1).to(dtype)


@pytest.mark.parametrize("mode", ["loss", "rows"])
@pytest.mark.parametrize("scale", [14.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@on_every_backend
def test_small_gradients_of_a_converged_model(backend, dtype, scale, mode):
    """p_ii - 1 is formed before anything is rounded: as good as plain float32 with log_softmax.

    Rounding p_ii to bfloat16 first would leave nothing of it.
    """
    image, text = converged_pair(scale, dtype)
    target = torch.arange(len(image))

    def dense(x, y):
        return F.cross_entropy(scale * x @ y.T, target, reduction="sum")

    def fused(x, y):
        options = {"scale": scale, "positives": "same_index", "backend": backend}
        if mode == "loss":
            return pair_loss(x, y, row_positive_weight=-1.0, **options)
        found = pair_reduce(x, y, **options)
        return (found.rows - found.row_positives).sum()

    truth = torch.autograd.functional.jacobian(dense, (image.double(), text.double()))
    twin = torch.autograd.functional.jacobian(dense, (image.float(), text.float()))
    leaves = [x.clone().requires_grad_() for x in (image, text)]
    found = torch.autograd.grad(fused(*leaves), leaves)
    assert dense(image.double(), text.double()) < 64 * 2e-3  # converged indeed
    for right, plain, got in zip(truth, twin, found, strict=True):
        error = (got.double() - right).norm() / right.norm()
        allowed = 4 * (plain.double() - right).norm() / right.norm() + EPS[dtype]
        assert error <= allowed, f"relative error {error:.1e}, allowed {allowed:.1e}"
