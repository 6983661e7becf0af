"""Mathematics of a pair against float64, in Triton's interpreter; test_interpreted_tiles.py runs them. The interpreter
does not fuse products with sums, and its exponentials and roots are exact."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import softplus

from contrastile.triton_kernels import functors

NAN, INF = torch.nan, torch.inf


@triton.jit
def evaluate(X, Log1p, Term, Slope, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(X + at)
    tl.store(Log1p + at, functors.log1p_unit(tl.abs(x)))
    tl.store(Term + at, functors.softplus_term(x))
    tl.store(Slope + at, functors.softplus_slope(x))


def evaluated(x: Tensor) -> list[Tensor]:
    out = [torch.empty_like(x) for _ in range(3)]
    evaluate[(len(x) // 4096,)](x, *out, SIZE=4096)
    return out


def units(found: Tensor, exact: Tensor) -> Tensor:
    """The error in units in the last place of the exact numbers."""
    unit = torch.exp2(exact.abs().clamp(min=2.0**-126).log2().floor() - 23)
    return (found.double() - exact).abs() / unit


def test_the_logarithm_is_right_to_two_units_for_all_magnitudes():
    """Denormal numbers as well."""
    generator = torch.Generator().manual_seed(0)
    y = torch.cat([torch.rand(8192, generator=generator), torch.exp2(-149 * torch.rand(8188, generator=generator))])
    y = torch.cat([y, torch.tensor([0.0, 1.0, 2.0**-149, 2.0**-126])])
    error = units(evaluated(y)[0], torch.log1p(y.double()))
    assert error.max() <= 2 and error.max() > 0.5


def test_softplus_and_its_slope_for_all_magnitudes():
    """Up to the rounding of z in the exponential."""
    z = torch.linspace(-87, 87, 8188)
    z = torch.cat([z, torch.tensor([0.0, -0.0, 1e-40, -1e-40])])
    _, term, slope = evaluated(z)
    exact = z.double()
    assert (units(term, softplus(exact, threshold=100)) <= 3 + exact.abs()).all()
    assert (units(slope, torch.sigmoid(exact)) <= 4 + exact.abs()).all()


@pytest.mark.parametrize("z, term, slope", [(INF, INF, 1.0), (-INF, 0.0, 0.0), (NAN, NAN, NAN), (-1e30, 0.0, 0.0)])
def test_softplus_of_what_is_not_finite(z, term, slope):
    _, *found = (x[:1] for x in evaluated(torch.full((4096,), z)))
    torch.testing.assert_close(torch.cat(found), torch.tensor([term, slope]), rtol=0.0, atol=0.0, equal_nan=True)
