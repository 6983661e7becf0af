"""matryoshka=: the sum of a loss over prefixes of its features, from one product."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

import contrastile
from contrastile import backends
from contrastile.backends import cpu, torch_tiles
from contrastile.catalog import CATALOG
from contrastile.losses.matryoshka import Matryoshka, prefix_facts
from contrastile.spec import Limits
from contrastile.testing import compare
from support.combinations import by_default, each_once
from support.loss_cases import id_of, make, usable
from support.refusals import refuses

CARDS = {card.name: card for card in CATALOG if "matryoshka" in card.variants}
N, D, EXTRA = 23, 19, 11
ENDS, WEIGHTS = (16, 3, 19, 7), (1.0, 0.5, 2.0, -0.25)
SMALL = Limits(workspace=1 << 17, max_chunk=96, square_chunk=64, min_chunk=64)


def draw(seed: int, *shape: int, low: float | None = None) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    kind = {"generator": g, "dtype": torch.float64}
    return torch.randn(*shape, **kind) if low is None else low + torch.rand(*shape, **kind)


X, Y, NEGATIVES, HARD = draw(0, N, D), draw(1, N, D), draw(2, EXTRA, D), draw(3, N, 2, D)
IDS, MORE_IDS = torch.arange(N) // 2, torch.arange(EXTRA)
EACH, SOME = draw(4, N, low=0.5), draw(5, N) < 1.0
FEATURES = ("negatives", "hard_negatives")
CALLS = {
    "clip": (contrastile.clip_loss, {"logit_scale": torch.tensor(3.0).double()}),
    "one direction": (contrastile.clip_loss, {"logit_scale": 3.0, "direction": "cols", "reduction": "sum"}),
    "ids": (contrastile.clip_loss, {"logit_scale": 3.0, "image_ids": IDS, "weights": EACH, "present": SOME}),
    "detached": (contrastile.clip_loss, {"logit_scale": EACH, "detach_keys": True}),
    "smoothing": (contrastile.clip_loss, {"logit_scale": 3.0, "label_smoothing": 0.1}),
    "rows": (contrastile.info_nce, {"temperature": EACH, "reduction": "none"}),
    "queries": (contrastile.info_nce, {"negatives": NEGATIVES, "query_ids": IDS, "negative_ids": MORE_IDS}),
    "log_prob": (contrastile.info_nce, {"negatives": NEGATIVES, "symmetric": True, "key_log_prob": -EACH}),
    "private": (contrastile.info_nce, {"hard_negatives": HARD, "present": SOME}),
    "margin": (contrastile.info_nce, {"false_negative_margin": 0.1, "symmetric": True}),
    "gathered": (contrastile.info_nce, {"key": draw(6, N + 3, D), "key_offset": 2}),
    "views": (contrastile.nt_xent, {"temperature": torch.tensor(0.4).double(), "present": SOME}),
    "one view": (contrastile.nt_xent, {"direction": "rows", "weights": EACH}),
    "detached views": (contrastile.nt_xent, {"detach_keys": True, "reduction": "none"}),
}


def outcome(loss, x, y, options, normalize, cut):
    """Value and gradients, of one call or of the sum of calls for prefixes."""
    given = {name: leaf(value) for name, value in {"x": x, "y": options.get("key", y), **options}.items()}
    rest = {name: value for name, value in given.items() if name not in ("x", "y", "key")}

    def call(m, **more):
        own = {name: value[..., :m] if name in FEATURES else value for name, value in rest.items()}
        return loss(given["x"][:, :m], given["y"][:, :m], normalize=normalize, **own, **more)

    if cut:
        value = sum(w * call(m) for m, w in zip(ENDS, WEIGHTS, strict=True))
    else:
        value = call(x.shape[1], matryoshka=ENDS, matryoshka_weights=WEIGHTS)
    (value * torch.linspace(1.0, 2.0, max(value.numel(), 1), dtype=value.dtype).view(value.shape)).sum().backward()
    return [value.detach(), *(v.grad for v in given.values() if isinstance(v, Tensor) and v.requires_grad)]


def leaf(value):
    constant = not isinstance(value, Tensor) or not value.is_floating_point() or value is EACH or (value < 0).all()
    return value if constant else value.detach().clone().requires_grad_()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_equals_a_call_for_each_prefix(name, normalize):
    loss, options = CALLS[name]
    one, many = (outcome(loss, X, Y, options, normalize, cut) for cut in (False, True))
    assert len(one) == len(many) > 2
    for x, y in zip(one, many, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


# ---- backends: batches that are no small call


def cut_into_blocks(monkeypatch):
    """Many blocks, with an end of rows and of columns that is no whole one."""
    for backend in (cpu.CpuBackend, torch_tiles.TorchBackend):
        monkeypatch.setattr(backend, "limits", lambda self, device: SMALL)


@pytest.mark.parametrize("name, backend, dtype, many", each_once([*CARDS], usable("cpu"), [True, False]), ids=id_of)
def test_value_and_gradients_equal_the_reference(name, backend, dtype, many, two_threads, monkeypatch):
    if many:
        cut_into_blocks(monkeypatch)
    case = make(CARDS[name], "matryoshka", 173, 37, dtype)
    if case.kwargs.get("normalize") and dtype in (torch.bfloat16, torch.float16):
        case.kwargs["normalize"] = False
    result = compare(CARDS[name], case, backend=backend)
    assert result.ok, result.detail


@pytest.mark.parametrize("backend", [name for name, dtype in usable("cpu", (torch.float32,))])
@pytest.mark.parametrize("budget", [0, 1 << 16])  # for some of the blocks
def test_kept_scores(backend, budget, monkeypatch):
    cut_into_blocks(monkeypatch)
    case = make(CARDS["clip_loss"], "matryoshka", 173, 37, torch.float32)
    result = compare(CARDS["clip_loss"], case, backend=backend, memory_budget=budget)
    assert result.ok, result.detail


def test_the_scores_of_all_prefixes_are_one_product(monkeypatch):
    """Every feature is multiplied once for the statistics, once for the score gradients but for the prefix that was
    kept, and once for each output."""
    backend, widths = torch_tiles.TorchBackend(), {"stats": [], "score_grad": [], "accumulate": []}
    monkeypatch.setattr(backends, "BACKENDS", (backend,))

    def watched(kind, of):
        function = getattr(backend, kind)
        name = kind.removeprefix("slice_")

        def run(*args):
            widths[name] += of(*args)
            return function(*args)

        monkeypatch.setattr(backend, kind, run)

    def products(blocks, *needs):
        return [block.row.features.shape[1] for block in blocks if not needs or block.scores is None]

    watched("slice_stats", products)
    watched("slice_score_grad", products)
    watched("accumulate", lambda out, x, y: [y.shape[1]])
    x, y = (v.float().requires_grad_() for v in (X.clone(), Y.clone()))
    contrastile.clip_loss(x, y, 3.0, normalize=True, matryoshka=(4, 8, 16)).backward()
    assert widths == {"stats": [4, 4, 8], "score_grad": [4, 4], "accumulate": [4, 4, 4, 4, 8, 8]}


def test_few_pairs_are_small_calls(monkeypatch):
    monkeypatch.setattr(cpu.CpuBackend, "slice_stats", None)  # not reached
    x, y = (v.float().requires_grad_() for v in (X.clone(), Y.clone()))
    contrastile.clip_loss(x, y, 3.0, matryoshka=(4, 8, 16)).backward()


# ---- numerics


@pytest.mark.parametrize("normalize", [True, False])
def test_converged_models_keep_their_digits(normalize):
    x = torch.nn.functional.normalize(draw(7, 150, 64), dim=1)
    truth = sum(
        contrastile.clip_loss(x[:, :m], x[:, :m], 60.0, normalize=normalize, backend="torch") for m in (32, 48, 64)
    )
    assert truth < 1e-4
    found = contrastile.clip_loss(x.float(), x.float(), 60.0, normalize=normalize, matryoshka=(32, 48, 64))
    assert abs(found.item() / truth.item() - 1) < 1e-4


def test_rows_of_zeros_have_no_gradient():
    x, y = (v.float().clone() for v in (draw(8, 150, 24), draw(9, 150, 24)))
    x[3], x[5, :4] = 0.0, 0.0  # everywhere, in the first prefix alone
    one, many = (v.clone().requires_grad_() for v in (x, x))
    loss = partial(contrastile.clip_loss, logit_scale=5.0, normalize=True)
    loss(one, y, matryoshka=(4, 12, 24)).backward()
    sum(loss(many[:, :m], y[:, :m]) for m in (4, 12, 24)).backward()
    assert one.grad[3].abs().max() == 0 and one.grad[5, :4].abs().max() > 0
    torch.testing.assert_close(one.grad, many.grad, rtol=1e-4, atol=1e-7)


def test_unit_rows_of_one_feature_have_no_gradient():
    """Their gradient is what is left of terms that cancel: of halves it would be all rounding."""
    x, y = (draw(seed, 150, 24).bfloat16().requires_grad_() for seed in (8, 9))
    contrastile.clip_loss(x, y, 5.0, normalize=True, matryoshka=(1, 24), matryoshka_weights=(1.0, 0.0)).backward()
    assert max(x.grad.abs().max(), y.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen(bad):
    x, y = (draw(seed, 150, 24).float() for seed in (8, 9))
    x[2, 20] = bad
    assert contrastile.clip_loss(x, y, 5.0, matryoshka=(4, 16)).isfinite()
    assert not contrastile.clip_loss(x, y, 5.0, matryoshka=(4, 24)).isfinite()


# ---- how it is called


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_no_and_of_one_pair(n):
    x, y = (v[:n].clone().requires_grad_() for v in (X, Y))
    loss = contrastile.info_nce(x, y, matryoshka=ENDS, normalize=True)
    loss.backward()
    assert loss == 0 and x.grad.shape == (n, D) and not x.grad.any()


def test_features_that_no_prefix_holds_have_no_gradient():
    x, y = (draw(seed, 150, 24).float().requires_grad_() for seed in (8, 9))
    contrastile.clip_loss(x, y, 5.0, matryoshka=(4, 12)).backward()
    assert not x.grad[:, 12:].any() and x.grad[:, :12].abs().min() > 0


def test_one_prefix_is_a_call_of_its_features():
    x, y = (draw(seed, 150, 24).float() for seed in (8, 9))
    assert contrastile.clip_loss(x, y, 5.0, matryoshka=(12,)) == contrastile.clip_loss(x[:, :12], y[:, :12], 5.0)


@pytest.mark.parametrize("dynamic", by_default((False, True), True))
def test_compiled(dynamic):
    def loss(x, y):
        return contrastile.clip_loss(x, y, 5.0, matryoshka=(4, 12, 24), normalize=True)

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)):
        x, y = (draw(seed, 150, 24).float().requires_grad_() for seed in (8, 9))
        value = function(x, y)
        value.backward()
        found.append((value.detach(), x.grad, y.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_neither_autocast_nor_no_grad_changes_the_value():
    x, y = (draw(seed, 150, 24).float().requires_grad_() for seed in (8, 9))
    loss = partial(contrastile.clip_loss, x, y, 5.0, matryoshka=(4, 12, 24), normalize=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss()
    with torch.no_grad():
        assert loss() == loss().detach() == inside.detach()


def test_second_derivatives_are_those_of_a_call_for_each_prefix():
    x, y = (draw(seed, 150, 24).requires_grad_() for seed in (8, 9))
    widths, found = (4, 12, 24), []
    for loss in (
        contrastile.clip_loss(x, y, 5.0, matryoshka=widths),
        sum(contrastile.clip_loss(x[:, :d], y[:, :d], 5.0) for d in widths),
    ):
        first = torch.autograd.grad(loss, (x, y), create_graph=True)
        found.append(torch.autograd.grad(sum(g.sin().sum() for g in first), (x, y)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


BAD = {
    "a number": (8, TypeError, "^matryoshka must be a tuple of ints, got 8"),
    "floats": ((8.0, 16), TypeError, "^matryoshka must be a tuple of ints"),
    "bools": ((True, 16), TypeError, "^matryoshka must be a tuple of ints"),
    "none": ((), ValueError, "^matryoshka must be different widths from 1 to 19, got"),
    "zero": ((0, 8), ValueError, "^matryoshka must be different widths from 1 to 19"),
    "too wide": ((8, 20), ValueError, "^matryoshka must be different widths from 1 to 19"),
    "twice": ((8, 8), ValueError, "^matryoshka must be different widths"),
}
BAD_WEIGHTS = {
    "too few": ((1.0,), ValueError, "^matryoshka_weights must be 2 numbers, as matryoshka, got 1"),
    "a number": (1.0, TypeError, "^matryoshka_weights must be a tuple of numbers, got float"),
    "words": (("a", "b"), TypeError, "^matryoshka_weights must be"),
    "infinite": ((1.0, float("inf")), ValueError, "^matryoshka_weights must be finite"),
    "a tensor": ((torch.tensor(1.0), 1.0), TypeError, "^matryoshka_weights must be numbers, got a tensor"),
}
LOSSES = {"clip": partial(contrastile.clip_loss, logit_scale=3.0), "info_nce": contrastile.info_nce}
LOSSES["nt_xent"] = contrastile.nt_xent


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("bad", BAD)
def test_bad_prefixes(loss, bad):
    widths, error, words = BAD[bad]
    with refuses(error, words):
        loss(X, Y, matryoshka=widths)


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
def test_bad_weights(bad):
    weights, error, words = BAD_WEIGHTS[bad]
    with refuses(error, words):
        contrastile.info_nce(X, Y, matryoshka=(8, 16), matryoshka_weights=weights)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_weights_alone(loss):
    with refuses(ValueError, "^matryoshka_weights must be None without matryoshka"):
        loss(X, Y, matryoshka_weights=(1.0,))


def test_ranks_compare_widths_and_weights():
    found = [Matryoshka.of(ends, weights, 32, False) for ends, weights in (
        ((8, 16), None), ((16, 8), None), ((8, 32), None), ((8, 16), (1.0, 2.0)))]  # fmt: skip
    facts = [prefix_facts(x)["matryoshka"] for x in (None, *found)]
    assert facts[1].code == facts[2].code
    assert len({fact.code for fact in facts}) == 4
    assert facts[0].show(facts[0].code) == "not given"
