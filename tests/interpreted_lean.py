"""Lean epilogues of sums and of distances, whose tiles are mostly off the diagonal and the edges, against float64 in
Triton's interpreter; test_interpreted_tiles.py runs them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from contrastile.backends import base
from contrastile.backends.cpu import CpuBackend
from contrastile.triton_kernels import lean
from support import distances
from support.cases import make_call
from support.combinations import each_once
from support.oracle import check

INDEX = {"keep": "other_index", "positives": "same_index"}
PARTNER = {"keep": "no_partner", "positives": "partner"}
N, M = 70, 200  # tiles of the interpreter are 32 x 64


@pytest.fixture(autouse=True)
def looked_at(monkeypatch):
    """Whether tiles were looked at pair by pair; no other backend may do the work."""
    found, concerned = [], lean.concerned

    def look(*x):
        found.append(bool(here := concerned(*x)))
        return here

    def refuse(*_):
        raise AssertionError("another backend was asked")

    monkeypatch.setattr(lean, "concerned", look)
    for name in ("stats", "score_grad"):
        monkeypatch.setattr(CpuBackend, name, refuse)
    return found


def call_of(reduce, rules, cols, *extras):
    call = make_call(N, M, 9, torch.float32, *extras, reduce=reduce, cols=cols, **rules)
    options = {name: x for name, x in call.options.items() if name != "share"}
    if "partner" in options:  # one each, in few tiles
        options["partner"] = torch.arange(5, 5 + N).unsqueeze(1)
    return replace(call, options=options)


@pytest.mark.parametrize(
    "reduce, rules, cols, small",
    each_once(("softplus", "relu"), (INDEX, PARTNER, {}), (False, True), (False, True)),
    ids=str,
)
def test_sums(reduce, rules, cols, small, looked_at, monkeypatch):
    """Bare, and with a scale and a bias for each item; as a small call and block by block."""
    if not small:
        monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    for extras in ((), ("row_scale", "col_scale", "row_bias", "col_bias")):
        check(call_of(reduce, rules, cols, *extras), backend="triton")
    assert any(looked_at) and not all(looked_at)


@pytest.mark.parametrize("offset, score", each_once((True, False), distances.SCORES))
def test_distances(score, offset, looked_at):
    """All that is kept is summed; without the pairs of one index as well, by their rule or, not lean, by a mask."""
    x = distances.problem(N, M, 16, 2, torch.float32, offset)
    distances.check(x, score, offset, backend="triton")
    kept = ~torch.eye(N, M, dtype=torch.bool)
    rule = {"mask": kept} if score == "squared_distance" else {"keep": "other_index"}
    distances.check(x, score, offset, kept, **rule, backend="triton")
    assert any(looked_at) and not all(looked_at)


@pytest.mark.parametrize("what, rules", [("meets_diagonal", INDEX), ("meets_partners", PARTNER)])
def test_a_tile_that_is_not_looked_at_is_seen(what, rules, monkeypatch):
    monkeypatch.setattr(lean, what, lambda *x: False)
    with pytest.raises(AssertionError):
        check(call_of("softplus", rules, True), backend="triton")
