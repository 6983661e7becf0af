"""Reduces over segments: problems, a dense oracle, and checks of any backend against it.

Features are small multiples of 1/8, so that every type holds them and scores are exact: maxima must be equal, and equal
scores are many, of which the first must be found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import segment_reduce
from contrastile.literals import BackendName, SegmentReduceName
from contrastile.monoid import stat_dtype
from contrastile.reference.late import over_tokens
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
    reduce: SegmentReduceName = "max"
    sharpness: float = 1.0
    keep_argmax: bool = True

    def bounds(self) -> list[int]:
        if isinstance(self.segments, Tensor):
            return self.segments.tolist()
        return list(range(0, len(self.cols) + 1, self.segments))

    def to(self, device: str) -> Problem:
        moved = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


# maxima, with their columns kept and not, and soft reduces
HOW: dict[str, tuple[SegmentReduceName, float, bool]] = {
    "max": ("max", 1.0, True), "recomputed": ("max", 1.0, False),
    "lse": ("lse", 4.0, True), "softmax_mean": ("softmax_mean", 3.0, True),
}  # fmt: skip
MORE: dict[str, tuple[SegmentReduceName, float, bool]] = {
    "sharp": ("softmax_mean", 500.0, True), "flat": ("softmax_mean", 0.0, True), "lowest": ("softmax_mean", -2.0, True),
    "faint": ("lse", 1e-3, True),
}  # fmt: skip


def how(x: Problem, name: str) -> Problem:
    reduce, sharpness, keep_argmax = (HOW | MORE)[name]
    return replace(x, reduce=reduce, sharpness=sharpness, keep_argmax=keep_argmax)


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


def dense(x: Problem, z: Tensor, sharpness: float | Tensor) -> Tensor:
    """Segment after segment of the matrix of scores; those of -inf are as none."""
    mask = z != -torch.inf if x.mask is None else x.mask & (z != -torch.inf)
    found = [over_tokens(z[:, i:j], mask[:, i:j], x.reduce, sharpness) for i, j in pairwise(x.bounds())]
    return torch.stack(found, 1) if found else z.new_empty(len(z), 0)


def outcome(x: Problem, backend: BackendName, weights: Tensor) -> list[Tensor]:
    """Values and the gradients of rows, columns and, of soft reduces, the sharpness."""
    rows, cols = (t.detach().requires_grad_() for t in (x.rows, x.cols))
    leaves, sharpness = [rows, cols], torch.tensor(x.sharpness, device=rows.device, dtype=stat_dtype(rows.dtype))
    if x.reduce != "max":
        leaves.append(sharpness.requires_grad_())
    values = segment_reduce(
        rows, cols, x.segments, mask=x.mask, backend=backend, reduce=x.reduce, keep_argmax=x.keep_argmax,
        sharpness=1.0 if x.reduce == "max" else sharpness,
    )  # fmt: skip
    return [values.detach(), *torch.autograd.grad(values, leaves, weights.to(values))]


def check(x: Problem, backend: BackendName, device: str = "cpu") -> None:
    """Maxima equal those of float64; all else is within the rounding of scores and their gradients, of products, sums,
    exponentials and the result."""
    a, b = (t.double().requires_grad_() for t in (x.rows, x.cols))
    z, sharpness = (
        (a @ b.T).detach().requires_grad_(),
        torch.tensor(x.sharpness, dtype=torch.float64, requires_grad=True),
    )
    truth = dense(x, z, sharpness)
    g = torch.Generator().manual_seed(7)
    weights = torch.randn(truth.shape, generator=g).double()
    weights = torch.where(truth == -torch.inf, 1.0, weights)
    values, *grads = (t.cpu() for t in outcome(x.to(device), backend, weights.to(device)))
    dz, dsharpness = torch.zeros_like(z), torch.zeros_like(sharpness)
    if truth.numel():
        dz, dsharpness = torch.autograd.grad(truth, (z, sharpness), weights, materialize_grads=True)
    dtype, low = x.rows.dtype, EPS[stat_dtype(x.rows.dtype)]
    assert values.dtype == stat_dtype(dtype)
    # t = sharpness z is rounded, and its exponential; a sum of logarithms is divided by the sharpness
    size = z.detach().abs().amax().item() if z.numel() else 0.0
    steep = 1.0 + abs(x.sharpness) * size
    sums = max([1, *(j - i for i, j in pairwise(x.bounds()))]) ** 0.5  # what sums of so many terms lose
    if x.reduce == "max":
        assert torch.equal(values.double(), truth)
    else:
        limit = size + (16.0 / x.sharpness if x.reduce == "lse" else steep * size)
        within("values", values, truth.detach(), torch.full_like(truth, ROUNDINGS * low * sums * limit))
        limit = (
            steep * steep * weights.abs().sum() * (size * size + (16.0 / x.sharpness**2 if x.reduce == "lse" else 0))
        )
        within("dsharpness", grads[2], dsharpness, ROUNDINGS * low * sums * limit.reshape(()))
    # an exponential of t is as wrong as t, and multiplies at most 1 + t
    kinds = dtype if backend != "torch" else stat_dtype(dtype)  # of score gradients
    spread = dz.abs() if x.reduce == "max" else steep * steep * probabilities(x, z.detach(), weights)
    for name, found, left, right, large in (
        ("rows", grads[0], dz, b, spread), ("cols", grads[1], dz.T, a, spread.T),
    ):  # fmt: skip
        true, total = (left @ right).detach(), (left.abs() @ right.abs()).detach()
        lost = steep * SMALLEST[torch.float32] * weights.abs().sum() * right.abs().sum().detach()  # where p is 0
        rounded = lost + EPS[kinds] * total + ROUNDINGS * low * sums * (large @ right.abs()).detach()
        assert found.dtype == dtype
        within(f"d{name}", found, true, rounded + EPS[dtype] * true.abs() + SMALLEST[dtype])


def probabilities(x: Problem, z: Tensor, weights: Tensor) -> Tensor:
    """|weight| p of every score, p its part of the softmax in its segment."""
    found = torch.zeros_like(z)
    t = x.sharpness * (z if x.mask is None else z.masked_fill(~x.mask, -torch.inf))
    t = t if x.mask is None else t.masked_fill(~x.mask, -torch.inf)
    for s, (i, j) in enumerate(pairwise(x.bounds())):
        found[:, i:j] = (weights[:, s : s + 1].abs() * t[:, i:j].softmax(1)).nan_to_num(0.0)
    return found


def tokens(n: int, length: int, d: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, length, d, generator=g, dtype=torch.float64), dim=2)


def token_mask(n: int, length: int, seed: int) -> Tensor:
    """Any token may be padding; the second item is all padding."""
    mask = torch.rand(n, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[:, 0] = True
    mask[1:2] = False
    return mask


def check_equal_columns(backend: BackendName) -> None:
    """The first gets the gradient."""
    bounds = [0, 1, 20, 53]
    x = Problem(torch.ones(3, 2), torch.ones(53, 2), torch.tensor(bounds))
    _, _, grad = outcome(x, backend, torch.tensor([[1.0, 2.0, 3.0]] * 3))
    expected = torch.zeros(53, 2)
    expected[bounds[:-1]] = torch.tensor([3.0, 6.0, 9.0])[:, None]
    assert torch.equal(grad, expected)


def check_nan_and_infinity(backend: BackendName, value: float, name: str = "max") -> None:
    """They stay in their segment."""
    x = how(problem(40, RAGGED["primes"], 6), name)
    x.rows[3, 2], x.cols[12, 1], x.cols[100, 4] = value, value, value
    found = outcome(x, backend, torch.ones(40, 12))[0]
    z = (x.rows @ x.cols.T).double()
    truth = dense(x, z, x.sharpness)
    assert torch.equal(found.isnan(), truth.isnan()) and (truth.isnan().any() or value == -torch.inf)
    assert torch.equal(found.isinf(), truth.isinf())
    torch.testing.assert_close(found.double(), truth, equal_nan=True, rtol=0.0 if name == "max" else 1e-5, atol=1e-6)
    assert not (truth.isnan() | truth.isinf()).all()


def check_the_first_nan(backend: BackendName) -> None:
    """It gets the gradient."""
    x = problem(2, [0, 9], 3)
    x.cols[[4, 6]] = torch.nan
    _, _, grad = outcome(x, backend, torch.ones(2, 1))
    assert (grad[4] != 0).all() and (grad[[0, 1, 2, 3, 5, 6, 7, 8]] == 0).all()


def check_dropped_columns(backend: BackendName, value: float, name: str = "max") -> None:
    """What the mask drops does no harm."""
    clean = how(problem(9, RAGGED["ragged"], 5, masked=True), name)
    assert clean.mask is not None
    dirty = replace(clean, cols=torch.where(clean.mask[:, None], clean.cols, value))
    weights = torch.ones(9, 6)
    for found, expected in zip(outcome(dirty, backend, weights), outcome(clean, backend, weights), strict=True):
        assert torch.equal(found, expected)


def check_minus_infinity(backend: BackendName) -> None:
    """Scores of -inf are as none, and what comes back of a segment without a score does no harm."""
    for name in HOW:
        x = how(Problem(torch.tensor([[-torch.inf]]), torch.ones(3, 1), 3), name)
        values, _, grad, *more = outcome(x, backend, torch.ones(1, 1))
        # dense products have 0 * inf
        assert values.item() == -torch.inf and (grad.isnan() | (grad == 0)).all()
        assert all(grad.item() == 0 for grad in more)
        x = how(problem(4, [0, 0, 5], 3), name)
        for weight, dtype in product((torch.nan, torch.inf), (torch.float32, torch.float16)):
            half = replace(x, rows=x.rows.to(dtype), cols=x.cols.to(dtype))
            values, *grads = outcome(half, backend, torch.tensor([weight, 1e-6]).expand(4, 2))
            assert (values[:, 0] == -torch.inf).all()
            assert all(grad.isfinite().all() and (grad != 0).any() for grad in grads)
