"""Private candidates of each query: lists of any length, rows of a bank by index, biases of their logits."""

import pytest
import torch

import contrastile
from contrastile import Candidates, info_nce
from contrastile.losses import private
from contrastile.ops import gathered
from support.combinations import by_default
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

N, K, D, B = 6, 5, 8, 11
G = torch.Generator().manual_seed(0)


def rows(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=G, dtype=torch.float64), dim=-1)


X, Y, OWN, BANK = rows(N, D), rows(N, D), rows(N, K, D), rows(B, D)
INDEX = torch.randint(-1, B, (N, K), generator=G)
INDEX[1] = -1
MASK = torch.rand(N, K, generator=G) < 0.6
MASK[2] = False
BIAS = torch.randn(N, K, generator=G, dtype=torch.float64)
OFFSETS = torch.tensor([0, 3, 3, 5, 9, 10, 11])
KINDS = {
    "mask": (OWN, lambda x, bias: Candidates(x, MASK, bias)),
    "index": (BANK, lambda x, bias: Candidates.of_bank(x, INDEX.int(), bias=bias)),
    "packed": (BANK, lambda x, bias: Candidates.packed(x, OFFSETS, bias=None if bias is None else bias.flatten()[:B])),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def lists(kind, x, bias):
    """The private logits of each query, from loops over the definitions; bias in the places of Candidates."""
    if kind == "mask":
        return [[(x[i, k], bias[i, k]) for k in range(K) if MASK[i, k]] for i in range(N)]
    if kind == "index":
        return [[(x[INDEX[i, k]], bias[i, k]) for k in range(K) if INDEX[i, k] >= 0] for i in range(N)]
    flat = bias.flatten()
    return [[(x[j], flat[j]) for j in range(OFFSETS[i], OFFSETS[i + 1])] for i in range(N)]


def dense(kind, query, key, x, bias, tau, smoothing=0.0):
    """InfoNCE, row by row."""
    losses = []
    for i, own in enumerate(lists(kind, x, bias)):
        more = [(query[i] @ y / tau + b).reshape(1) for y, b in own]
        log_p = torch.cat([query[i] @ key.T / tau, *more]).log_softmax(0)
        losses.append(-(1 - smoothing) * log_p[i] - smoothing * log_p.mean())
    return torch.stack(losses)


def gradients(function, *given):
    leaves = [x.clone().requires_grad_() for x in given]
    value = function(*leaves)
    value.sum().backward()
    return [value, *(x.grad for x in leaves)]


@every_kind
@pytest.mark.parametrize("smoothing, reduction", [(0.0, "mean"), (0.2, "none")])
def test_value_and_every_gradient(kind, smoothing, reduction, monkeypatch):
    monkeypatch.setattr(gathered, "AT_A_TIME_CPU", 3)  # several parts of each row
    features, make = KINDS[kind]
    tau = torch.tensor(0.3, dtype=torch.float64)

    def loss(query, key, x, bias, tau):
        options = dict(temperature=tau, label_smoothing=smoothing, reduction=reduction)
        return info_nce(query, key, hard_negatives=make(x, bias), **options)

    def truth(query, key, x, bias, tau):
        found = dense(kind, query, key, x, bias, tau, smoothing)
        return found.mean() if reduction == "mean" else found

    found, wanted = gradients(loss, X, Y, features, BIAS, tau), gradients(truth, X, Y, features, BIAS, tau)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@every_kind
@pytest.mark.parametrize("options", [
    {"detach_keys": True}, {"symmetric": True, "direction": "sum"}, {"normalize": True},
    {"present": torch.arange(N) > 1}, {"query_ids": torch.arange(N) // 2, "reduction": "none"},
])  # fmt: skip
def test_with_other_options(kind, options):
    features, make = KINDS[kind]
    given = (1.5 * X, Y, 2.0 * features) if "normalize" in options else (X, Y, features)

    def loss(function):
        return lambda query, key, x: function(query, key, hard_negatives=make(x, None), **options)

    candidates_too = "detach_keys" not in options
    leaves = [[x.clone().requires_grad_(i == 0 or candidates_too) for i, x in enumerate(given)] for _ in range(2)]
    found, wanted = (loss(f)(*own) for f, own in zip((info_nce, contrastile.reference.info_nce), leaves, strict=True))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    for value in (found, wanted):
        value.sum().backward()
    for own, other in zip(*leaves, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-11, atol=1e-12)


def test_a_plain_tensor_and_all_of_a_bank_are_the_same():
    index = torch.arange(N * K).view(N, K)
    plain = info_nce(X, Y, hard_negatives=OWN, reduction="none")
    for same in (Candidates(OWN), Candidates.of_bank(OWN.flatten(0, 1), index)):
        torch.testing.assert_close(info_nce(X, Y, hard_negatives=same, reduction="none"), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["mask", "index"])
def test_what_is_not_there_may_hold_anything(kind):
    features = KINDS[kind][0].clone()
    if kind == "mask":
        features[~MASK] = torch.nan
        own = Candidates(features.requires_grad_(), MASK)
    else:
        features[0] = torch.nan  # row 0 stands for -1 where the bank is read
        own = Candidates.of_bank(features.requires_grad_(), torch.where(INDEX == 0, -1, INDEX))
    query = X.clone().requires_grad_()
    value = info_nce(query, Y, hard_negatives=own)
    value.backward()
    assert value.isfinite() and query.grad.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize("own", [
    Candidates(OWN, torch.zeros(N, K, dtype=torch.bool), 3.0), Candidates.of_bank(BANK, torch.full((N, K), -1)),
    Candidates.of_bank(BANK[:0], torch.full((N, K), -1)), Candidates.packed(BANK[:0], 0 * OFFSETS),
])  # fmt: skip
def test_queries_without_any_have_the_others_of_the_batch(own):
    torch.testing.assert_close(info_nce(X, Y, hard_negatives=own), info_nce(X, Y), rtol=1e-14, atol=0)
    alone = Candidates(OWN[:1], torch.zeros(1, K, dtype=torch.bool))
    query = X[:1].clone().requires_grad_()
    value = info_nce(query, Y[:1], hard_negatives=alone)
    value.backward()
    assert value == 0 and not query.grad.any()


def test_an_empty_batch_is_zero():
    for own in (Candidates(OWN[:0]), Candidates.of_bank(BANK, INDEX[:0]), Candidates.packed(BANK[:0], OFFSETS[:1])):
        assert info_nce(X[:0], Y[:0], hard_negatives=own) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_features_alone(dtype):
    query, key, bank = X.to(dtype), Y.to(dtype), BANK.to(dtype).requires_grad_()
    found = info_nce(query, key, hard_negatives=Candidates.of_bank(bank, INDEX))
    wanted = info_nce(query.double(), key.double(), hard_negatives=Candidates.of_bank(bank.double(), INDEX))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(found, bank)
    assert grad.dtype == dtype and grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(X.float(), Y.float(), hard_negatives=Candidates.of_bank(BANK.float(), INDEX))
    assert torch.equal(inside, info_nce(X.float(), Y.float(), hard_negatives=Candidates.of_bank(BANK.float(), INDEX)))


def test_a_compiled_step_is_the_same():
    def step(query, key, bank, index):
        return info_nce(query, key, hard_negatives=Candidates.of_bank(bank, index, bias=0.5))

    found = gradients(
        lambda x, y, bank: torch.compile(step, backend="aot_eager", fullgraph=True)(x, y, bank, INDEX), X, Y, BANK
    )
    for one, other in zip(found, gradients(lambda x, y, bank: step(x, y, bank, INDEX), X, Y, BANK), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_second_derivatives_by_index_are_refused():
    query = X.clone().requires_grad_()
    value = info_nce(query, Y, hard_negatives=Candidates.of_bank(BANK, INDEX))
    (grad,) = torch.autograd.grad(value, query, create_graph=True)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        grad.sum().backward()


@pytest.mark.parametrize("make, error, words", [
    (lambda: Candidates(BANK), ValueError, ("features", r"\(N, K, D\)", r"got \(11, 8\)")),
    (lambda: Candidates(OWN, MASK[:, 1:]), ValueError, ("mask", r"\(6, 5\)", r"got \(6, 4\)")),
    (lambda: Candidates(OWN, MASK.long()), TypeError, ("mask", "bool")),
    (lambda: Candidates(OWN, None, BIAS[0]), ValueError, ("bias", r"\(6, 5\)", r"got \(5,\)")),
    (lambda: Candidates(OWN, None, BIAS / 0), ValueError, ("bias must be finite",)),
    (lambda: Candidates(OWN, None, float("inf")), ValueError, ("bias must be finite",)),
    (lambda: Candidates(OWN, None, MASK.long()), TypeError, ("bias", "floating point")),
    (lambda: Candidates(BANK, MASK, index=INDEX), ValueError, ("mask must be None with index",)),
    (lambda: Candidates.of_bank(OWN, INDEX), ValueError, ("features", r"\(N, D\)")),
    (lambda: Candidates.of_bank(BANK, INDEX[0]), ValueError, ("index", r"\(N, K\)", r"got \(5,\)")),
    (lambda: Candidates.of_bank(BANK, INDEX.double()), TypeError, ("index", "int64", "got torch.float64")),
    (lambda: Candidates.of_bank(BANK, INDEX + 3), ValueError, ("index must be -1", "from 0 to 10")),
    (lambda: Candidates.of_bank(BANK, INDEX - 1), ValueError, ("index must be -1", "from 0 to 10")),
    (lambda: Candidates.packed(BANK, OFFSETS[:-1]), ValueError, ("offsets must go from 0 to 11",)),
    (lambda: Candidates.packed(BANK, OFFSETS + 1), ValueError, ("offsets must go from 0 to 11",)),
    (lambda: Candidates.packed(BANK, torch.tensor([0, 5, 3, 11])), ValueError, ("not decrease",)),
    (lambda: Candidates.packed(BANK, OFFSETS[None]), ValueError, ("offsets", r"\(N \+ 1,\)")),
    (lambda: Candidates.packed(BANK, OFFSETS, bias=BIAS[0]), ValueError, ("bias", r"\(11,\)")),
])  # fmt: skip
def test_what_does_not_fit_is_named(make, error, words):
    with refuses(error, *words):
        make()


def test_an_index_that_nobody_looked_at_is_none_outside_the_bank(monkeypatch):
    """As on a GPU, where looking would wait: the same value and gradients as -1."""
    away = INDEX.clone()
    away[0, 0], away[3, 2], away[4], away[5, 1] = B, -7, B + 100, 2**40
    none = torch.where((away < 0) | (away >= B), -1, away)

    def loss(index):
        return lambda query, bank: info_nce(
            query, Y, hard_negatives=Candidates.of_bank(bank, index), label_smoothing=0.1
        )

    wanted = gradients(loss(none), X, BANK)
    monkeypatch.setattr(private.check, "condition", lambda message, holds: None)
    for one, other in zip(gradients(loss(away), X, BANK), wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("own, words", [
    (Candidates(OWN[1:]), ("hard_negatives must be those of 6 queries", "got those of 5")),
    (Candidates.of_bank(BANK[:, 1:], INDEX), ("hard_negatives", "width of query", "got 7")),
    (Candidates(OWN.to("meta")), ("hard_negatives", "on cpu", "got meta")),
])  # fmt: skip
def test_what_does_not_fit_the_queries_is_named(own, words):
    with refuses(ValueError, *words):
        info_nce(X, Y, hard_negatives=own)


@needs_linux
@pytest.mark.parametrize("bank", by_default(("y", "y.detach()"), "y"))
def test_memory_by_index_is_that_of_the_logits(bank):
    k, d, n = 8192, 64, 256
    index = f"torch.randint(0, n, (n, {k}), dtype=torch.int32)"
    own = f"contrastile.Candidates.of_bank({bank}, {index})"
    logits = 4 * n * k
    # the copy alone is d logits
    assert peak_bytes(f"contrastile.info_nce(x, y, hard_negatives={own})", n) < 8 * logits + (4 << 20) < d * logits / 4


# ---- which other candidates there are


def test_moco_is_the_queue_alone():
    def official(query, key):
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ BANK.T], 1) / 0.2
        return torch.nn.functional.cross_entropy(logits, torch.zeros(N, dtype=torch.long))

    found = gradients(lambda x, y: info_nce(x, y, negatives=BANK, in_batch=False, temperature=0.2), X, Y)
    for one, other in zip(found, gradients(official, X, Y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", [
    {"negatives": BANK, "negative_log_prob": torch.linspace(-3, -1, B).double()}, {"hard_negatives": OWN},
    {"negatives": BANK, "num_hard": 3, "relative_margin": 0.5}, {"negatives": BANK[:0]},
    {"negatives": BANK, "query_ids": torch.arange(N) // 2, "negative_ids": torch.arange(B) // 3, "detach_keys": True},
    {"negatives": BANK, "query_groups": torch.arange(N) % 2, "negative_groups": torch.arange(B) % 2,
     "present": torch.arange(N) > 1, "reduction": "none"},
])  # fmt: skip
def test_negatives_alone(options):
    found, wanted = (
        gradients(lambda x, y, f=f: f(x, y + 0 * x, in_batch=False, **options), X, Y)
        for f in (info_nce, contrastile.reference.info_nce)
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", [
    {"relative_margin": 0.4, "false_negative_margin": -0.1},
    {"relative_margin": -0.4, "false_negative_margin": 0.1, "negatives": BANK, "symmetric": True},
])  # fmt: skip
def test_of_both_margins_the_lower_limit_holds(options):
    x = rows(40, D)
    y = torch.nn.functional.normalize(0.4 * x + rows(40, D), dim=1)
    each = info_nce(x, y, reduction="none", **options)
    torch.testing.assert_close(each, contrastile.reference.info_nce(x, y, reduction="none", **options))
    for name in ("relative_margin", "false_negative_margin"):
        assert not torch.allclose(each, info_nce(x, y, reduction="none", **{**options, name: None}))


def test_a_relative_margin_by_its_definition():
    s = X @ Y.T
    own = s.diagonal()[:, None]
    dropped = (s > own - 0.4 * own.abs()) & ~torch.eye(N, dtype=torch.bool)
    wanted = torch.nn.functional.cross_entropy((s / 0.1).masked_fill(dropped, -torch.inf), torch.arange(N))
    torch.testing.assert_close(info_nce(X, Y, relative_margin=0.4, temperature=0.1), wanted, rtol=1e-12, atol=0)


def test_items_and_data_sets_together():
    """Negatives of the same data set that are not the same item."""
    items, sets = torch.tensor([0, 1, 0, 2, 1, 3]), torch.tensor([0, 0, 0, 1, 1, 1])
    queue_items, queue_sets = torch.arange(B) % 4, torch.arange(B) % 2
    options = {"query_ids": items, "query_groups": sets, "negative_ids": queue_items, "negative_groups": queue_sets}
    found = gradients(lambda x, y, z: info_nce(x, y, negatives=z, temperature=0.1, **options), X, Y, BANK)

    def truth(x, y, z):
        logits = x @ torch.cat([y, z]).T / 0.1
        same = items[:, None] == torch.cat([items, queue_items])
        apart = sets[:, None] != torch.cat([sets, queue_sets])
        dropped = (same | apart) & ~torch.eye(N, N + B, dtype=torch.bool)
        return torch.nn.functional.cross_entropy(logits.masked_fill(dropped, -torch.inf), torch.arange(N))

    for one, other in zip(found, gradients(truth, X, Y, BANK), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


IDS = torch.arange(N)


@pytest.mark.parametrize("given, words", [
    ({}, ("in_batch must be True without negatives",)),
    ({"negatives": BANK, "symmetric": True}, ("in_batch must be True with symmetric",)),
    ({"negatives": BANK, "query_ids": IDS}, ("query_ids must be None with in_batch=False",)),
    ({"negatives": BANK, "query_ids": IDS, "negative_ids": torch.arange(B), "key_ids": IDS}, ("key_ids must be None",)),
    ({"negatives": BANK, "key_log_prob": X[:, 0]}, ("key_log_prob must be None",)),
    ({"negatives": BANK, "label_smoothing": 0.1}, ("label_smoothing must be left out",)),
    ({"negatives": BANK, "key": torch.cat([Y, Y])}, ("key must have 6 rows", "got 12")),
])  # fmt: skip
def test_what_has_no_meaning_without_the_batch(given, words):
    with refuses(ValueError, *words):
        info_nce(X, **{"key": Y, "in_batch": False, **given})
