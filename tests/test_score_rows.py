"""DCD, the Jensen-Shannon divergence and PCGrad against their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from contrastile import dcd_loss, js_divergence, project_conflicting, reference, teacher_hard_negatives
from support.launch import gather_from
from support.refusals import refuses

G = torch.Generator().manual_seed(8)
N, K = 9, 6
SCORES, TEACHER = (2.0 * torch.randn(N, K, generator=G, dtype=torch.float64) for _ in "ab")
CASES = {
    "dcd": (dcd_loss, reference.dcd_loss, {}),
    "dcd of the paper": (dcd_loss, reference.dcd_loss, {"per_sample": True, "alpha": 0.7}),
    "js": (js_divergence, reference.js_divergence, {}),
    "js, sum": (js_divergence, reference.js_divergence, {"reduction": "sum"}),
    "js, none": (js_divergence, reference.js_divergence, {"reduction": "none"}),
}


def outcome(function, options, *given):
    own = [x.detach().clone().requires_grad_() for x in given]
    value = function(*own, **options)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    grads = torch.autograd.grad((value * weights).sum(), own, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(own, grads, strict=True))]


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(case):
    ours, dense, options = CASES[case]
    for own, true in zip(*(outcome(x, options, SCORES, TEACHER) for x in (ours, dense)), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-11, atol=1e-14)
    half = outcome(ours, options, SCORES.bfloat16(), TEACHER.bfloat16())
    assert half[0].dtype == torch.float32 and half[1].dtype == torch.bfloat16
    true = outcome(dense, options, SCORES.bfloat16().double(), TEACHER.bfloat16().double())
    torch.testing.assert_close(half[0].double(), true[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(half[1].double(), true[1], rtol=2.0**-7, atol=1e-5)


def test_batches_that_are_empty_or_without_doubt():
    assert dcd_loss(SCORES[:0], TEACHER[:0]) == 0.0 and js_divergence(SCORES[:0], TEACHER[:0]) == 0.0
    assert js_divergence(SCORES[:0], TEACHER[:0], reduction="none").shape == (0,)
    sure = torch.full((3, 4), -1e4).index_fill(1, torch.tensor([0]), 0.0)
    assert dcd_loss(SCORES[:3, :4].float(), sure).isfinite()
    x = SCORES.clone()
    x[1, 2] = torch.nan
    assert dcd_loss(x, TEACHER).isnan() and js_divergence(x, TEACHER).isnan()


def test_the_divergence_of_predictions_that_exclude_each_other():
    sure = torch.tensor([[0.0, -torch.inf, -200.0]], requires_grad=True)
    other = torch.tensor([[-torch.inf, 0.0, -200.0]], requires_grad=True)
    value = js_divergence(sure, other)
    assert value.item() == pytest.approx(math.log(2.0))
    assert all(x.isfinite().all() for x in torch.autograd.grad(value, (sure, other)))
    assert js_divergence(SCORES, SCORES + 3.0).item() == pytest.approx(0.0, abs=1e-15)


def test_the_divergence_where_no_prediction_has_a_class():
    """It is that of the other classes."""
    x, y = (z.index_fill(1, torch.tensor([2]), -torch.inf) for z in (SCORES, TEACHER))
    others = [0, 1, 3, 4, 5]
    own, true = (outcome(js_divergence, {}, a, b) for a, b in ((x, y), (SCORES[:, others], TEACHER[:, others])))
    torch.testing.assert_close(own[0], true[0], rtol=1e-12, atol=0.0)
    for grad, expected in zip(own[1:], true[1:], strict=True):
        torch.testing.assert_close(grad[:, others], expected, rtol=1e-12, atol=1e-16)
        assert not grad[:, 2].any()


def test_the_divergence_stays_in_its_range():
    x = torch.randn(2000, K, generator=G)
    near = (x + 1e-4 * torch.randn(x.shape, generator=G)).requires_grad_()
    rows = js_divergence(x, near, reduction="none")
    assert rows.min() == 0.0
    assert torch.autograd.grad(rows.sum(), near)[0].any(1).all()  # also of rows whose value is clamped


def test_columns_that_a_teacher_finds_hard():
    for k in (1, 3, K - 1):
        assert torch.equal(teacher_hard_negatives(TEACHER, k), reference.teacher_hard_negatives(TEACHER, k))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("per_row", [False, True])
def test_gradients_that_conflict(count, per_row):
    given = [torch.randn(7, 3, generator=G, dtype=torch.float64) for _ in range(count)]
    given[1] = torch.where(torch.arange(7)[:, None] < 4, given[1] - given[0], given[1])  # some conflict for sure
    found = project_conflicting(given, per_row=per_row)
    for own, true in zip(found, reference.project_conflicting(given, per_row=per_row), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-12, atol=1e-14)
    if count == 2:  # what is left points against nothing that was given
        for x, y in ((found[0], given[1]), (found[1], given[0])):
            assert ((x * y).sum(1) if per_row else (x * y).sum()).min() > -1e-12
    assert not torch.equal(found[0], given[0])


def test_gradients_that_agree_or_vanish():
    first = torch.randn(5, generator=G)
    for other in (first.clone(), torch.zeros(5)):
        assert all(map(torch.equal, project_conflicting([first, other]), [first, other]))
    assert not any(x.any() for x in project_conflicting([first, -first]))


@pytest.mark.parametrize("size", [1e-44, 1e-25, 1e25])
def test_gradients_whose_squares_are_no_numbers(size):
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([-size, 0.0])
    assert torch.equal(project_conflicting([first, second])[0], torch.tensor([0.0, 2.0]))
    assert torch.equal(project_conflicting([second, first])[1], torch.tensor([0.0, 2.0]))
    assert [x.shape for x in project_conflicting([torch.ones(3, 0)] * 2, per_row=True)] == [(3, 0)] * 2


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: dcd_loss(SCORES, TEACHER[:, 1:]), ValueError, ["teacher_scores", "shape"]),
        (lambda: dcd_loss(SCORES[:, :0], TEACHER[:, :0]), ValueError, ["scores", "column"]),
        (lambda: dcd_loss(SCORES, TEACHER, alpha=1.5), ValueError, ["alpha", "1.5"]),
        (lambda: teacher_hard_negatives(TEACHER, K), ValueError, ["k", f"{K}"]),
        (lambda: teacher_hard_negatives(TEACHER, 0), ValueError, ["k", ">= 1"]),
        (lambda: js_divergence(SCORES, TEACHER, reduction="batchmean"), ValueError, ["reduction"]),
        (lambda: project_conflicting([SCORES]), ValueError, ["gradients", "two"]),
        (lambda: project_conflicting([SCORES, TEACHER[1:]]), ValueError, [r"gradients\[1\]", "shape"]),
        (lambda: project_conflicting([SCORES[0], TEACHER[0]], per_row=True), ValueError, ["per_row"]),
    ],
)
def test_refusals(call, error, words):
    with refuses(error, *words):
        call()


SHARES = ((0, 2), (2, 2), (2, N))


def of_ranks(rank):
    low, high = SHARES[rank]
    found = []
    for name in ("dcd", "dcd of the paper", "js", "js, sum"):
        loss, _, options = CASES[name]
        found.append(outcome(loss, options | {"group": "world"}, SCORES[low:high], TEACHER[low:high]))
    return found


@pytest.mark.dist
def test_the_batch_of_all_ranks():
    results = gather_from(3, of_ranks)
    for place, name in enumerate(("dcd", "dcd of the paper", "js", "js, sum")):
        _, dense, options = CASES[name]
        true = outcome(dense, options, SCORES, TEACHER)
        values, *grads = zip(*(found[place] for found in results), strict=True)
        torch.testing.assert_close(torch.stack(values).mean(), true[0], rtol=1e-11, atol=0.0)
        for own, expected in zip(grads, true[1:], strict=True):
            torch.testing.assert_close(torch.cat(own) / 3, expected, rtol=1e-10, atol=1e-14)
