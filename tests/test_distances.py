"""Scores that are distances from flats: every function, tile count and backend against a dense float64 oracle.

The budget of a number is measured, not chosen: the same dense formula in float32 shows what its conditioning costs.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import driver, pair_loss, pair_reduce
from contrastile.backends import cpu_small
from contrastile.ops import arguments
from contrastile.spec import Limits
from contrastile.testing import largest
from support.cases import BACKEND_DTYPES
from support.distances import (
    SCORES,
    STATISTICS,
    VECTORS,
    check,
    check_a_row_that_is_not_finite,
    check_the_floor,
    dense,
    engine,
    leaves,
    outcome,
    problem,
    weighted,
)

BACKENDS = ("torch", "cpu")

on_every_backend_and_dtype = pytest.mark.parametrize(
    "backend, dtype", BACKEND_DTYPES, ids=lambda x: str(x).removeprefix("torch.")
)


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
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 0)  # no shortcut for small problems
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
    ids = {"row_ids": row_ids, "col_ids": col_ids} if "id" in str(keep) else {}
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
    check_the_floor(backend, dtype, score)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_is_not_finite_stays_alone(backend, score, value):
    check_a_row_that_is_not_finite(backend, score, value)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_rows_are_finite(backend, score):
    zero = torch.zeros(4, 8, requires_grad=True)
    norm = zero.square().sum(1)
    rows = pair_reduce(zero, row_bias=norm, col_bias=norm, score=score, keep="other_index", backend=backend).rows
    rows.sum().backward()
    assert rows.isfinite().all() and zero.grad is not None and zero.grad.isfinite().all()


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
    compiled = torch.autograd.grad(
        torch.compile(value, backend="aot_eager", fullgraph=True, dynamic=True)(x), list(x.values())
    )
    for g, h in zip(compiled, plain, strict=True):
        torch.testing.assert_close(g, h)


def test_every_score_is_tested():
    """The tests above meet every score on every backend; a new score must be added to them."""
    assert set(arguments.SCORES) == {"dot", "gated", *SCORES}  # the gated one: test_targets.py
