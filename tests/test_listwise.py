"""PRO, Pearson and RankKL against their loops in float64."""

from __future__ import annotations

import pytest
import torch

from contrastile import pearson_loss, pro_loss, rank_kl_loss, reference
from support.launch import gather_from
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

G = torch.Generator().manual_seed(1)
N = 37
SCORES = torch.rand(N, generator=G, dtype=torch.float64) * 2.0 - 1.0
GRADES = torch.randint(0, 11, (N,), generator=G).double() / 2.0
LOSSES = {"pro_loss": pro_loss, "pearson_loss": pearson_loss, "rank_kl_loss": rank_kl_loss}
every_loss = pytest.mark.parametrize("name", LOSSES)


def both(name, scores, grades, **options):
    """Value and gradient of the loss, and in float64 of its reference."""
    results = []
    for function, x in ((LOSSES[name], scores), (getattr(reference, name), scores.double())):
        x = x.detach().clone().requires_grad_()
        value = function(x, grades, **options)
        results.append((value.detach(), *torch.autograd.grad(value, x)))
    return results


@every_loss
@pytest.mark.parametrize("grades", ["tied", "apart", "shifted", "whole"])
def test_value_and_gradient(name, grades):
    of = {
        "tied": GRADES, "apart": torch.randperm(N, generator=G).double() / 7.0, "shifted": GRADES - 1000.0,
        "whole": (2.0 * GRADES).long(),
    }[grades]  # fmt: skip
    (value, grad), (true, true_grad) = both(name, SCORES, of)
    torch.testing.assert_close(value, true, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(grad, true_grad, rtol=1e-9, atol=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(name, dtype):
    (value, grad), (true, true_grad) = both(name, SCORES.to(dtype), GRADES)
    assert value.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=1e-6)
    error = (grad.double() - true_grad).norm() / true_grad.norm()
    assert error < (1e-5 if dtype == torch.float32 else 2.0**-8)


@pytest.mark.parametrize("name", ["pro_loss", "rank_kl_loss"])
def test_temperature(name):
    (value, grad), (true, true_grad) = both(name, SCORES, GRADES, temperature=0.3)
    torch.testing.assert_close(value, true, rtol=1e-11, atol=0.0)
    torch.testing.assert_close(grad, true_grad, rtol=1e-9, atol=1e-12)


@every_loss
def test_lists_without_an_order(name):
    for n, grades in ((0, []), (1, [2.0]), (3, [1.0, 1.0, 1.0])):
        x = torch.rand(n, requires_grad=True)
        value = LOSSES[name](x, torch.tensor(grades))
        value.backward()
        assert x.grad.isfinite().all()
        if name != "rank_kl_loss" or n < 2:
            assert value == 0.0 and not x.grad.any()
    torch.testing.assert_close(*(x[0] for x in both("rank_kl_loss", SCORES, torch.ones(N))), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("equal", [1.0, 0.1])
def test_scores_without_a_direction(equal):
    x = torch.full((7,), equal, requires_grad=True)
    value = pearson_loss(x, torch.arange(7.0))
    value.backward()
    assert value.item() == pytest.approx(1.0, rel=1e-6) and not x.grad.any()


def test_a_list_that_is_nearly_right_keeps_its_digits():
    y = GRADES + 1e-6 * SCORES
    assert pearson_loss(y.float(), y.float()).abs() < 1e-12
    found = pearson_loss((GRADES + 1e-3 * SCORES).float(), GRADES)
    expected = both("pearson_loss", GRADES + 1e-3 * SCORES, GRADES)[1][0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-3) and expected < 1e-6


def test_grades_that_float32_does_not_tell_apart():
    y = 1.0 + torch.arange(N, dtype=torch.float64)[torch.randperm(N, generator=G)] * 1e-9
    assert len(y.float().unique()) < N
    found, true = both("rank_kl_loss", SCORES.float(), y)
    torch.testing.assert_close(found[0].double(), true[0], rtol=1e-5, atol=0.0)
    terms = pro_loss(SCORES.float(), y).item()
    assert terms == pytest.approx(both("pro_loss", SCORES, y)[1][0].item(), rel=1e-5)


@every_loss
def test_what_is_not_a_number(name):
    x = SCORES.clone()
    x[3] = torch.nan
    assert LOSSES[name](x, GRADES).isnan()
    grades = GRADES.clone()
    grades[3] = torch.nan
    with refuses(ValueError, "grades", "finite"):
        LOSSES[name](SCORES, grades)
    with refuses(ValueError, "grades", "shape"):
        LOSSES[name](SCORES, GRADES[1:])
    with refuses(ValueError, "scores", "N,"):
        LOSSES[name](SCORES[None], GRADES)
    with refuses(TypeError, "scores", "int64"):
        LOSSES[name](SCORES.long(), GRADES)
    with refuses(TypeError, "grades", "complex64"):
        LOSSES[name](SCORES, GRADES.to(torch.complex64))
    with refuses(ValueError, "grades", "grad"):
        LOSSES[name](SCORES, GRADES.clone().requires_grad_())


def test_temperatures_are_positive_numbers():
    for loss in (pro_loss, rank_kl_loss):
        with refuses(ValueError, "temperature", "> 0"):
            loss(SCORES, GRADES, temperature=0.0)
        with refuses(TypeError, "temperature", "number"):
            loss(SCORES, GRADES, temperature=torch.tensor(0.1))


SHARES = ((0, 11), (11, 11), (11, N))


def of_ranks(rank):
    low, high = SHARES[rank]
    found = []
    for loss in LOSSES.values():
        x = SCORES[low:high].clone().requires_grad_()
        value = loss(x, GRADES[low:high], group="world")
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    return found


@pytest.mark.dist
def test_the_list_of_all_ranks():
    """The mean of values is the list's, and gradients, summed over ranks, are three times its own."""
    results = gather_from(3, of_ranks)
    for place, name in enumerate(LOSSES):
        values, grads = zip(*(found[place] for found in results), strict=True)
        _, (true, true_grad) = both(name, SCORES, GRADES)
        torch.testing.assert_close(torch.stack(values).mean(), true, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(torch.cat(grads) / 3, true_grad, rtol=1e-9, atol=1e-12)


@needs_linux
def test_pro_holds_no_matrix():
    call = "contrastile.pro_loss(x[:, 0], y[:, 0].detach())"
    assert peak_bytes(call, rows=6000) < 0.6 * 6000 * 6000 * 4
