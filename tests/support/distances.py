"""Scores that are distances from flats: problems, a dense oracle, and checks of any backend against it.

The budget of a number is measured, not chosen: the same dense formula in float32 shows what its conditioning costs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import pair_reduce
from contrastile.spec import FLOOR
from contrastile.testing import EPS, largest

SCORES = ("distance", "squared_distance", "log_distance")
VECTORS = ("scale", "col_scale", "row_bias", "col_bias")
STATISTICS = ("rows", "cols", "row_positives", "col_positives")


def problem(n: int, m: int, d: int, tiles: int, dtype: torch.dtype, offset: bool = True) -> dict[str, Tensor]:
    """Rows, flats and factors; every q is positive by a margin, so that no floor is in play."""
    g = torch.Generator().manual_seed(97 * n + 7 * m + d + tiles)
    stat = torch.float64 if dtype == torch.float64 else torch.float32

    def rows(*shape: int) -> Tensor:
        return (F.normalize(torch.randn(*shape, d, generator=g), dim=-1)).to(dtype)

    def between(size: int, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(size, generator=g)).to(stat)

    least = tiles + 1.0 if offset else tiles - 0.5  # of the biases together: more than all products can take away
    return {
        "a": rows(n),
        "b": rows(tiles, m) if tiles > 1 else rows(m),
        "scale": torch.tensor(-3.0, dtype=stat),
        "col_scale": between(m, 0.5, 1.5),
        "row_bias": between(n, least, least + 1.0),
        "col_bias": between(m, 0.7, 1.5),
    }


def dense(
    x: dict[str, Tensor], score: str, offset: bool, keep: Tensor | None = None, floor: float = 0.0
) -> dict[str, Tensor]:
    """The docstring of pair_reduce: statistics "lse" and the sums over kept pairs."""
    tiles = x["b"] if x["b"].dim() == 3 else x["b"].unsqueeze(0)
    norms = x["row_bias"][:, None] + x["col_bias"]
    q = norms
    for index, tile in enumerate(tiles):
        dot = x["a"] @ tile.T
        q = q - (2 * dot if offset and index == 0 else dot * dot)
    q = torch.where(q <= floor * norms, floor * norms, q)
    z = x["scale"] * x["col_scale"] * {"distance": q.sqrt(), "squared_distance": q, "log_distance": q.log()}[score]
    keep = torch.ones_like(z, dtype=torch.bool) if keep is None else keep
    masked = z.masked_fill(~keep, -torch.inf)
    kept = torch.where(keep, z, 0.0)
    return dict(zip(STATISTICS, (masked.logsumexp(1), masked.logsumexp(0), kept.sum(1), kept.sum(0)), strict=True))


def weighted(found: dict[str, Tensor]) -> Tensor:
    """A fixed weighting of all statistics; empty items contribute 0."""
    parts = [
        torch.where(x.isinf(), 0.0, x) @ torch.linspace(0.5, 1.5, len(x), dtype=x.dtype, device=x.device)
        for x in found.values()
    ]
    return torch.stack(parts).sum()


def outcome(x: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Statistics and the gradient of every input."""
    grads = torch.autograd.grad(weighted(found), list(x.values()))
    return {**{k: v.detach() for k, v in found.items()}, **{f"d{k}": g for k, g in zip(x, grads, strict=True)}}


def leaves(x: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    return {k: (v if dtype is None else v.to(dtype)).detach().clone().requires_grad_() for k, v in x.items()}


def engine(x: dict[str, Tensor], score: str, offset: bool, **options: Any) -> dict[str, Tensor]:
    stats = pair_reduce(
        x["a"], x["b"], **{name: x[name] for name in VECTORS}, score=score, offset=offset, cols=True,
        positives="kept", **options,
    )  # fmt: skip
    return {name: getattr(stats, name) for name in STATISTICS}


def agree(found: dict[str, Tensor], truth: dict[str, Tensor], twin: dict[str, Tensor], dtype: torch.dtype) -> None:
    """At most four times the twin's error, four roundings, and the rounding of score gradients to their type."""
    low = EPS[torch.float64 if dtype == torch.float64 else torch.float32]
    features = max((largest(truth[name]) for name in ("da", "db")), default=0.0)
    for name, x in found.items():
        finite = truth[name].isfinite()
        assert torch.equal(x[~finite].double(), truth[name][~finite]), name
        error, measured = (largest((y.double() - truth[name])[finite]) for y in (x, twin[name]))
        if name in ("da", "db"):
            rounding = (4 * low + EPS[dtype]) * features
        else:
            rounding = 4 * low * max(largest(truth[name][finite]), 1.0)
        assert error <= 4 * (measured + rounding), (name, error, measured, rounding)


def check(x: dict[str, Tensor], score: str, offset: bool, kept: Tensor | None = None, **options: Any) -> None:
    dtype = x["a"].dtype
    low = torch.float64 if dtype == torch.float64 else torch.float32
    exact, rounded, own = leaves(x, torch.float64), leaves(x, low), leaves(x)
    truth = outcome(exact, dense(exact, score, offset, kept))
    twin = outcome(rounded, dense(rounded, score, offset, kept))
    agree(outcome(own, engine(own, score, offset, **options)), truth, twin, dtype)


def check_the_floor(backend: str, dtype: torch.dtype, score: str) -> None:
    """Points nearer than rounding get the floor and no gradient."""
    x = F.normalize(torch.randn(5, 16), dim=1).to(dtype)
    x[1] = x[0]
    wide = x.double() if dtype == torch.float64 else x.float()
    norm = wide.square().sum(1)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    only = torch.zeros(5, 5, dtype=torch.bool)
    only[0, 1] = True
    rows = pair_reduce(a, b, row_bias=norm, col_bias=norm, score=score, mask=only, backend=backend).rows
    floor = torch.tensor(FLOOR[norm.dtype] * (norm[0] + norm[1]).item(), dtype=torch.float64)
    expected = {"distance": floor.sqrt(), "squared_distance": floor, "log_distance": floor.log()}[score]
    assert rows[0].item() == pytest.approx(expected.item(), rel=1e-4)
    rows[0].backward()
    assert a.grad is not None and torch.equal(a.grad, torch.zeros_like(a))
    assert b.grad is not None and torch.equal(b.grad, torch.zeros_like(b))


def check_a_row_that_is_not_finite(backend: str, score: str, value: float) -> None:
    """It stays alone."""
    x = problem(9, 12, 8, 2, torch.float32)
    x["a"][4, 3] = value
    rows = engine(x, score, True, backend=backend)["rows"]
    assert not rows[4].isfinite()
    assert rows[torch.arange(9) != 4].isfinite().all()
