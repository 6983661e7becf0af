"""Scores that are distances from flats: every function, tile count and backend against a dense float64 oracle.

The budget of a number is measured, not chosen: the same dense formula in float32 shows what its conditioning costs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import BACKEND_DTYPES
from contrastile import driver, pair_loss, pair_reduce
from contrastile.backends import native
from contrastile.ops import arguments
from contrastile.spec import FLOOR, Limits
from contrastile.testing import EPS, largest

SCORES = ("distance", "squared_distance", "log_distance")
VECTORS = ("scale", "col_scale", "row_bias", "col_bias")
BACKENDS = ("torch", "cpu")
STATISTICS = ("rows", "cols", "row_positives", "col_positives")

on_every_backend_and_dtype = pytest.mark.parametrize(
    "backend, dtype", BACKEND_DTYPES, ids=lambda x: str(x).removeprefix("torch.")
)


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


@pytest.mark.parametrize("tiles, offset", [(1, True), (1, False), (2, True), (2, False), (3, False), (4, True)])
@pytest.mark.parametrize("score", SCORES)
@on_every_backend_and_dtype
def test_every_score(backend, dtype, score, tiles, offset):
    for n, m, d in ((1, 1, 3), (7, 1, 2), (1, 9, 1), (13, 33, 5), (37, 300, 16)):
        check(problem(n, m, d, tiles, dtype, offset), score, offset, backend=backend)


@pytest.mark.parametrize("budget", [0, 1 << 22, 5000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_kept_scores_and_chunks(backend, budget, monkeypatch):
    """Scores saved for all, some or no blocks; chunks of rows and split columns."""
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 96, 64, 384, 32))
    check(problem(150, 260, 12, 3, torch.float32, False), "distance", False, backend=backend, memory_budget=budget)


@pytest.mark.parametrize("keep", ["other_index", "other_id", ("other_index", "other_id")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_keep_rules(backend, keep):
    n, m = 41, 57
    row_ids, col_ids = torch.arange(n) % 5, torch.arange(m) % 7
    same_index, same_id = torch.arange(n)[:, None] == torch.arange(m), row_ids[:, None] == col_ids
    kept = {
        "other_index": ~same_index, "other_id": ~same_id, ("other_index", "other_id"): ~(same_index | same_id)
    }[keep]  # fmt: skip
    ids = {"row_ids": row_ids, "col_ids": col_ids} if keep.endswith("_id") else {}
    check(problem(n, m, 8, 2, torch.float32), "distance", True, kept, backend=backend, keep=keep, **ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_column_blocks(backend):
    """Several blocks of flats are the flats joined."""
    x = leaves(problem(20, 50, 8, 3, torch.float32, False))
    parts = [part.detach().requires_grad_() for part in x["b"].split([17, 33], dim=1)]
    whole = outcome(x, engine(x, "distance", False, backend=backend))
    joined = outcome({**x, "b": parts[1]}, engine({**x, "b": parts}, "distance", False, backend=backend))
    for name in (*STATISTICS, "da", "dscale", "dcol_scale"):
        torch.testing.assert_close(joined[name], whole[name], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(joined["db"], whole["db"][:, 17:], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 37, 500])
def test_square(backend, score, n):
    """b=None: distances between the rows themselves, each pair once."""
    g = torch.Generator().manual_seed(n)
    start = torch.randn(n, 6, generator=g)
    keep = ~torch.eye(n, dtype=torch.bool)

    def run(dtype: torch.dtype, fused: bool) -> tuple[Tensor, Tensor]:
        x = start.to(dtype).requires_grad_()
        norm = x.square().sum(1) + 0.5
        if fused:
            stats = pair_reduce(
                x, scale=-1.5, row_bias=norm, col_bias=norm, score=score, keep="other_index", positives="kept",
                backend=backend,
            )  # fmt: skip
            found = {"rows": stats.rows, "row_positives": stats.row_positives}
        else:
            every = dense(
                {"a": x, "b": x, "scale": x.new_tensor(-1.5), "col_scale": x.new_ones(n), "row_bias": norm,
                 "col_bias": norm}, score, True, keep,
            )  # fmt: skip
            found = {name: every[name] for name in ("rows", "row_positives")}
        value = weighted(found)
        return value.detach(), torch.autograd.grad(value, x)[0]

    truth, twin, found = run(torch.float64, False), run(torch.float32, False), run(torch.float32, True)
    for x, y, z in zip(found, truth, twin, strict=True):
        size = y.abs().max().item()
        assert (x - y).abs().max() <= 4 * ((z - y).abs().max().item() + 4 * 2.0**-23 * size)


@pytest.mark.parametrize("reduce", ["softplus", "relu"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_of_distances(backend, score, reduce):
    """The other reduces."""
    given = problem(21, 34, 8, 3, torch.float32, False)
    given["scale"] = -given["scale"]
    function = {"softplus": F.softplus, "relu": F.relu}[reduce]

    def run(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        x = leaves(given, dtype)
        vectors = {name: x[name] for name in VECTORS}
        if fused:
            rows = pair_reduce(
                x["a"], x["b"], **vectors, score=score, offset=False, reduce=reduce, backend=backend
            ).rows
        else:
            norms = x["row_bias"][:, None] + x["col_bias"]
            q = norms - torch.stack([(x["a"] @ tile.T).square() for tile in x["b"]]).sum(0)
            s = {"distance": q.sqrt(), "squared_distance": q, "log_distance": q.log()}[score]
            rows = function(x["scale"] * x["col_scale"] * s).sum(1)
        return [rows.detach(), *torch.autograd.grad(rows.sum(), list(x.values()))]

    truth, twin, found = run(torch.float64, False), run(torch.float32, False), run(torch.float32, True)
    for x, y, z in zip(found, truth, twin, strict=True):
        assert largest(x - y) <= 4 * (largest(z - y) + 4 * 2.0**-23 * max(largest(y), 1e-3))


@pytest.mark.parametrize("cols", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scalar_mode(backend, cols):
    """pair_loss gives the value and the gradients of pair_reduce, weighted."""
    x, y = leaves(problem(45, 70, 8, 3, torch.float32, False)), leaves(problem(45, 70, 8, 3, torch.float32, False))
    row, col = torch.linspace(0.5, 1.5, 45), torch.linspace(1.0, 2.0, 70)
    options = {"score": "distance", "offset": False, "positives": "kept", "backend": backend, "cols": cols}
    weights = {"row_weight": row, "row_positive_weight": -0.01} | ({"col_weight": col} if cols else {})
    loss = pair_loss(x["a"], x["b"], **{name: x[name] for name in VECTORS}, **weights, **options)
    stats = pair_reduce(y["a"], y["b"], **{name: y[name] for name in VECTORS}, **options)
    other = stats.rows @ row - 0.01 * stats.row_positives.sum() + (stats.cols @ col if cols else 0.0)
    torch.testing.assert_close(loss, other, rtol=1e-6, atol=1e-6)
    found, expected = torch.autograd.grad(loss, list(x.values())), torch.autograd.grad(other, list(y.values()))
    for g, h in zip(found, expected, strict=True):
        torch.testing.assert_close(g, h, rtol=1e-5, atol=2e-6 * h.abs().max().item())


@pytest.mark.parametrize("score", SCORES)
@on_every_backend_and_dtype
def test_points_nearer_than_rounding_get_the_floor_and_no_gradient(backend, dtype, score):
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


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_is_not_finite_stays_alone(backend, score, value):
    x = problem(9, 12, 8, 2, torch.float32)
    x["a"][4, 3] = value
    rows = engine(x, score, True, backend=backend)["rows"]
    assert not rows[4].isfinite()
    assert rows[torch.arange(9) != 4].isfinite().all()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_rows_are_finite(backend, score):
    zero = torch.zeros(4, 8, requires_grad=True)
    norm = zero.square().sum(1)
    rows = pair_reduce(zero, row_bias=norm, col_bias=norm, score=score, keep="other_index", backend=backend).rows
    rows.sum().backward()
    assert rows.isfinite().all() and zero.grad is not None and zero.grad.isfinite().all()


@pytest.mark.skipif(native.cpu is None, reason="the native CPU module is not built")
def test_every_instruction_set_gives_the_same():
    """In processes of their own, because the set is chosen once."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import torch, test_distances as t\n"
        "for score in t.SCORES:\n"
        "    for dtype in (torch.float32, torch.bfloat16):\n"
        "        t.check(t.problem(37, 300, 17, 3, dtype, False), score, False, backend='cpu')\n"
        "print(t.native.cpu.isa())"
    )
    for isa in native.cpu.supported_isas():
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "CONTRASTILE_CPU_ISA": isa}, capture_output=True, text=True
        )
        assert done.stdout.strip() == isa, done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"score": "euclid"}, "score must be one of"),
        ({"score": "distance"}, "row_bias must be given with score='distance'"),
        ({"score": "dot", "offset": False}, "offset must be True with score='dot'"),
        ({"score": "distance", "row_bias": torch.ones(4)}, "col_bias must be given with score='distance'"),
        (
            {"score": "distance", "row_bias": torch.ones(4), "offset": False, "reduce": "max"},
            "reduce='max' must not be",
        ),
        ({"score": "distance", "row_bias": torch.ones(4), "offset": False, "b": torch.ones(0, 4, 3)}, "at least one t"),
        ({"score": "dot", "b": torch.ones(2, 4, 3)}, "b must have shape"),
        (
            {"score": "distance", "b": None, "row_bias": torch.ones(4), "offset": False},
            "offset must be True for b=None",
        ),
        (
            {"score": "distance", "row_bias": torch.ones(4), "b": [torch.ones(2, 4, 3), torch.ones(3, 4, 3)]},
            r"b\[1\] must be like b\[0\]",
        ),
        ({"positives": "kept", "keep_positives": True}, "keep_positives must not be given without"),
    ],
)
def test_errors_name_the_argument(options, message):
    b = options.pop("b", torch.ones(4, 3))
    with pytest.raises(ValueError, match=message):
        pair_reduce(torch.ones(4, 3), b, **options)


def test_compiles_without_graph_breaks():
    x = leaves(problem(12, 20, 8, 3, torch.float32, False))

    def value(x: dict[str, Tensor]) -> Tensor:
        return weighted(engine(x, "distance", False))

    plain = torch.autograd.grad(value(x), list(x.values()))
    compiled = torch.autograd.grad(torch.compile(value, fullgraph=True, dynamic=True)(x), list(x.values()))
    for g, h in zip(compiled, plain, strict=True):
        torch.testing.assert_close(g, h)


def test_every_score_is_tested():
    """The tests above meet every score on every backend; a new score must be added to them."""
    assert set(arguments.SCORES) == {"dot", *SCORES}
