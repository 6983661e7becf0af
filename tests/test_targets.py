"""Second operands of pairs: soft targets from a teacher's similarities, affine weights, gated scores."""

from __future__ import annotations

import pytest
import torch

from contrastile import Targets, pair_reduce
from support.refusals import refuses
from support.targets import BACKENDS, KINDS, check, engine, problem

each_kind = pytest.mark.parametrize("kind", KINDS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@each_backend
@each_kind
@pytest.mark.parametrize("sizes", [(7, 11, 5, 3), (1, 1, 1, 1), (61, 40, 16, 33), (13, 300, 8, 8)])
def test_values_and_gradients(backend, kind, sizes):
    check(problem(*sizes, map=kind, by_row=sizes[0] == 7), backend=backend)


@each_kind
@pytest.mark.parametrize("sizes", [(7, 11, 5, 3), (9, 1, 2, 4)])
def test_float64_is_exact(kind, sizes):
    check(problem(*sizes, map=kind), torch.float64, backend="torch")


@each_backend
@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves(backend, kind, dtype):
    check(problem(24, 40, 16, 8, map=kind), dtype, backend=backend)


@each_backend
@each_kind
@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_blocks_and_kept_scores(backend, kind, budget):
    check(problem(30, 41, 8, 5, map=kind), blocks=3, memory_budget=budget, backend=backend)


@each_backend
@pytest.mark.parametrize("kind", ["softmax", "affine"])
def test_shares(backend, kind):
    check(problem(12, 17, 8, 5, map=kind, share=0.4), backend=backend)


@each_backend
@each_kind
def test_rules_drop_pairs_of_both_products(backend, kind):
    n, m = 12, 17
    ids = torch.arange(m) % 5
    keep = ids[:n, None] != ids
    low = torch.linspace(-6.0, 2.0, n, dtype=torch.float64)
    options = {"keep": "other_id", "row_ids": ids[:n], "col_ids": ids}
    check(problem(n, m, 8, 5, map=kind, keep=keep, options=tuple(options.items())), backend=backend)
    options["row_low"] = low.float()
    p = problem(n, m, 8, 5, map=kind, keep=keep, low=low.float().double(), options=tuple(options.items()))
    check(p, backend=backend)


@each_backend
@each_kind
def test_rows_that_keep_nothing(backend, kind):
    keep = torch.ones(5, 6, dtype=torch.bool)
    keep[2], keep[:, 4] = False, False
    check(problem(5, 6, 4, 3, map=kind, keep=keep, options=(("mask", keep),)), backend=backend)


@each_backend
@pytest.mark.parametrize("kind", ["softmax", "affine"])
def test_a_nan_of_the_teacher_is_passed_on(kind, backend):
    p = problem(5, 6, 4, 3, map=kind)
    for row in (slice(4, 5), slice(None)):  # in some pairs of every column, in all
        p.rows[row] = torch.nan
        found = engine(p.to(torch.float32), backend=backend)
        for name in ("row_target_lse", *(("row_targets",) if kind == "softmax" else ())):
            assert found[name][row].isnan().all(), name
    assert found["col_target_lse"].isnan().all()


X, Y, Z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
REFUSED = {
    "targets.rows must have the 5 rows of a": {"targets": Targets(X[:3], Z)},
    "targets.cols must have the 5 columns of b": {"targets": Targets(X, Z[:3])},
    "targets.cols must have the width of targets.rows": {"targets": Targets(X, Z[:, :2])},
    "targets.cols must have as many blocks as b": {"targets": Targets(X, [Z, Z])},
    "targets.map must be one of": {"targets": Targets(X, Z, map="relu")},
    "targets.share must be between 0 and 1": {"targets": Targets(X, Z, share=1.5), "positives": "same_index"},
    "targets.share must be 1 without positives": {"targets": Targets(X, Z, share=0.5)},
    "targets.bias must be 0 with map='softmax'": {"targets": Targets(X, Z, bias=0.5)},
    "targets.scale must not be negative": {"targets": Targets(X, Z, -1.0, "affine"), "positives": "same_index"},
    "targets.map='affine' needs positives": {"targets": Targets(X, Z, map="affine")},
    "targets need reduce='lse'": {"targets": Targets(X, Z), "reduce": "softplus"},
    "gate must be given with score='gated'": {"gate": (X, Z)},
    "gate must not be combined with targets": {"gate": (X, Z), "score": "gated", "targets": Targets(X, Z)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_second_operands_are_named(message):
    with refuses(ValueError, message):
        pair_reduce(X, Y, **REFUSED[message])
