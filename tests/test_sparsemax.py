"""Sparsemax against sorted sums in float64, and what it says of masks, infinities and NaN."""

import pytest
import torch

from contrastile import reference, sparsemax
from support.refusals import refuses

INF, NAN = torch.inf, torch.nan


def scores(*shape, spread=1.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4), (4, 1), (2, 16_384), (6,)], ids=str)
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_the_nearest_probabilities(shape, spread):
    x = scores(*shape, spread=spread) + 50.0
    expected = reference.sparsemax(x)
    torch.testing.assert_close(sparsemax(x), expected, rtol=0.0, atol=1e-12)
    low = sparsemax(x.float())
    torch.testing.assert_close(low.double(), reference.sparsemax(x.float().double()), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(low.sum(-1), torch.ones(shape[:-1]), rtol=0.0, atol=1e-5)


def test_derivatives():
    """Up to the second, where the support does not change."""
    x = scores(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, x)
    assert torch.autograd.gradgradcheck(lambda z: sparsemax(z).square(), x)


def test_the_gradient_of_16_thousand_scores_is_exact():
    x = scores(3, 16_384, spread=0.05).requires_grad_()
    up = scores(3, 16_384)
    (found,) = torch.autograd.grad(sparsemax(x), x, up)
    support = sparsemax(x) > 0
    mean = torch.where(support, up, 0.0).sum(1, keepdim=True) / support.sum(1, keepdim=True)
    assert 10 < support.sum() < 16_384
    torch.testing.assert_close(found, torch.where(support, up - mean, 0.0), rtol=0.0, atol=1e-12)


def test_equal_scores_share():
    torch.testing.assert_close(sparsemax(torch.full((1, 5), 3.0)), torch.full((1, 5), 0.2))


@pytest.mark.parametrize(
    "row, expected",
    [
        ([1.0, INF, INF, 0.0], [0.0, 0.5, 0.5, 0.0]),
        ([-INF, 0.0, 0.0, -INF], [0.0, 0.5, 0.5, 0.0]),
        ([-INF] * 4, [0.0] * 4),
        ([1.0, NAN, INF, 0.0], [NAN] * 4),
    ],
    ids=str,
)
def test_what_is_not_finite(row, expected):
    x = torch.tensor([row], requires_grad=True)
    found = sparsemax(x)
    torch.testing.assert_close(found, torch.tensor([expected]), equal_nan=True)
    if not found.isnan().any():
        found.square().sum().backward()
        assert x.grad.isfinite().all()


def test_a_mask():
    x = scores(6, 9)
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[2] = False
    spoilt = torch.where(mask, x, NAN).requires_grad_()
    found = sparsemax(spoilt, mask=mask)
    for i in range(6):
        expected = torch.zeros(9, dtype=torch.float64)
        if mask[i].any():
            expected[mask[i]] = reference.sparsemax(x[i][mask[i]])
        torch.testing.assert_close(found[i], expected, rtol=0.0, atol=1e-12)
    found.square().sum().backward()
    assert spoilt.grad.isfinite().all() and not spoilt.grad[~mask].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    x = scores(5, 40, spread=0.3).to(dtype)
    assert torch.equal(sparsemax(x), sparsemax(x.float()).to(dtype))


def test_no_scores():
    assert sparsemax(torch.zeros(3, 0)).shape == (3, 0)
    assert sparsemax(torch.zeros(0, 3)).shape == (0, 3)


def test_bad_input():
    with refuses(ValueError, "^x must have shape", r"\(\.\.\., K\)", r"got \(\)"):
        sparsemax(torch.tensor(1.0))
    with refuses(TypeError, "^x must be floating point", "got torch.int64"):
        sparsemax(torch.ones(2, 3, dtype=torch.int64))
    with refuses(ValueError, "^mask must have shape", r"\(2, 3\)", r"got \(3,\)"):
        sparsemax(torch.ones(2, 3), mask=torch.ones(3, dtype=torch.bool))
    with refuses(TypeError, "^x must be a torch.Tensor", "got list"):
        sparsemax([1.0])
