"""Tiles of the Triton kernels against tiles in torch, in Triton's interpreter; test_interpreted_tiles.py runs them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from contrastile import spec
from contrastile.backends import triton_fused, triton_launch
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton_fused import fused_tile
from contrastile.monoid import NUMBERS
from contrastile.spec import Gradients, Score
from contrastile.triton_kernels import config, merge, pair, partials, rules, slopes
from support.blocks import ALL, APART, agree, apart, close, double, nan_in, numbers
from support.combinations import by_default

QUICK = [
    "one pair", "index", "index, all rules", "some are dropped", "all are kept", "mirrored", "counts of maxima",
    "own scales",
]  # fmt: skip


def check(block):
    agree(numbers(TritonBackend(), block), block)


@pytest.mark.parametrize("name", by_default(APART, *QUICK))
def test_positives_apart_and_counts(name):
    check(apart(name))


def test_partners_in_tiles_of_several_words(monkeypatch):
    """A word has a bit for each of 64 columns."""
    tile = replace(config.INTERPRETER, cols=128)
    monkeypatch.setattr(triton_launch, "tile_for", lambda *_: tile)
    check(apart("partners"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", by_default(("index", "index, all rules", "ids"), "index, all rules"))
def test_numbers_that_are_not_finite(name, value):
    block = nan_in(apart(name), value)
    close(numbers(TritonBackend(), block), numbers(TorchBackend(), block))


FUSED = [x for x in APART if APART[x][0].split and APART[x][0].score == Score.DOT]


@pytest.mark.parametrize("name", by_default(FUSED, "index", "some are dropped", "mirrored", "own scales"))
def test_gradients_without_score_gradients(name):
    """The same by products with score gradients of torch; a square call has both sides of every pair in its rows."""
    block = apart(name)
    block.col.features = block.col.directions[0]
    if block.spec.square:
        block = replace(block, spec=replace(block.spec, square=False, cols=True))
    assert fused_tile(block.row.features, block) is not None
    grads, exact = gradients(block), double(block)
    triton_fused.add_gradients(block, grads)
    truth = TorchBackend().score_grad(replace(exact), ALL)
    g = truth.grad[0]
    expected = {
        "a": g @ exact.col.directions[0], "b": g.T @ exact.row.features,
        "row_scale": truth.row_scale, "col_scale": truth.col_scale,
        "row_bias": truth.row_bias, "col_bias": truth.col_bias,
    }  # fmt: skip
    found = {"a": grads.a, "b": grads.blocks[0]} | {k: getattr(grads, k) for k in expected if k not in "ab"}
    for k, x in expected.items():
        torch.testing.assert_close(found[k].double(), x, rtol=1e-5, atol=1e-5 * x.abs().max().item(), msg=k)


def gradients(block):
    def zeros(x):
        return torch.zeros(x.shape, dtype=torch.float32)

    per_item = [zeros(torch.empty(len(side))) for side in (block.row, block.col)]
    row, col = per_item
    features = zeros(block.row.features), [zeros(block.col.directions[0])]
    return Gradients(*features, row, col, row.clone(), col.clone())


def test_what_travels_as_tuples_is_what_the_engine_has():
    assert set(rules.Numbers._fields) == set(NUMBERS)
    assert set(rules.Upstream._fields) == {field.name for field in fields(spec.Upstream)}


# ---- mutations


def positives_stay(store_positives):
    def stay(z, col_z, *rest):
        store_positives(z, col_z, *rest)
        return z, col_z

    return stay


def of_rows(affine):
    """z of columns is that of rows."""
    return lambda *x: affine(*x[:-1], 1)


def of_both(through_scales):
    """The columns' scale gets what the rows' slopes give as well."""

    def through(g, of_cols, *x):
        grad, bias, by_col, by_row = through_scales(g, of_cols, *x)
        return grad, bias, by_col, by_row + g

    return through


def without(constant):
    """The kernel's function called without this constant; the last but one of its tile sizes follow it."""

    def make(original):
        return lambda *x: original(*x[:constant], False, *x[constant + 1 :])

    return make


def nothing(original):
    return lambda *x: original(*x) & False


def doubled(original):
    return lambda *x: original(*x) * 2


def off(original):
    return lambda *x: tuple(y * 1.001 for y in original(*x))


def zero(original):
    return lambda *x: original(*x) * 0


MUTANTS = {
    "others": (partials, "store_positives", positives_stay, "ids"),
    "slopes of others": (slopes, "add_positive_slopes", without(-3), "ids"),
    "slopes of positives": (slopes, "drop_of_positives", lambda _: lambda positive, drop: drop == drop, "ids"),
    "kept positives": (partials, "drop_of_positives", lambda _: lambda positive, drop: positive == 0, "none is kept"),
    "their sum": (partials, "exponentials", off, "ids"),
    "one": (partials, "one_exponential", off, "index"),
    "counts": (partials, "counted", doubled, "counts"),
    "join": (merge, "joined_sums", zero, "counts"),
    "share": (slopes, "share_of", doubled, "partners"),
    "sums by share": (partials, "share_of", doubled, "partners"),
    "z of columns": (pair, "affine", of_rows, "own scales"),
    "sums of own scales": (pair, "through_scales", of_both, "own scales"),
    "join of exponentials": (merge, "joined_exponentials", off, "index"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_an_error_is_seen(name, monkeypatch):
    module, function, mutate, kind = MUTANTS[name]
    block = apart(kind)
    check(block)
    monkeypatch.setattr(module, function, mutate(getattr(module, function)))
    with pytest.raises(AssertionError, match=r"^(row|col|grad)(\b|_)"):
        check(block)
