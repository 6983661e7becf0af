"""Candidates among queries and among keys, in one sum with those of queries to keys: GTE, Qwen3, ms-swift."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import Candidates, info_nce
from contrastile.metrics import InBatch
from support.loss_cases import usable
from support.refusals import refuses

N, D, K, TAU = 7, 6, 2, 0.3
G = torch.Generator().manual_seed(3)


def rows(*shape):
    return F.normalize(torch.randn(*shape, generator=G, dtype=torch.float64), dim=-1)


X = rows(N, D)
Y = F.normalize(X + 0.8 * rows(N, D), dim=1)
MORE, BANK = rows(N * K, D), rows(5, D)
IDS, GROUPS = torch.tensor([0, 1, 0, 2, 3, 1, 4]), torch.tensor([0, 0, 0, 1, 1, 0, 1])
ALL = dict(query_query=True, key_key=True, key_query=True)


def gradients(function, *given):
    leaves = [x.clone().requires_grad_() for x in given]
    value = function(*leaves)
    return [value, *torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)]


def same(function, truth, *given, **tolerance):
    pairs = zip(gradients(function, *given), gradients(truth, *given), strict=True)
    for found, true in pairs:
        torch.testing.assert_close(found, true, **{"rtol": 1e-10, "atol": 1e-12, **tolerance})


def apart(scores):
    """Without each row's own index."""
    return scores.masked_fill(torch.eye(*scores.shape, dtype=torch.bool), -torch.inf)


def test_all_of_them_are_the_improved_loss_of_gte():
    """Eq. 5: the partition function sums over the four blocks."""

    def gte(q, d):
        own = (q * d).sum(1).div(TAU)
        z = torch.cat([q @ d.T, apart(q @ q.T), apart(d @ q.T), apart(d @ d.T)], 1) / TAU
        return (z.exp().sum(1).log() - own).mean()

    same(lambda q, d: info_nce(q, d, temperature=TAU, **ALL), gte, X, Y)


@pytest.mark.parametrize("dd", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_infonce_of_ms_swift(dd, masked):
    """Its documents are the positives and everyone's hard negatives. Its mask leaves q-q and q-d alone of 0.1."""
    margin = 0.1 if masked else None

    def swift(q, d, hard):
        documents = torch.cat([d[:, None], hard.view(N, K, D)], 1).flatten(0, 1)  # in groups of a query
        qd, qq, target = q @ documents.T, apart(q @ q.T), torch.arange(N) * (K + 1)
        if masked:
            limit = qd[torch.arange(N), target][:, None].detach() + margin
            qd, qq = qd.masked_fill(qd > limit, -torch.inf), qq.masked_fill(qq > limit, -torch.inf)
        blocks = [qd, qq]
        if dd:
            others = d @ documents.T
            blocks.append(others.index_put((torch.arange(N), target), torch.tensor(-torch.inf, dtype=d.dtype)))
        return F.cross_entropy(torch.cat(blocks, 1) / TAU, target)

    def ours(q, d, hard):
        options = {"query_query": True, "key_key": dd, "false_negative_margin": margin}
        return info_nce(q, torch.cat([d, hard]), temperature=TAU, **options)

    if dd and masked:  # there, documents among documents are never masked
        value, truth = (f(X, Y, MORE) for f in (ours, swift))
        assert value < truth
    else:
        same(ours, swift, X, Y, MORE)


@pytest.mark.parametrize("options", [
    {"query_ids": IDS, "key_ids": IDS.flip(0), "query_groups": GROUPS, "reduction": "none"},
    {"false_negative_margin": -0.1, "relative_margin": 0.3, "present": torch.arange(N) != 2, "weights": IDS / 4.0},
    {"hard_negatives": Candidates.of_bank(BANK, torch.tensor([[0, 3, -1]]).expand(N, 3)), "negatives": BANK},
    {"detach_keys": True, "query_ids": IDS}, {"matryoshka": (2, 6), "normalize": True, "query_groups": GROUPS},
    {"temperature": torch.linspace(0.1, 0.5, N, dtype=torch.float64), "key_offset": 3, "query_ids": IDS,
     "key_ids": torch.arange(N + 5) % 4, "negatives": BANK},
], ids=lambda options: "-".join(options))  # fmt: skip
def test_with_other_options(options):
    given = (X, torch.cat([BANK[:3], Y, BANK[3:]]) if "key_offset" in options else Y)
    same(*(lambda q, d, f=f: f(q, d, **{"temperature": TAU, **ALL, **options})
           for f in (info_nce, contrastile.reference.info_nce)), *given)  # fmt: skip


@pytest.mark.parametrize("options", [
    {"direction": "sum", "query_ids": IDS}, {"direction": "cols"}, {"detach_keys": True, "query_groups": GROUPS},
    {"key_temperature": 0.1, "false_negative_margin": 0.05}, {"key_offset": 3, "key_temperature": 0.2},
], ids=lambda options: "-".join(options))  # fmt: skip
@pytest.mark.parametrize("side", ["query_query", "key_key"])
def test_both_directions_have_the_same_more_candidates(side, options):
    given = (X, torch.cat([BANK[:3], Y, BANK[3:]]) if "key_offset" in options else Y)
    how = {"temperature": TAU, "symmetric": True, side: True, **options}
    same(*(lambda q, d, f=f: f(q, d, **how) for f in (info_nce, contrastile.reference.info_nce)), *given)


@pytest.mark.parametrize("backend, dtype", usable("cpu"))
def test_every_backend_and_type(backend, dtype):
    x, y = X.to(dtype), Y.to(dtype)
    found = gradients(lambda q, d: info_nce(q, d, temperature=TAU, backend=backend, **ALL), x, y)
    wanted = gradients(
        lambda q, d: contrastile.reference.info_nce(q, d, temperature=TAU, **ALL), x.double(), y.double()
    )
    eps = torch.finfo(dtype).eps
    for one, other, tolerance in zip(found, wanted, (1e-5, 4 * eps, 4 * eps), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_a_report_has_all_candidates():
    report = InBatch()
    info_nce(X, Y, temperature=TAU, symmetric=True, query_query=True, key_key=True, report=report)
    scores = X @ Y.T / TAU
    more = [apart(X @ X.T) / TAU, apart(Y @ Y.T) / TAU]
    for z, prefix in ((scores, ""), (scores.T, "key_")):
        every = torch.cat([z, *more], 1)
        peak = torch.cat([apart(z), *more], 1).amax(1)
        wanted = (z.diagonal() > peak).double().mean(), every.softmax(1).diagonal().mean(), peak.mean()
        for name, value in zip(("recall", "probability", "largest_negative"), wanted, strict=True):
            torch.testing.assert_close(getattr(report, prefix + name), value)


def test_alone_and_empty():
    for n in (0, 1):
        x = X[:n].clone().requires_grad_()
        value = info_nce(x, Y[:n], **ALL)
        value.backward()
        assert value == 0 and not x.grad.any()


def test_pairs_that_nothing_stands_against():
    """All of the same item: every block is empty."""
    x = X.clone().requires_grad_()
    value = info_nce(x, Y, query_ids=torch.zeros(N, dtype=torch.long), **ALL)
    value.backward()
    assert value == 0 and not x.grad.any()


@pytest.mark.parametrize("options, error, words", [
    ({"query_query": 1}, TypeError, ("query_query must be a bool",)),
    ({"key_query": True, "symmetric": True}, ValueError, ("key_query must be False with symmetric=True",)),
    ({"key_key": True, "in_batch": False, "negatives": BANK}, ValueError, ("key_key must be False with in_batch",)),
    ({"query_query": True, "label_smoothing": 0.1}, ValueError, ("query_query cannot be combined with label_sm",)),
    ({"key_key": True, "num_hard": 2}, ValueError, ("key_key cannot be combined with num_hard",)),
    ({"key_key": True, "key_log_prob": X[:, 0]}, ValueError, ("key_key cannot be combined with key_log_prob",)),
])  # fmt: skip
def test_what_has_no_meaning_is_refused(options, error, words):
    with refuses(error, *words):
        info_nce(X, Y, **options)
