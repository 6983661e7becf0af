"""Mined negatives against all scores."""

from __future__ import annotations

import pytest
import torch

from contrastile.retrieval import drawing, mine_hard_negatives
from support.launch import gather_from
from support.refusals import refuses

G = torch.Generator().manual_seed(11)
N, M, D, K = 9, 50, 6, 4
QUERY, CORPUS = (torch.randn(size, D, generator=G, dtype=torch.float64) for size in (N, M))
POSITIVES = torch.stack([torch.randperm(M, generator=G)[:2] for _ in range(N)])
POSITIVES[0, 1] = POSITIVES[3, :] = -1
IDS = torch.randint(0, 5, (M,), generator=G)
SCORES = QUERY @ CORPUS.T


def expected(drop=None, limit=None, skip=0, count=K):
    """Indices of the best that are left; -1: no more."""
    kept = torch.ones(N, M, dtype=torch.bool) if drop is None else ~drop
    for i, own in enumerate(POSITIVES.tolist()):
        kept[i, [j for j in own if j >= 0]] = False
    kept &= True if limit is None else limit.unsqueeze(1) >= SCORES
    scores = SCORES.masked_fill(~kept, -torch.inf)
    values, index = scores.sort(dim=1, descending=True, stable=True)
    return index.masked_fill(values == -torch.inf, -1)[:, skip : skip + count]


def lowest():
    own = SCORES.gather(1, POSITIVES.clamp_min(0)).masked_fill(POSITIVES < 0, torch.inf)
    return own.amin(1)


OPTIONS = {
    "plain": ({}, lambda: expected()),
    "ids": ({"row_ids": IDS[:N], "col_ids": IDS}, lambda: expected(IDS[:N, None] == IDS)),
    "margin": ({"margin": 0.3}, lambda: expected(limit=lowest() - 0.3)),
    "relative": (
        {"margin": 0.2, "margin_of": "relative"},
        lambda: expected(limit=torch.where(lowest() < torch.inf, lowest() - 0.2 * lowest().abs(), torch.inf)),
    ),
    "window": ({"skip": 3, "pool": 7}, lambda: expected(skip=3)),
    "limits": ({"high": 1.0, "low": -0.5}, lambda: expected(SCORES <= -0.5, torch.full((N,), 1.0))),
    "both limits": ({"high": 0.8, "margin": 0.1}, lambda: expected(limit=(lowest() - 0.1).clamp_max(0.8))),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_best_that_are_wrong(name):
    options, of_scores = OPTIONS[name]
    found = mine_hard_negatives(QUERY, CORPUS, POSITIVES, K, **options)
    assert torch.equal(found.indices, of_scores())
    own = SCORES.gather(1, found.indices.clamp_min(0)).masked_fill(found.indices < 0, -torch.inf)
    torch.testing.assert_close(found.scores, own)


def test_random_negatives_come_from_the_pool_and_depend_on_the_generator_alone(monkeypatch):
    def mined():
        options = {"pool": 10, "skip": 2, "choice": "random", "generator": torch.Generator().manual_seed(4)}
        return mine_hard_negatives(QUERY, CORPUS, POSITIVES, K, **options).indices

    first, pool = mined(), expected(skip=2, count=10)
    assert (first.unsqueeze(2) == pool.unsqueeze(1)).sum((1, 2)).eq(K).all()
    assert all(len(set(own)) == K for own in first.tolist())
    assert not torch.equal(first, pool[:, :K])
    monkeypatch.setattr(drawing, "COLUMNS", 7)
    monkeypatch.setattr("contrastile.retrieval.largest.COLUMNS", 7)
    assert torch.equal(mined(), first)
    counts = torch.zeros(10)
    for seed in range(300):
        options = {"pool": 10, "skip": 2, "choice": "random", "generator": torch.Generator().manual_seed(seed)}
        found = mine_hard_negatives(QUERY[:1], CORPUS, POSITIVES[:1], K, **options).indices
        counts += (found[0].unsqueeze(1) == pool[0]).sum(0)
    assert ((counts - 300 * K / 10).abs() < 4.0 * (300 * 0.4 * 0.6) ** 0.5).all()


def test_a_small_pool_gives_what_it_has():
    options = {"pool": 60, "choice": "random", "high": SCORES[0].sort().values[2].item()}
    found = mine_hard_negatives(QUERY[:1], CORPUS, POSITIVES[:1] * 0 - 1, K, **options)
    assert (found.indices[0] >= 0).tolist() == [True, True, True, False]
    assert found.scores[0, 3] == -torch.inf


@pytest.mark.parametrize("n, m", [(0, 5), (3, 0), (1, 1)])
def test_few_queries_and_documents(n, m):
    positives = torch.full((n,), 0 if m else -1)
    found = mine_hard_negatives(torch.randn(n, D), torch.randn(m, D), positives, 2)
    assert torch.equal(found.indices, torch.full((n, 2), -1))


def test_a_low_above_what_the_margin_leaves_gives_none():
    low = lowest().sort().values[2].item() - 0.2
    found = mine_hard_negatives(QUERY, CORPUS, POSITIVES, K, margin=0.3, low=low).indices
    none = lowest() - 0.3 <= low
    assert 0 < none.sum() < N and found[none].eq(-1).all()
    assert torch.equal(found, expected(drop=SCORES <= low, limit=lowest() - 0.3))


@pytest.mark.parametrize("options", [{}, {"margin": 0.1}, {"high": 1.0}, {"low": -0.5}])
def test_nan_is_no_negative(options):
    corpus = torch.cat([CORPUS, torch.full((1, D), torch.nan, dtype=torch.float64)])
    plain = mine_hard_negatives(QUERY, CORPUS, POSITIVES, K, **options)
    found = mine_hard_negatives(QUERY, corpus, POSITIVES, K, **options)
    assert torch.equal(found.indices, plain.indices) and torch.equal(found.scores, plain.scores)
    positives = POSITIVES.clone()
    positives[1, 0] = M
    own = mine_hard_negatives(QUERY, corpus, positives, K, **options).indices
    assert own[1].eq(-1).all() == ("margin" in options) and torch.equal(own[2:], plain.indices[2:])


def test_without_a_margin_copies_of_the_positive_stay():
    generator = torch.Generator().manual_seed(0)
    query, corpus = (torch.randn(200, 96, generator=generator) for _ in range(2))
    found = mine_hard_negatives(query, torch.cat([corpus, corpus]), torch.arange(200), 400, margin=0.0).indices
    assert (found == torch.arange(200, 400).unsqueeze(1)).any(1).all()


def test_positives_of_any_integer_type():
    for dtype in (torch.uint8, torch.int8, torch.int32):
        found = mine_hard_negatives(QUERY, CORPUS, POSITIVES.clamp_min(0).to(dtype), K, margin=0.1)
        assert torch.equal(
            found.indices, mine_hard_negatives(QUERY, CORPUS, POSITIVES.clamp_min(0), K, margin=0.1).indices
        )


SHARES = ((0, 4, 0, 30), (4, 4, 30, 30), (4, N, 30, M))


def of_ranks(rank):
    low, high, first, last = SHARES[rank]
    given = (QUERY[low:high], CORPUS[first:last], POSITIVES[low:high], K)
    generator = torch.Generator().manual_seed(1)
    return (
        mine_hard_negatives(*given, margin=0.3, group="world").indices,
        mine_hard_negatives(*given, pool=9, choice="random", generator=generator, group="world").indices,
    )


@pytest.mark.dist
def test_ranks_mine_what_one_process_mines():
    found = [torch.cat(parts) for parts in zip(*gather_from(3, of_ranks), strict=True)]
    generator = torch.Generator().manual_seed(1)
    whole = mine_hard_negatives(QUERY, CORPUS, POSITIVES, K, pool=9, choice="random", generator=generator)
    assert torch.equal(found[0], expected(limit=lowest() - 0.3))
    assert torch.equal(found[1], whole.indices)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"k": 0}, ValueError, ["k", ">= 1"]),
        ({"pool": 2}, ValueError, ["pool", "at least k"]),
        ({"skip": -1}, ValueError, ["skip", ">= 0"]),
        ({"margin": -0.1}, ValueError, ["margin", ">= 0"]),
        ({"margin_of": "cosine"}, ValueError, ["margin_of", "relative"]),
        ({"choice": "best"}, ValueError, ["choice", "random"]),
        ({"generator": torch.Generator()}, ValueError, ["generator", "top"]),
        ({"positives": torch.full((N,), M)}, ValueError, ["positives", "lie in"]),
        ({"positives": POSITIVES[:3]}, ValueError, ["positives", "shape"]),
        ({"positives": POSITIVES.double()}, TypeError, ["positives", "integers"]),
        ({"low": 1.0, "high": 0.5, "margin": 0.1}, ValueError, ["low", "above high"]),
        ({"margin": 0.1, "high": torch.ones(N + 1)}, ValueError, ["high", f"({N},)"]),
        ({"margin": 0.1, "high": "a"}, TypeError, ["high", "number"]),
        ({"row_ids": IDS[:N]}, ValueError, ["row_ids", "together"]),
    ],
)
def test_bad_input_is_named(options, error, words):
    given = {"positives": POSITIVES, "k": K} | options
    with refuses(error, *words):
        mine_hard_negatives(QUERY, CORPUS, **given)
