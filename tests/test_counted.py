"""Weights, missing items, directions, frozen candidates, gathered keys, log-probabilities: what values alone do not
show. Values and gradients are those of the catalog's variants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import clip_loss, info_nce, nt_xent, sup_con
from contrastile.catalog import CATALOG
from contrastile.losses import softmax, two_views
from support.loss_cases import call, default, differentiable, id_of, leaves, takes
from support.refusals import refuses

N, D = 7, 5
X, Y, Z = F.normalize(torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)), dim=2)
HERE = torch.tensor([True, False, True, True, False, True, True])
WITH_PRESENT = [card for card in CATALOG if takes(card, "present")]
# block_info_nce has a weight for each version of a pair: tests/test_structured.py
WITH_WEIGHTS = [card for card in CATALOG if takes(card, "weights") and card.name != "block_info_nce"]
every_with_present = pytest.mark.parametrize("card", WITH_PRESENT, ids=id_of)
every_with_weights = pytest.mark.parametrize("card", WITH_WEIGHTS, ids=id_of)
BACKENDS = ["torch", "cpu"]


def options(card, **wanted):
    return {name: value for name, value in wanted.items() if takes(card, name)}


def presence(card, case, here):
    """The argument `present` of a loss in which only these items are there."""
    if card.name == "gram_loss":
        return here[:, None].expand(-1, len(case.args)).clone()
    views = case.views and card.name not in ("sup_con", "multiview_clip_loss")
    return here.expand(len(case.args[0]), -1).clone() if views else here


def items(case, x):
    """Features with the items first: (N, D), (k, N, D) of views, (N, K, D) of what each item has of its own."""
    return x.movedim(-2, 0) if case.views or x.dim() == 2 else x


def with_missing(card, case, here, value):
    """The case whose missing items hold this value everywhere."""

    def spoilt(x):
        if not isinstance(x, torch.Tensor) or x.dim() < 2:
            return x
        x = x.clone()
        items(case, x)[~here] = value
        return x

    args = (x if place in case.shared else spoilt(x) for place, x in enumerate(case.args))
    case = replace(case, args=tuple(args))
    return differentiable(replace(case, kwargs={**case.kwargs, "present": presence(card, case, here)}))


# ---- missing items


@every_with_present
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_missing_items_hold_does_not_matter(card, normalize, backend, reduction):
    if reduction == "none" and not takes(card, "reduction"):
        pytest.skip("one number by definition")
    given = options(card, normalize=normalize, reduction=reduction)
    given |= {"backend": backend} if takes(card, "backend") else {}
    results = []
    for value in (0.0, torch.nan, torch.inf, 1e30):
        case = with_missing(card, default(card, N, D), HERE, value)
        loss = call(card, case, **given)
        loss.sum().backward()
        results.append([loss, *(x.grad for x in leaves(case))])
        for x in leaves(case, of_items=True):
            if x.dim() > 1:
                assert not items(case, x.grad)[~HERE].any() and x.grad.isfinite().all()
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@every_with_present
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_batches_of_which_nearly_all_is_missing(card, count, reduction):
    """As batches of that size: the same conventions."""
    given = options(card, reduction=reduction)
    here = torch.arange(N) < count
    case = with_missing(card, default(card, N, D), here, torch.nan)
    value = call(card, case, **given)
    value.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves(case))
    if count == 0:
        assert not value.any() and not any(x.grad.any() for x in leaves(case))
        return
    full = default(card, N, D)

    def first(name, x):
        if name in full.shared or not isinstance(x, torch.Tensor):
            return x
        return (
            items(full, x)[:1].movedim(0, -2 if full.views else 0)
            if x.dim() > 1
            else x[:1]
            if x.dtype == torch.int64
            else x
        )

    alone = [first(place, x) for place, x in enumerate(full.args)]
    expected = card.function(*alone, **{name: first(name, x) for name, x in full.kwargs.items()}, **given)
    torch.testing.assert_close(value.sum(), expected.sum(), rtol=1e-6, atol=1e-6)


def test_temperatures_of_missing_pairs_do_not_matter():
    t = torch.where(HERE, 0.1, torch.nan).requires_grad_()
    info_nce(X, Y, temperature=t, symmetric=True, present=HERE).backward()
    assert t.grad.isfinite().all() and not t.grad[~HERE].any() and t.grad[HERE].all()


def test_missing_features_of_hard_negatives_do_not_matter():
    hard = torch.where(HERE[:, None, None], Z[:, None], torch.nan).requires_grad_()
    info_nce(X, Y, hard_negatives=hard, present=HERE, normalize=True).backward()
    assert hard.grad.isfinite().all() and not hard.grad[~HERE].any()


# ---- weights


@every_with_weights
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_of_one_change_nothing(card, reduction):
    case = default(card, N, D, torch.float64)
    found = call(card, case, weights=torch.ones(N, dtype=torch.float64), reduction=reduction)
    torch.testing.assert_close(found, call(card, case, reduction=reduction), rtol=1e-12, atol=1e-12)


@every_with_weights
def test_weights_that_are_all_zero_give_zero(card):
    case = differentiable(default(card, N, D))
    value = call(card, case, **options(card, weights=torch.zeros(N), key_weights=torch.zeros(N)))
    value.backward()
    assert value == 0 and not any(x.grad is None or x.grad.any() for x in leaves(case))


BAD_WEIGHTS = [
    (torch.ones(N + 1), ValueError, (r"shape \(7,\)", r"got \(8,\)")),
    (torch.ones(N, 1), ValueError, (r"got \(7, 1\)",)),
    (torch.ones(N, dtype=torch.int64), TypeError, ("floating point", "int64")),
    (torch.ones(N).index_fill(0, torch.tensor([2]), -1.0), ValueError, (">= 0",)),
    (torch.ones(N).index_fill(0, torch.tensor([2]), torch.nan), ValueError, ("finite",)),
    (torch.ones(N).index_fill(0, torch.tensor([2]), torch.inf), ValueError, ("finite",)),
    (torch.ones(N, requires_grad=True), ValueError, ("require grad",)),
    ([1.0] * N, TypeError, ("got list",)),
]


@every_with_weights
def test_bad_weights(card):
    for weights, error, words in BAD_WEIGHTS:
        with refuses(error, "^weights must", *words):
            call(card, default(card, N, D), weights=weights)


@every_with_present
def test_bad_presence(card):
    good = presence(card, default(card, N, D), HERE)
    for present, error, words in (
        (good[..., :-1], ValueError, ("shape", "got")),
        (good.long(), TypeError, ("bool", "int64")),
        (good.tolist(), TypeError, ("got list",)),
    ):
        with refuses(error, "^present must", *words):
            call(card, default(card, N, D), present=present)


# ---- how it is computed


@pytest.fixture
def calls(monkeypatch):
    """The pairs that reach the engine in scalar mode; statistics of rows are not asked for."""
    found = []

    def watch(module, name):
        original = getattr(module, name)

        def watched(pairs, *rest):
            found.append((name, pairs))
            return original(pairs, *rest)

        monkeypatch.setattr(module, name, watched)

    for module in (softmax, two_views):
        watch(module, "weighted_sum")
        watch(module, "pair_stats")
    return found


ROWS = torch.linspace(0.5, 1.5, N)


@pytest.mark.parametrize(
    "given",
    [
        {"weights": ROWS}, {"present": HERE}, {"key_log_prob": -ROWS}, {"temperature": ROWS, "symmetric": True},
        {"detach_keys": True, "symmetric": True}, {"weights": ROWS, "symmetric": True, "negatives": Z},
    ],
    ids=lambda x: " ".join(x),
)  # fmt: skip
def test_scalar_losses_form_gradients_on_the_way(given, calls):
    info_nce(X, Y, **given)
    assert {name for name, _ in calls} == {"weighted_sum"}


@pytest.mark.parametrize("direction, passes", [("mean", [True]), ("sum", [True]), ("rows", [False]), ("cols", [False])])
def test_a_direction_that_is_not_wanted_is_not_computed(direction, passes, calls):
    clip_loss(X, Y, 10.0, direction=direction)
    assert [pairs.cols for _, pairs in calls] == passes
    assert [pairs.a is X for _, pairs in calls] == [direction != "cols"]


def test_one_direction_of_views_has_half_the_anchors(calls):
    nt_xent(X, Y, direction="rows")
    nt_xent(X, Y, direction="cols")
    nt_xent(X, Y)
    assert [len(pairs.a) for _, pairs in calls] == [N, N, 2 * N]


@pytest.mark.parametrize("loss", [info_nce, lambda *x, **o: clip_loss(*x, 10.0, **o), nt_xent])
def test_frozen_candidates_are_passes_of_their_own(loss, calls):
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    loss(x, y, detach_keys=True).backward()
    for _, pairs in calls:
        columns = pairs.b if isinstance(pairs.b, list) else [pairs.b]
        assert pairs.a.requires_grad and not any(b.requires_grad for b in columns) and not pairs.cols


def test_one_sided_frozen_keys_get_no_gradient():
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    info_nce(x, y, negatives=Z.clone().requires_grad_(), detach_keys=True).backward()
    assert y.grad is None and x.grad.any()


def test_keys_around_the_matched_ones_are_not_copied(calls):
    key = torch.cat([Z[:2], Y, Z[2:]])
    info_nce(X, key, key_offset=2)
    blocks = calls[0][1].b
    assert [len(b) for b in blocks] == [N, 2, N - 2]
    assert all(b.untyped_storage().data_ptr() == key.untyped_storage().data_ptr() for b in blocks)


# ---- log-probabilities


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_log_probabilities_cancel_in_the_other_direction(spare, reduction):
    x, y = X.double(), Y.double()
    log_prob = torch.linspace(-9.0, -1.0, N, dtype=torch.float64)
    given = {"reduction": reduction, "temperature": 0.1}
    both = info_nce(x, y, symmetric=True, direction="sum", key_log_prob=log_prob, positive_log_prob=not spare, **given)
    rows = info_nce(x, y, key_log_prob=log_prob, positive_log_prob=not spare, **given)
    cols = info_nce(y, x, **given)
    torch.testing.assert_close(both, rows + cols, rtol=1e-12, atol=1e-12)


def test_equal_log_probabilities_change_nothing():
    equal = torch.full((N,), -3.0)
    torch.testing.assert_close(info_nce(X, Y, key_log_prob=equal), info_nce(X, Y))


# ---- what has no meaning


REFUSED = [
    ({"direction": "rows"}, "^direction must be 'mean' without symmetric=True"),
    ({"key_temperature": 0.1}, "^key_temperature must be None without the key -> query direction"),
    ({"key_temperature": 0.1, "symmetric": True, "direction": "rows"}, "^key_temperature must be None"),
    ({"negatives": Z, "symmetric": True, "direction": "cols"}, "^negatives must be None with direction='cols'"),
    ({"key_log_prob": ROWS, "symmetric": True, "direction": "cols"}, "^key_log_prob must be None with direction"),
    ({"key_offset": 1}, r"^key must have at least N \+ key_offset = 8 rows, got 7"),
    ({"key_offset": -1}, "^key_offset must be an int >= 0, got -1"),
    ({"key_offset": True}, "^key_offset must be an int >= 0, got True"),
    ({"key_log_prob": ROWS[:-1]}, r"^key_log_prob must have shape \(7,\), got \(6,\)"),
    ({"key_log_prob": ROWS / 0}, "^key_log_prob must be finite"),
    ({"key_log_prob": ROWS.clone().requires_grad_()}, "^key_log_prob must not require grad"),
    ({"key_log_prob": ROWS, "label_smoothing": 0.1}, "^key_log_prob .* cannot be combined with label_smoothing"),
    ({"key_log_prob": ROWS, "false_negative_margin": 0.1}, "^key_log_prob .* cannot be combined"),
    ({"negative_log_prob": ROWS}, "^negative_log_prob must be None without negatives"),
    ({"positive_log_prob": False}, "^positive_log_prob must be True without key_log_prob"),
    ({"temperature": torch.ones(5)}, "^temperature must"),
    ({"key_temperature": torch.ones(5), "symmetric": True}, "^key_temperature must"),
]


@pytest.mark.parametrize("given, message", REFUSED, ids=lambda x: " ".join(x) if isinstance(x, dict) else "")
def test_what_has_no_meaning_is_refused(given, message):
    with refuses(ValueError, message):
        info_nce(X, Y, **given)


def test_gathered_keys_need_ids_of_their_own():
    with refuses(ValueError, "^query_ids need key_ids where there are 14 keys for 7 queries"):
        info_nce(X, torch.cat([Y, Z]), query_ids=torch.arange(N))


def test_text_scales_and_directions_of_clip():
    with refuses(ValueError, "^text_logit_scale must be None without"):
        clip_loss(X, Y, 10.0, text_logit_scale=5.0, direction="rows")
    with refuses(ValueError, "^direction must be one of", "'both'"):
        clip_loss(X, Y, 10.0, direction="both")


def test_triangles_of_gathered_keys_are_all_there():
    gathered = torch.cat([Y, Z])
    with refuses(ValueError, "^present must be None with gathered keys"):
        contrastile.triangle_loss(X, gathered, gathered, present=HERE)


# ---- shapes


@pytest.mark.parametrize("n", [0, 1])
def test_few_pairs(n):
    x, y = X[:n].clone().requires_grad_(), Y[:n].clone().requires_grad_()
    given = {"weights": torch.ones(n), "present": torch.ones(n, dtype=torch.bool)}
    for value in (
        info_nce(x, y, symmetric=True, temperature=torch.ones(n), key_log_prob=-torch.ones(n), **given),
        clip_loss(x, y, torch.ones(n), detach_keys=True, direction="sum", **given),
        nt_xent(x, y, direction="cols", detach_keys=True, **given),
        sup_con(torch.stack([x, y]), torch.arange(n), detach_keys=True, **given),
    ):
        value.backward()
        assert value.isfinite()


def test_strided_features_and_options():
    """Every second of twice as many."""
    wide = [torch.stack([x, x], 1).flatten(0, 1)[::2] for x in (X, Y)]
    pair = [torch.stack([x, x], 1).flatten()[::2] for x in (ROWS, HERE)]
    given = {"temperature": 0.1, "symmetric": True, "detach_keys": True}
    found = info_nce(*wide, weights=pair[0], present=pair[1], **given)
    assert torch.equal(found, info_nce(X, Y, weights=ROWS, present=HERE, **given))


def test_none_of_it_needs_a_gradient():
    with torch.no_grad():
        value = info_nce(X, Y, weights=ROWS, present=HERE, symmetric=True, temperature=ROWS, key_log_prob=-ROWS)
    assert not value.requires_grad and value.isfinite()


def test_options_compile():
    def loss(x, y, t, w, here):
        return info_nce(x, y, temperature=t, symmetric=True, weights=w, present=here, key_log_prob=-w, backend="torch")

    args = (X.clone().requires_grad_(), Y, ROWS, ROWS, HERE)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), loss(*args))
