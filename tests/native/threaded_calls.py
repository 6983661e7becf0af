"""Calls of every CPU kernel that splits its work, in enough parts for several to each of four threads: recorded, and
repeated under ThreadSanitizer (support/thread_sanitizer.py). A record has at most half a megabyte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import contrastile
from support import distances, segments, targets
from support.cases import EXTRAS, make_call
from support.oracle import engine, engine_loss, upstream
from support.rules import REDUCES

N, M, D = 208, 150, 17
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def rows(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1).to(dtype).requires_grad_()


def run(m: int | None, dtype: torch.dtype, *extras: str, **options: Any) -> None:
    call = make_call(N, m, D, dtype, *extras, cols=True, **options)
    weights = upstream(call)
    engine(call, weights, backend="cpu")
    if options.get("reduce") != "max" and "counts" not in options:
        engine_loss(call, weights, backend="cpu")


@by_dtype
@pytest.mark.parametrize("reduce", REDUCES)
def test_reduces_and_rules(dtype: torch.dtype, reduce: str) -> None:
    positives = {} if reduce == "max" else {"positives": "same_id", "keep_positives": False}
    run(M, dtype, *EXTRAS, reduce=reduce, keep="no_shared_label", **positives)


@by_dtype
def test_squares_and_plain_tiles(dtype: torch.dtype) -> None:
    run(None, dtype, keep="other_index", positives="same_id")
    run(M, dtype)


def test_what_a_statistic_has_more() -> None:
    run(M, torch.float32, positives="same_id", counts=True)


@by_dtype
@pytest.mark.parametrize("score", distances.SCORES)
def test_distances(dtype: torch.dtype, score: str) -> None:
    x = distances.leaves(distances.problem(N, M, D, 2, dtype, False))
    distances.outcome(x, distances.engine(x, score, False, backend="cpu"))


@by_dtype
@pytest.mark.parametrize("kind", targets.KINDS)
def test_second_operands(dtype: torch.dtype, kind: str) -> None:
    targets.check(targets.problem(N, M, D, 9, map=kind), dtype, backend="cpu")


@by_dtype
@pytest.mark.parametrize("name", segments.HOW)
def test_segments(dtype: torch.dtype, name: str) -> None:
    """Of lengths from none to two strips; rows in two groups."""
    bounds = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(0)).cumsum(0).tolist()
    x = segments.how(segments.problem(270, bounds, D, dtype, masked=True), name)
    segments.outcome(x, "cpu", torch.ones(270, len(bounds) - 1))


@by_dtype
def test_bases_and_triangles(dtype: torch.dtype) -> None:
    x, y, z = (rows(N, D, dtype, seed) for seed in range(3))
    contrastile.gram_loss(x, y, z, backend="cpu").backward()
    contrastile.triangle_loss(x, y, z, backend="cpu").backward()


@by_dtype
def test_prefixes(dtype: torch.dtype) -> None:
    contrastile.clip_loss(rows(N, D, dtype), rows(N, D, dtype, 1), 10.0, matryoshka=(5, 8, D), backend="cpu").backward()


@by_dtype
def test_small_calls(dtype: torch.dtype) -> None:
    x, y, hard = rows(N, D, dtype), rows(N, D, dtype, 1), rows(2 * N, D, dtype, 2).view(N, 2, D)
    contrastile.clip_loss(x, y, torch.tensor(10.0, requires_grad=True), backend="cpu").backward()
    contrastile.info_nce(x, y, hard_negatives=hard, query_ids=torch.arange(N) // 2, backend="cpu").backward()
    contrastile.nt_xent(x, y, backend="cpu").backward()


@by_dtype
def test_products_of_many_blocks(dtype: torch.dtype) -> None:
    """And of enough columns to be ours in float32, too."""
    x, y = rows(600, 130, dtype), rows(40, 130, dtype, 1)
    contrastile.row_lse(x, y, memory_budget=0, backend="cpu").sum().backward()
    contrastile.row_lse(y, x, memory_budget=0, backend="cpu").sum().backward()
