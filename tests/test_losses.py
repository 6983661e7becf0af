"""Every loss on every backend and type against its float64 reference, and the conventions for degenerate batches."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile.catalog import CATALOG
from contrastile.testing import EPS, SMALLEST, compare, references, run
from support.combinations import each_once
from support.loss_cases import (
    DTYPES,
    HALF,
    call,
    default,
    differentiable,
    each_tensor,
    emptied,
    every_loss,
    every_variant,
    every_variant_once,
    gradients,
    id_of,
    leaves,
    make,
    required,
    takes,
    usable,
)

FULL = (torch.float32, torch.float64)
on_full_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", FULL), ids=id_of)
on_half_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", HALF), ids=id_of)
# one of each kind of call: one side, two, b = a, blocks, sums, distances, vectors of statistics
MANY_PIECES = ("info_nce", "clip_loss", "nt_xent", "sup_con", "siglip_loss", "uniformity", "symile_loss", "dclw", "pvc")
LARGE = 530  # above the size that a backend may treat as one small problem


SLOW = ("late_interaction_info_nce", "word_region_loss")  # their references take all pairs one by one, in Python


def few(card, n):
    return min(n, 13) if card.name in SLOW else n


def engine(card, backend):
    """The option of losses that run on backends; the others run in plain torch once."""
    if not card.gemm and backend != "torch":
        pytest.skip("no pairs, no backend")
    return {"backend": backend} if card.gemm else {}


def assert_close(result):
    assert result.ok, result.detail


# ---- accuracy


references_once = cache(lambda place, variant, dtype: references(CATALOG[place], full(CATALOG[place], variant, dtype)))


def full(card, variant, dtype):
    return make(card, variant, few(card, 33), 16, dtype)


@every_variant
@on_full_precision
def test_value_and_gradients_equal_the_reference(card, variant, backend, dtype):
    expected = references_once(CATALOG.index(card), variant, dtype)
    assert_close(compare(card, full(card, variant, dtype), expected, **engine(card, backend)))


@every_variant_once("backend, dtype, n, d", usable("cpu", FULL), [(1, 7), (2, 3)])
def test_the_smallest_batches_equal_the_reference(card, variant, backend, dtype, n, d):
    assert_close(compare(card, make(card, variant, n, d, dtype), **engine(card, backend)))


@every_variant_once("backend, dtype, n, d", usable("cpu", HALF), [(5, 17), (48, 8)])
def test_half_precision_equals_the_reference(card, variant, backend, dtype, n, d):
    case = make(card, variant, few(card, n), d, dtype)
    if case.kwargs.get("normalize"):
        pytest.skip("rounds the unit rows to the input type, which the reference does not; has a test of its own")
    assert_close(compare(card, case, **engine(card, backend)))


@every_variant_once("dtype, reduction", HALF, ["mean", "none"])
def test_every_gradient_is_rounded_once(card, variant, dtype, reduction):
    """The torch backend multiplies in float32, so each element is within half a unit in the last place (EPS of the half
    types) of the truth, but for float32's own error. Two rounded gradients of a tensor used twice would miss that."""
    case = make(card, variant, 48, 8, dtype)
    if case.kwargs.get("normalize") or case.derived:
        pytest.skip("rounds unit rows or derived features to the input type, which the reference does not")
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    truth = run(card.reference, case, torch.Tensor.double, **options).grads
    found = run(card.function, case, lambda x: x, **options, **engine(card, "torch")).grads
    score_gradient = case.magnitude if reduction == "none" else case.magnitude / 48
    for name, true in truth.items():
        if true.dim() > 1:
            noise = 4 * EPS[torch.float32] * case.magnitude * max(true.abs().max().item(), score_gradient)
            limit = true.abs() * EPS[dtype] * 1.01 + noise + SMALLEST[dtype]
            assert ((found[name].double() - true).abs() <= limit).all(), name


@every_loss
@on_half_precision
def test_a_single_pair_in_half_precision(card, backend, dtype):
    assert_close(compare(card, default(card, 1, 7, dtype), **engine(card, backend)))


@every_variant_once("backend, dtype, reduction", usable("cpu", (torch.float32, torch.bfloat16)), ["sum", "none"])
def test_reductions_equal_the_reference(card, variant, backend, dtype, reduction):
    if not takes(card, "reduction"):
        pytest.skip("one number by definition")
    case = full(card, variant, dtype)
    if case.kwargs.get("normalize") and dtype in HALF:
        pytest.skip("rounds the unit rows to the input type, which the reference does not")
    assert_close(compare(card, case, reduction=reduction, **engine(card, backend)))


@pytest.mark.parametrize(
    "card, backend, dtype",
    each_once([card for card in CATALOG if card.name in MANY_PIECES], usable("cpu", (torch.float32, torch.bfloat16))),
    ids=id_of,
)
def test_batches_beyond_one_small_problem(card, backend, dtype, two_threads):
    assert_close(compare(card, default(card, LARGE, 20, dtype), backend=backend))


@pytest.mark.parametrize("name", ["clip_loss", "nt_xent"])
@pytest.mark.parametrize("budget", [0, 1, 700_000, 1 << 40], ids=lambda b: f"{b} bytes")
@pytest.mark.parametrize("backend, dtype", usable("cpu", (torch.float32,)), ids=id_of)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_memory_budget_is_right(name, budget, backend, dtype, reduction):
    card = next(card for card in CATALOG if card.name == name)
    case = default(card, LARGE, 12, dtype)
    assert_close(compare(card, case, backend=backend, memory_budget=budget, reduction=reduction))


@pytest.mark.parametrize("dtype", HALF, ids=id_of)
@pytest.mark.parametrize("card", [card for card in CATALOG if takes(card, "normalize")], ids=id_of)
def test_normalize_rounds_unit_rows_to_the_input_type(card, dtype):
    case = each_tensor(default(card), lambda x: (3.0 * x).to(dtype) if x.dim() > 1 else x)
    unit = each_tensor(case, lambda x: F.normalize(x.float(), dim=-1).to(dtype) if x.dim() > 1 else x)
    assert torch.equal(call(card, case, normalize=True), call(card, unit))


@every_loss
def test_results_are_float32_or_float64_and_gradients_keep_their_type(card):
    for dtype, expected in zip((*HALF, *FULL), (torch.float32,) * 3 + (torch.float64,), strict=True):
        case = default(card, dtype=dtype)
        assert call(card, case).dtype == expected
        assert call(card, case).dim() == 0
        assert [g.dtype for g in gradients(card, case)] == [x.dtype for x in leaves(case)]


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float64)], ids=str)
@pytest.mark.parametrize("name", ["info_nce", "clip_loss", "nt_xent", "uniformity", "alignment"])
def test_mixed_types_promote_like_torch(name, dtypes):
    card = next(card for card in CATALOG if card.name == name)
    x, y, *rest = make(card, "two sets" if name == "uniformity" else "default", 9, 8).args
    x, y = x.to(dtypes[0]), y.to(dtypes[1])
    wide = torch.promote_types(*dtypes)
    assert torch.equal(card.function(x, y, *rest), card.function(x.to(wide), y.to(wide), *rest))


def test_extra_negatives_of_another_type_promote_too():
    q, k, extra = (F.normalize(torch.randn(6, 8, dtype=torch.float64), dim=-1) for _ in range(3))
    for name, more in (("negatives", extra), ("hard_negatives", extra[:, None])):
        expected = contrastile.info_nce(q.float().double(), k.float().double(), **{name: more})
        found = contrastile.info_nce(q.float(), k.float(), **{name: more})
        assert found.dtype == torch.float64, name
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", HALF, ids=id_of)
def test_a_temperature_in_half_precision_is_inverted_in_float32(dtype):
    q, k = (F.normalize(torch.randn(20, 8), dim=-1) for _ in range(2))
    temperature = torch.tensor(0.07, dtype=dtype)
    for loss in (contrastile.info_nce, contrastile.nt_xent, contrastile.debiased_info_nce):
        found, expected = loss(q, k, temperature=temperature), loss(q, k, temperature=float(temperature))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# ---- conventions


@pytest.mark.parametrize("card", [card for card in CATALOG if takes(card, "reduction")], ids=id_of)
def test_sum_mean_and_none_agree(card):
    case = default(card, dtype=torch.float64)
    rows = call(card, case, reduction="none")
    parts = rows.chunk(2) if card.name == "multi_positive" else [rows]  # each direction has a mean
    counted = [int((x != 0).sum()) for x in parts]  # sup_con: rows without positives are 0 and not in the mean
    if card.name == "hydra_loss":  # over pairs
        counted = [int((case.args[3][:, None] == case.args[2]).sum())]
    torch.testing.assert_close(call(card, case, reduction="sum"), rows.sum())
    mean = sum(x.sum() / count for x, count in zip(parts, counted, strict=True))
    torch.testing.assert_close(call(card, case), mean)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@every_loss
def test_an_empty_batch_is_zero_with_zero_gradients(card, reduction):
    """Also for a temperature or scale: an optimizer or DDP must not find a parameter without gradient."""
    case = differentiable(emptied(default(card)))
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    value = call(card, case, **options)
    shape = (0,) if reduction == "none" and options else ()
    assert torch.equal(value, torch.zeros(shape))
    value.sum().backward()
    for x in leaves(case):
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))


NO_PAIRS = ("debiased_info_nce", "debiased_nt_xent", "dcl", "dclw", "dhel", "uniformity", "sup_con", "symile_loss")
NO_PAIRS += ("joint_entropy",)


@pytest.mark.parametrize("name", NO_PAIRS)
def test_one_item_has_no_pairs_and_loss_zero(name):
    """dcl: the denominator is empty; sup_con: no positive; uniformity: no pair; symile_loss: no negative."""
    card = next(card for card in CATALOG if card.name == name)
    case = differentiable(default(card, 1))
    value = call(card, case)
    value.backward()
    assert torch.equal(value, torch.zeros(()))
    assert all(x.grad is not None and torch.equal(x.grad, torch.zeros_like(x)) for x in leaves(case))


@pytest.mark.parametrize("backend", [name for name, _ in usable("cpu", (torch.float32,))])
def test_rows_without_positives_do_not_count(backend):
    x, labels = F.normalize(torch.randn(6, 8), dim=-1), torch.tensor([0, 0, 1, 2, 2, 3])
    x.requires_grad_()
    rows = contrastile.sup_con(x, labels, reduction="none", backend=backend)
    assert torch.equal(rows == 0, torch.tensor([False, False, True, False, False, True]))
    mean = contrastile.sup_con(x, labels, backend=backend)
    torch.testing.assert_close(mean, rows.sum() / 4)
    nothing = contrastile.sup_con(x, torch.arange(6), backend=backend)
    assert torch.equal(nothing, torch.zeros(()))
    assert torch.equal(torch.autograd.grad(nothing, x)[0], torch.zeros_like(x))


def test_views_of_sup_con_are_rows_with_their_samples_label():
    x, labels = F.normalize(torch.randn(3, 5, 8), dim=-1), torch.tensor([0, 1, 0, 2, 3])
    flat = contrastile.sup_con(x.flatten(0, 1), labels.repeat(3), reduction="none")
    assert torch.equal(contrastile.sup_con(x, labels, reduction="none"), flat.view(3, 5))
    assert torch.equal(contrastile.sup_con(list(x), labels, reduction="none"), flat.view(3, 5))
    assert torch.equal(contrastile.sup_con(x[:1], labels), contrastile.sup_con(x[0], labels))
    mixed = [x[0], x[1].bfloat16(), x[2].double()]  # types promote like torch
    assert contrastile.sup_con(mixed, labels).dtype == torch.float64


def test_views_come_first_in_every_loss():
    """As many views as samples: which is which is not to be seen, and must be the same everywhere."""
    x = F.normalize(torch.randn(4, 4, 8), dim=-1)
    found = contrastile.sup_con(x, torch.arange(4), temperature=0.5)
    expected = contrastile.sup_con(x.flatten(0, 1), torch.arange(4).repeat(4), temperature=0.5)
    torch.testing.assert_close(found, expected)
    pair = contrastile.sup_con(x[:2], torch.arange(4), temperature=0.5)
    torch.testing.assert_close(pair, contrastile.nt_xent(*x[:2], temperature=0.5))
    torch.testing.assert_close(contrastile.pairwise_aggregate(x[:2], contrastile.nt_xent), contrastile.nt_xent(*x[:2]))


def test_views_last_are_refused_with_the_way_to_convert_them():
    x, labels = torch.randn(5, 2, 8), torch.arange(5)
    with pytest.raises(ValueError, match=r"views first, \(k, N, D\).*5 labels, got \(5, 2, 8\).*features\.unbind\(1\)"):
        contrastile.sup_con(x, labels)
    assert contrastile.sup_con(x.unbind(1), labels, normalize=True, reduction="none").shape == (2, 5)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_alignment_of_equal_rows_has_gradient_0(alpha, dtype):
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 0.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    rows = contrastile.alignment(x, y, alpha=alpha, reduction="none")
    assert torch.equal(rows, torch.tensor([0.0, 0.0, 1.0], dtype=rows.dtype))
    rows.sum().backward()
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [alpha, 0.0]], dtype=dtype)
    assert torch.equal(x.grad, expected) and torch.equal(y.grad, -expected)


@pytest.mark.parametrize("options", [{"false_negative_margin": -3.0}, {"query_ids": torch.zeros(7, dtype=torch.int64)}])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_own_positive_is_never_removed(options, symmetric):
    """With every other column removed, the softmax has one candidate and the loss is exactly 0."""
    q, k = (F.normalize(torch.randn(7, 8), dim=-1) for _ in range(2))
    assert contrastile.info_nce(q, k, symmetric=symmetric, **options).abs() < 1e-6


NUMBERS = {"temperature": 0.3, "t": 1.1, "sigma": 0.7, "logit_scale": 9.1, "logit_bias": -3.3, "gamma": 4.2}
NUMBERS |= {"uniformity_weight": 0.3, "cross_uniformity_weight": 1.7}
NUMBER_CASES = [(card, name) for card in CATALOG for name in NUMBERS if takes(card, name)]


@pytest.mark.parametrize("card, parameter", NUMBER_CASES, ids=id_of)
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_numbers_and_tensors_are_the_same_parameter(card, parameter, dtype):
    """In float64 a number must not lose digits on its way, and tensors of one element are numbers."""
    value = torch.tensor(NUMBERS[parameter], dtype=dtype)
    case = default(card, dtype=dtype)
    tensors = [x for x in case.args if x.dim()]
    others = required(card, case) | {name: NUMBERS[name] for name in ("logit_scale",) if takes(card, name)}
    found, *same = (
        card.function(*tensors, **{**others, parameter: x}) for x in (value.item(), value, value.reshape(1))
    )
    for x in same:
        torch.testing.assert_close(found, x, rtol=4 * torch.finfo(dtype).eps, atol=0.0)
