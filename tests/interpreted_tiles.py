"""Tiles of the Triton kernels against tiles in torch, in Triton's interpreter; test_interpreted_tiles.py runs them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import driver, spec
from contrastile.backends import base, triton_fused, triton_launch
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton_fused import fused_tile
from contrastile.monoid import NUMBERS
from contrastile.spec import Gradients, Limits, PairSpec, PairTest, Reduce, Score, Target
from contrastile.triton_kernels import config, lean, merge, pair, partials, rules, slopes
from support.blocks import ALL, APART, agree, apart, close, double, nan_in, numbers, random_block
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


# ---- lean epilogues

INDEX = {"keep": PairTest.OTHER_INDEX, "positives": PairTest.SAME_INDEX}
OTHER_VIEW = {"keep": PairTest.OTHER_INDEX | PairTest.NO_PARTNER, "positives": PairTest.PARTNER}
LEAN = {  # specification, rows, columns; tiles of the interpreter are 32 x 64
    "clip": (PairSpec(cols=True, **INDEX), 130, 200),
    "info_nce": (PairSpec(**INDEX), 70, 260),
    "nt_xent, columns": (PairSpec(cols=True, **OTHER_VIEW), 70, 260),
    "prototypes": (PairSpec(keep=PairTest.NO_PARTNER, positives=PairTest.PARTNER), 64, 256),
    "apart": (PairSpec(cols=True, split=True, positives=PairTest.SAME_INDEX), 96, 192),
    "kept": (PairSpec(cols=True, keep_positives=True, **INDEX), 65, 129),
    "all": (PairSpec(cols=True), 40, 150),
    "one pair": (PairSpec(cols=True, **INDEX), 1, 1),
}


def lean_block(name, scale):
    """A block with one scale, 40 - 37 = 3 columns off the diagonal."""
    spec, n, m = LEAN[name]
    block = random_block(spec, n, m, 1, False, both=spec.cols)
    row = block.row
    row.scale = torch.full((n,), scale)
    if row.partner is not None:
        row.partner, row.share = 40 + torch.arange(n).unsqueeze(1), None  # some are named twice, or nobody's
        row.partner[::7], row.partner[8::9] = -1, 45
    for side in (block.row, block.col):  # peaks near those of the scaled scores
        side.stat[:, 0] = side.stat[:, 0] * abs(scale)
        if spec.split:
            side.positive_stat[:, 0] = side.positive_stat[:, 0] * abs(scale)
    return block


@pytest.fixture
def looked_at(monkeypatch):
    """Whether tiles were found to be concerned, tile by tile."""
    found, concerned = [], lean.concerned

    def look(*x):
        found.append(bool(here := concerned(*x)))
        return here

    monkeypatch.setattr(lean, "concerned", look)
    return found


@pytest.mark.parametrize("scale", by_default((0.5, -0.5, 0.0, 4.0), -0.5))
@pytest.mark.parametrize("name", LEAN)
def test_lean_epilogues(name, scale, looked_at):
    block = lean_block(name, scale)
    assert triton_launch.is_lean(block)
    check(block)
    assert any(looked_at) and all(looked_at) == (name == "one pair")


@pytest.mark.parametrize("value", by_default((torch.nan, torch.inf, -torch.inf), torch.nan, torch.inf))
def test_lean_epilogues_of_numbers_that_are_not_finite(value):
    block = nan_in(lean_block("clip", 0.5), value)
    close(numbers(TritonBackend(), block), numbers(TorchBackend(), block))


def view(n, seed):
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=1).requires_grad_()


@pytest.mark.parametrize(
    "name", by_default(("clip_loss", "info_nce", "nt_xent", "prototype_loss"), "clip_loss", "nt_xent")
)
@pytest.mark.parametrize("small", by_default((True, False), False))
def test_losses_that_are_lean(name, small, monkeypatch):
    """All their blocks: chunks of rows, squares, and what lies beside them; and at once."""
    asked, is_lean = [], triton_launch.is_lean
    monkeypatch.setattr(triton_launch, "is_lean", lambda block: asked.append(is_lean(block)) or asked[-1])
    monkeypatch.setattr(base, "SMALL_PAIRS", 1 << 20 if small else -1)
    monkeypatch.setattr(TritonBackend, "granularity", 32)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 128, 64, 64, 32))
    x, y, labels = view(70, 0), view(70, 1), torch.arange(70) * 7 % 70
    given = (x, y, *{"prototype_loss": [labels], "clip_loss": [10.0]}.get(name, []))
    found = []
    for backend in ("triton", "torch"):
        loss = getattr(contrastile, name)(*given, backend=backend)
        found.append([loss, *torch.autograd.grad(loss, (x, y))])
    assert asked and all(asked)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_not_lean():
    """A rule, an operand or a number more, each of which lean epilogues know nothing of."""
    block = lean_block("nt_xent, columns", 0.5)
    assert triton_launch.is_lean(block)
    n, m = len(block.row), len(block.col)
    others = [
        replace(block, mask=torch.ones(n, m, dtype=torch.bool)),
        replace(block, row=replace(block.row, partner=block.row.partner.expand(n, 2))),
        replace(block, row=replace(block.row, share=torch.ones(n, 1))),
        replace(block, col=replace(block.col, scale=torch.ones(m))),
        *(replace(block, row=replace(block.row, **{name: torch.ones(n)})) for name in ("bias", "low", "high")),
        *(replace(block, col=replace(block.col, **{name: torch.ones(m)})) for name in ("bias", "low", "high")),
        *(
            replace(block, spec=replace(block.spec, **changes))
            for changes in (
                {"reduce": Reduce.MAX}, {"score": Score.DISTANCE}, {"split": True}, {"counts": True},
                {"own_scales": True}, {"target": Target.SOFTMAX}, {"keep": PairTest.SAME_INDEX},
                {"keep": PairTest.OTHER_ID}, {"positives": PairTest.KEPT}, {"positives": PairTest.OTHER_INDEX},
                {"positives": PairTest.SAME_ID},
            )
        ),
    ]  # fmt: skip
    assert not any(map(triton_launch.is_lean, others))


@pytest.mark.parametrize("name, what", [("clip", "meets_diagonal"), ("prototypes", "meets_partners")])
def test_a_tile_that_is_not_looked_at_is_seen(name, what, monkeypatch):
    monkeypatch.setattr(lean, what, lambda *x: False)
    with pytest.raises(AssertionError, match=r"^(row|col|grad)(\b|_)"):
        check(lean_block(name, 0.5))


def test_edges_that_are_not_looked_at_are_seen(monkeypatch):
    monkeypatch.setattr(lean, "concerned", lambda *x: False)
    with pytest.raises(AssertionError, match=r"^(row|col|grad)(\b|_)"):
        check(lean_block("all", 0.5))


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
