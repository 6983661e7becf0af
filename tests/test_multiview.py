"""Multi-view losses: the official formulas where they hold, their known defects, low temperatures, conventions."""

import math
from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import dhel, mv_dhel, mv_infonce, nt_xent, pairwise_aggregate, pvc, reference
from contrastile.catalog import Case
from contrastile.testing import EPS
from support import official_views as official
from support.loss_cases import id_of, usable
from support.pairing import assert_agreement

FULL = usable("cpu", (torch.float32, torch.float64))
on_full_precision = pytest.mark.parametrize("backend, dtype", FULL, ids=id_of)
on_every_backend = pytest.mark.parametrize("backend", [name for name, dtype in FULL if dtype == torch.float32])
on_every_form = pytest.mark.parametrize(
    "loss, options",
    [
        (mv_infonce, {}),
        (mv_infonce, {"negatives": "cross_view"}),
        (mv_dhel, {}),
        (pvc, {}),
        (pvc, {"aggregation": "arithmetic"}),
    ],
    ids=["mv_infonce", "mv_infonce across", "mv_dhel", "pvc", "pvc arithmetic"],
)
OFFICIAL = {"mv_infonce": official.mv_infonce, "mv_dhel": official.mv_dhel, "pvc": official.pvc_geometric}


def unit_views(k, n, d, seed=0, noise=0.7):
    """Views of the same unit vectors, as a trained model gives them."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=g, dtype=torch.float64)
    return F.normalize(base + noise * torch.randn(k, n, d, generator=g, dtype=torch.float64), dim=-1)


def case(views, temperature, dtype):
    return Case((views.to(dtype),), {"temperature": torch.tensor(temperature)}, 1.0 / temperature, views=True)


# ---- the official code, where it neither overflows nor errs


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize("n", [2, 13])
@on_full_precision
def test_the_official_formula(name, k, n, backend, dtype):
    loss = getattr(contrastile, name)
    assert_agreement(loss, OFFICIAL[name], case(unit_views(k, n, 6), 0.4, dtype), backend=backend)


@pytest.mark.parametrize("include_augs", [True, False])
@on_full_precision
def test_the_official_formula_of_dhel(include_augs, backend, dtype):
    views = unit_views(2, 9, 5).to(dtype)
    both = Case(tuple(views), {"temperature": torch.tensor(0.3), "include_augs": include_augs}, 1 / 0.3)
    assert_agreement(dhel, official.dhel, both, backend=backend)


def test_the_formula_across_views_drops_the_pairs_within_a_view():
    """Written as the README of the official code has it, j = i included."""
    views, t = unit_views(3, 4, 5), 0.5
    numerator, denominator = torch.zeros(2, 4, dtype=torch.float64)
    for own, other in ((x, y) for x in range(3) for y in range(3) if x != y):
        e = torch.exp(views[own] @ views[other].T / t)
        numerator, denominator = numerator + e.diagonal(), denominator + e.sum(1)
    expected = -torch.log(numerator / denominator)
    torch.testing.assert_close(mv_infonce(views, negatives="cross_view", reduction="none"), expected)
    assert (mv_infonce(views, reduction="none") > expected).all()


# ---- known defects of the official code


@pytest.mark.parametrize("temperature", [0.01, 0.005])
@pytest.mark.parametrize("name", OFFICIAL)
@on_every_backend
def test_low_temperatures_are_right_where_raw_exponentials_overflow(name, temperature, backend):
    """e^{1 / 0.01} and e^{1 / 0.005} are beyond float32. PVCLoss works on logits and does not overflow."""
    views = unit_views(4, 12, 8).float()
    broken = OFFICIAL[name](views, temperature=temperature)
    assert broken.isfinite() == (name == "pvc")

    low = case(views, temperature, torch.float32)
    assert_agreement(getattr(contrastile, name), getattr(reference, name), low, backend=backend)


@on_every_backend
def test_products_of_eight_views_overflow_earlier(backend):
    """Sums of e^{1/0.08} over 500 instances are 2e6 or so: finite, but not their product over eight views."""
    views = F.normalize(1.0 + 0.1 * unit_views(8, 500, 8), dim=-1).float()
    assert official.off_diagonal_sums(views[0], 0.08).isfinite().all()
    assert not official.mv_dhel(views, temperature=0.08).isfinite()
    expected = reference.mv_dhel(views.double(), temperature=0.08).item()
    assert mv_dhel(views, temperature=0.08, backend=backend).item() == pytest.approx(expected, rel=1e-6)


def test_the_arithmetic_branch_of_the_official_code_is_not_the_arithmetic_mean():
    """It is above the geometric form, where the mean of likelihoods is below it, but for a constant of the batch."""
    views, t = unit_views(3, 6, 5), 0.4
    exact = pvc(views, temperature=t, aggregation="arithmetic").item()
    geometric = pvc(views, temperature=t).item()
    branch = official.pvc_arithmetic(views, t).item()
    assert exact < geometric < branch + math.log(6) - math.log(2)
    assert branch != pytest.approx(exact, rel=0.1)
    two = pvc(views[:2], temperature=t).item()  # with two views there is nothing to aggregate, and the code is off too
    assert official.pvc_arithmetic(views[:2], t).item() == pytest.approx(two - math.log(6))


# ---- relations


def test_two_views_of_mv_dhel_are_dhel():
    views = unit_views(2, 11, 7)
    torch.testing.assert_close(mv_dhel(views, temperature=0.3), dhel(*views))


def test_two_views_of_pvc_need_no_aggregation():
    views = unit_views(2, 11, 7)
    geometric, arithmetic = (pvc(views, aggregation=name, reduction="none") for name in ("geometric", "arithmetic"))
    torch.testing.assert_close(geometric, arithmetic)


@on_every_form
def test_the_order_of_views_does_not_matter(loss, options):
    views = unit_views(4, 9, 5)
    torch.testing.assert_close(loss(views[[2, 0, 3, 1]], **options), loss(views, **options))


@on_every_form
def test_lists_tuples_and_tensors_are_the_same(loss, options):
    views = unit_views(3, 9, 5)
    expected = loss(views, reduction="none", **options)
    assert torch.equal(loss(list(views), reduction="none", **options), expected)
    assert torch.equal(loss(tuple(views), reduction="none", **options), expected)
    strided = views.transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(loss(strided, reduction="none", **options), expected)


@on_every_form
def test_a_converged_batch_resolves_its_last_digits(loss, options):
    """A loss of 1e-9 or so is far below a rounding of its logits, and is right all the same."""
    if loss is mv_dhel:
        pytest.skip("has no floor to converge to")
    views = torch.eye(8).expand(3, 8, 8).contiguous()
    found = loss(views, temperature=0.045, **options)
    expected = loss(views.double(), temperature=0.045, **options)
    assert 0 < expected < 1e-7
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@on_every_form
@on_every_backend
def test_duplicates_and_zero_rows(loss, options, backend):
    """All rows of a view equal, two views equal, a zero row: nothing is undefined."""
    views = unit_views(3, 7, 5)
    views[0] = views[0, 0]
    views[1] = views[2]
    views[2, 3] = 0.0
    truth = getattr(reference, loss.__name__)
    assert_agreement(
        partial(loss, **options), partial(truth, **options), case(views, 0.2, torch.float32), backend=backend
    )


# ---- small batches


@on_every_form
@on_every_backend
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_instance_has_no_negatives_and_loss_zero(loss, options, backend, reduction):
    views = unit_views(3, 1, 5).float().requires_grad_()
    value = loss(views, reduction=reduction, backend=backend, **options)
    assert torch.equal(value, torch.zeros((1,) if reduction == "none" else ()))
    value.sum().backward()
    assert torch.equal(views.grad, torch.zeros_like(views))


@on_every_form
def test_no_instances_and_one_dimension(loss, options):
    for shape in ((3, 0, 4), (2, 0, 1)):
        assert torch.equal(loss(torch.zeros(shape), **options), torch.zeros(()))
        assert loss(torch.zeros(shape), reduction="none", **options).shape == (0,)
    signs = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]).unsqueeze(2)
    expected = getattr(reference, loss.__name__)(signs.double(), **options).item()
    assert loss(signs, **options).item() == pytest.approx(expected, rel=1e-6)


# ---- pairs of views


@pytest.mark.parametrize(
    "loss, options", [(nt_xent, {"temperature": 0.3}), (dhel, {"include_augs": False})], ids=["nt_xent", "dhel"]
)
@pytest.mark.parametrize("mode", ["pairwise", "average"])
def test_aggregates_are_means_over_view_pairs(loss, options, mode):
    views = unit_views(4, 9, 5)
    if mode == "pairwise":
        pairs = list(combinations(views, 2))
    else:
        pairs = [(views[i], (views.sum(0) - views[i]) / 3) for i in range(4)]
    expected = sum(loss(x, y, **options) for x, y in pairs) / len(pairs)
    torch.testing.assert_close(pairwise_aggregate(views, loss, mode=mode, **options), expected)
    rows = pairwise_aggregate(views, loss, mode=mode, reduction="none", **options)
    torch.testing.assert_close(rows.mean(), expected)


@pytest.mark.parametrize("mode", ["pairwise", "average"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=id_of)
def test_aggregates_equal_their_reference(mode, dtype):
    views = [x.to(dtype).requires_grad_() for x in unit_views(3, 9, 5)]
    twins = [x.detach().double().requires_grad_() for x in views]
    pairwise_aggregate(views, nt_xent, mode=mode).backward()
    expected = reference.pairwise_aggregate(twins, reference.nt_xent, mode=mode)
    expected.backward()
    tolerance = 16 * EPS[dtype]
    torch.testing.assert_close(
        pairwise_aggregate(views, nt_xent, mode=mode).double(), expected, rtol=tolerance, atol=tolerance
    )
    largest = max(x.grad.abs().max().item() for x in twins)
    for x, y in zip(views, twins, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=tolerance, atol=tolerance * largest)


def test_any_loss_of_two_batches_can_be_aggregated():
    views = unit_views(3, 9, 5).float()
    clip = contrastile.losses.ClipLoss(learnable_scale=True)
    pairwise_aggregate(views, clip).backward()
    assert clip.log_logit_scale.grad.abs() > 0
    for loss, options in (
        (contrastile.info_nce, {"symmetric": True, "label_smoothing": 0.1}),
        (contrastile.siglip_loss, {"logit_scale": 10.0, "logit_bias": -10.0}),
        (contrastile.alignment, {}),
    ):
        both = pairwise_aggregate(views[:2], loss, **options)
        torch.testing.assert_close(both, loss(*views[:2], **options))


def test_two_views_average_is_both_orders():
    x, y = unit_views(2, 9, 5)
    found = pairwise_aggregate([x, y], contrastile.info_nce, mode="average")
    torch.testing.assert_close(found, 0.5 * (contrastile.info_nce(x, y) + contrastile.info_nce(y, x)))


# ---- types and arguments


@on_every_form
def test_lists_of_mixed_types_promote_like_torch(loss, options):
    views = list(unit_views(3, 9, 5))
    mixed = [views[0].float(), views[1].bfloat16(), views[2].half()]
    assert torch.equal(loss(mixed, **options), loss([x.float() for x in mixed], **options))
    for place in range(3):  # the widest type may come anywhere
        exact = [views[i] if i == place else x for i, x in enumerate(mixed)]
        assert loss(exact, **options).dtype == torch.float64
        assert torch.equal(loss(exact, **options), loss([x.double() for x in exact], **options))
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(
            loss([x.bfloat16() for x in views], **options), loss(torch.stack(views).bfloat16(), **options)
        )


X = torch.randn(6, 4)
BAD_VIEWS = {
    "a matrix": (X, ValueError, r"^views must have shape \(k, N, D\), got \(6, 4\)"),
    "four dimensions": (X[None, None], ValueError, r"^views must have shape \(k, N, D\), got \(1, 1, 6, 4\)"),
    "one view": (X[None], ValueError, "^views must be at least two.*, got 1"),
    "a list of one": ([X], ValueError, "^views must be at least two.*, got 1"),
    "an empty list": ([], ValueError, "^views must be at least two.*, got 0"),
    "integers": (torch.ones(2, 6, 4, dtype=torch.long), TypeError, "^views must be float32.*got torch.int64"),
    "a list of integers": ([X, X.long()], TypeError, r"^views\[1\] must be float32.*got torch.int64"),
    "a list of numbers": ([1.0, 2.0], TypeError, r"^views\[0\] must be a torch.Tensor, got float"),
    "a string": ("views", TypeError, "^views must be a torch.Tensor .*got str"),
    "a number": (1.0, TypeError, "^views must be a torch.Tensor .*got float"),
    "lengths": ([X, X[:5]], ValueError, r"^views\[1\] must have the shape of views\[0\], \(6, 4\), got \(5, 4\)"),
    "widths": ([X, X, X[:, :3]], ValueError, r"^views\[2\] must have the shape of views\[0\], \(6, 4\), got \(6, 3\)"),
    "devices": ([X, X.to("meta")], ValueError, r"^views\[1\] must be on cpu like the features, got meta"),
    "three dimensions in a list": ([X[None]] * 2, ValueError, r"^views\[0\] must have shape \(N, D\), got \(1, 6, 4\)"),
}


@pytest.mark.parametrize("case", BAD_VIEWS)
@pytest.mark.parametrize("loss", [mv_infonce, mv_dhel, pvc, lambda x: pairwise_aggregate(x, nt_xent)])
def test_bad_views(case, loss):
    views, error, message = BAD_VIEWS[case]
    with pytest.raises(error, match=message):
        loss(views)


@pytest.mark.parametrize(
    "call, option, choices",
    [
        (mv_infonce, "negatives", "'all', 'cross_view'"),
        (pvc, "aggregation", "'geometric', 'arithmetic'"),
        (lambda x, mode: pairwise_aggregate(x, nt_xent, mode=mode), "mode", "'pairwise', 'average'"),
    ],
)
@pytest.mark.parametrize("views", [unit_views(2, 4, 3), torch.zeros(2, 0, 3)], ids=["some", "none"])
def test_unknown_choices(call, option, choices, views):
    for value in ("mean", None, 1):
        with pytest.raises(ValueError, match=f"^{option} must be one of {choices}, got {value!r}"):
            call(views, **{option: value})


def test_include_augs_is_a_switch():
    with pytest.raises(TypeError, match=r"^include_augs must be a bool, got str"):
        dhel(X, X, include_augs="no")


@pytest.mark.parametrize("call", [reference.mv_infonce, reference.pvc, reference.pairwise_aggregate])
def test_references_refuse_unknown_choices_too(call):
    name = {"mv_infonce": "negatives", "pvc": "aggregation", "pairwise_aggregate": "mode"}[call.__name__]
    more = (reference.nt_xent,) if name == "mode" else ()
    with pytest.raises(ValueError, match=f"^{name} must be"):
        call(unit_views(2, 4, 3), *more, **{name: "mean"})
