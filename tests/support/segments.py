"""Maxima over segments: problems, a dense oracle, and checks of any backend against it.

Features are small multiples of 1/8, so that every type holds them and scores are exact: values must be equal, and equal
scores are many, of which the first must be found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import segment_reduce
from contrastile.monoid import stat_dtype
from contrastile.testing import EPS, SMALLEST

from .oracle import ROUNDINGS, within

RAGGED = {
    "ragged": [0, 3, 4, 11, 12, 30, 67],
    "empty among them": [0, 0, 5, 5, 5, 9, 9],
    "all empty": [0, 0, 0],
    "no segment": [0],
    "one long": [0, 1031],
    "many short": list(range(0, 75)),
    "primes": [0, 2, 5, 10, 17, 28, 41, 58, 77, 100, 129, 160, 197],
    "columns before the first": [13, 20, 41],
}


@dataclass(frozen=True)
class Problem:
    rows: Tensor
    cols: Tensor
    segments: int | Tensor
    mask: Tensor | None = None

    def bounds(self) -> list[int]:
        if isinstance(self.segments, Tensor):
            return self.segments.tolist()
        return list(range(0, len(self.cols) + 1, self.segments))

    def to(self, device: str) -> Problem:
        moved = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def exact(n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(1000 * n + d + seed)
    return (torch.randint(-8, 9, (n, d), generator=g) / 8).to(dtype)


def problem(
    n: int, bounds: list[int], d: int, dtype: torch.dtype = torch.float32, masked: bool = False, extra: int = 0
) -> Problem:
    """Ragged segments; `extra` columns behind the last."""
    columns = bounds[-1] + extra
    mask = torch.rand(columns, generator=torch.Generator().manual_seed(n)) < 0.6 if masked else None
    return Problem(exact(n, d, dtype), exact(columns, d, dtype, 1), torch.tensor(bounds), mask)


def largest(z: Tensor, bounds: list[int], mask: Tensor | None) -> Tensor:
    """Written from the docstring: the first of equals, -inf where there is none."""
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf)
    nothing = z.new_full((len(z), 1), -torch.inf)
    found = [torch.cat([z[:, i:j], nothing], 1).max(1).values for i, j in pairwise(bounds)]
    return torch.stack(found, 1) if found else z.new_empty(len(z), 0)


def outcome(x: Problem, backend: str, weights: Tensor) -> list[Tensor]:
    """Values and both gradients."""
    rows, cols = (t.detach().requires_grad_() for t in (x.rows, x.cols))
    values = segment_reduce(rows, cols, x.segments, mask=x.mask, backend=backend)
    return [values.detach(), *torch.autograd.grad(values, (rows, cols), weights.to(values))]


def check(x: Problem, backend: str, device: str = "cpu") -> None:
    """Values equal those of float64; gradients within the rounding of score gradients, products and the result."""
    a, b = (t.double().requires_grad_() for t in (x.rows, x.cols))
    z = a @ b.T
    truth = largest(z, x.bounds(), x.mask)
    g = torch.Generator().manual_seed(7)
    weights = torch.randn(truth.shape, generator=g).double()
    (dz,) = torch.autograd.grad(truth, z, weights) if truth.numel() else (torch.zeros_like(z),)
    dz = dz.nan_to_num(0.0)
    values, *grads = (t.cpu() for t in outcome(x.to(device), backend, weights.to(device)))
    dtype, low = x.rows.dtype, EPS[stat_dtype(x.rows.dtype)]
    assert values.dtype == stat_dtype(dtype)
    assert torch.equal(values.double(), truth)
    rounded = low if backend == "torch" else EPS[dtype]
    for name, found, left, right in (("rows", grads[0], dz, b), ("cols", grads[1], dz.T, a)):
        true, size = (left @ right).detach(), (left.abs() @ right.abs()).detach()
        assert found.dtype == dtype
        within(f"d{name}", found, true, (rounded + ROUNDINGS * low) * size + EPS[dtype] * true.abs() + SMALLEST[dtype])


def tokens(n: int, length: int, d: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, length, d, generator=g, dtype=torch.float64), dim=2)


def token_mask(n: int, length: int, seed: int) -> Tensor:
    """Any token may be padding; the second item is all padding."""
    mask = torch.rand(n, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[:, 0] = True
    mask[1:2] = False
    return mask


def check_equal_columns(backend: str) -> None:
    """The first gets the gradient."""
    bounds = [0, 1, 20, 53]
    x = Problem(torch.ones(3, 2), torch.ones(53, 2), torch.tensor(bounds))
    _, _, grad = outcome(x, backend, torch.tensor([[1.0, 2.0, 3.0]] * 3))
    expected = torch.zeros(53, 2)
    expected[bounds[:-1]] = torch.tensor([3.0, 6.0, 9.0])[:, None]
    assert torch.equal(grad, expected)


def check_nan_and_infinity(backend: str, value: float) -> None:
    """They stay in their segment."""
    x = problem(40, RAGGED["primes"], 6)
    x.rows[3, 2], x.cols[12, 1], x.cols[100, 4] = value, value, value
    found, truth = (
        segment_reduce(x.rows, x.cols, x.segments, backend=backend),
        largest(x.rows @ x.cols.T, x.bounds(), None),
    )
    assert torch.equal(found.isnan(), truth.isnan()) and (truth.isnan().any() or value == -torch.inf)
    assert torch.equal(found.nan_to_num(7.0), truth.nan_to_num(7.0))
    touched = truth.isnan() | truth.isinf()
    assert not touched.all()


def check_the_first_nan(backend: str) -> None:
    """It gets the gradient."""
    x = problem(2, [0, 9], 3)
    x.cols[[4, 6]] = torch.nan
    _, _, grad = outcome(x, backend, torch.ones(2, 1))
    assert (grad[4] != 0).all() and (grad[[0, 1, 2, 3, 5, 6, 7, 8]] == 0).all()


def check_dropped_columns(backend: str, value: float) -> None:
    """What the mask drops does no harm."""
    clean = problem(9, RAGGED["ragged"], 5, masked=True)
    assert clean.mask is not None
    dirty = replace(clean, cols=torch.where(clean.mask[:, None], clean.cols, value))
    weights = torch.ones(9, 6)
    for found, expected in zip(outcome(dirty, backend, weights), outcome(clean, backend, weights), strict=True):
        assert torch.equal(found, expected)


def check_minus_infinity(backend: str) -> None:
    """Scores of -inf are as none."""
    x = Problem(torch.tensor([[-torch.inf]]), torch.ones(3, 1), 3)
    values, _, grad = outcome(x, backend, torch.ones(1, 1))
    assert values.item() == -torch.inf and grad.isnan().all()  # 0 * inf, as in the dense product
    x = problem(4, [0, 0, 5], 3)
    for weight, dtype in product((torch.nan, torch.inf), (torch.float32, torch.float16)):
        half = replace(x, rows=x.rows.to(dtype), cols=x.cols.to(dtype))
        values, *grads = outcome(half, backend, torch.tensor([weight, 1e-6]).expand(4, 2))
        assert (values[:, 0] == -torch.inf).all()
        assert all(grad.isfinite().all() and (grad != 0).any() for grad in grads)
