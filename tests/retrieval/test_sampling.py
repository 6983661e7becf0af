"""Draws of negatives: their law, and that nothing but the generator decides them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from contrastile import gram_volume_matrix
from contrastile.ops import stream
from contrastile.retrieval import drawing, sample_negatives, semi_hard_negatives, topk
from support.launch import gather_from
from support.refusals import refuses

G = torch.Generator().manual_seed(3)
N, M, D = 11, 40, 5
QUERY, KEY, OTHER = (torch.randn(size, D, generator=G, dtype=torch.float64) for size in (N, M, M))
IDS = torch.randint(0, 4, (M,), generator=G)
OWN = torch.arange(M) == torch.arange(N)[:, None]
MANY = 20000  # rows that draw alike


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distance(drawn, probability):
    """Chi-square over its standard deviations above its mean; drawn: indices into the outcomes."""
    expected = probability * len(drawn)
    assert drawn.min() >= 0 and not (torch.bincount(drawn, minlength=len(expected))[expected == 0]).any()
    some = expected > 0
    counts = torch.bincount(drawn, minlength=len(expected))[some]
    freedom = int(some.sum()) - 1
    statistic = ((counts - expected[some]).square() / expected[some]).sum()
    return (statistic - freedom) / (2.0 * freedom) ** 0.5


LAWS = {
    "softmax": ({}, lambda: torch.softmax(QUERY @ KEY.T, 1)),
    "temperature": ({"temperature": 0.7}, lambda: torch.softmax(QUERY @ KEY.T / 0.7, 1)),
    "floor": ({"floor": 0.01}, lambda: torch.softmax(QUERY @ KEY.T, 1) + 0.01),
    "propensity": (
        {"col_bias": -torch.linspace(0.0, 3.0, M).double()},
        lambda: torch.softmax(QUERY @ KEY.T, 1) / torch.linspace(0.0, 3.0, M).double().exp(),
    ),
}


@pytest.fixture(params=["one tile", "many tiles"])
def tiling(request, monkeypatch):
    if request.param == "many tiles":
        monkeypatch.setattr(drawing, "COLUMNS", 7)


@pytest.mark.parametrize("law", LAWS)
def test_columns_are_drawn_by_the_softmax_of_their_scores(law, tiling):
    options, weights = LAWS[law]
    probability = weights().masked_fill(OWN, 0.0)
    probability /= probability.sum(1, keepdim=True)
    drawn = sample_negatives(QUERY, KEY, MANY, replacement=True, generator=seeded(), **options)
    for own, true in zip(drawn, probability, strict=True):
        assert abs(distance(own, true)) < 4.0
    assert distance(drawn[0], torch.full((M,), 1.0 / M).double() * ~OWN[0]) > 100.0  # other laws are seen


def test_the_first_draws_without_replacement_follow_the_law_of_exclusion():
    key, query = KEY[:4], QUERY[:1].expand(MANY, D)
    p = torch.softmax(QUERY[0] @ key.T, 0)
    drawn = sample_negatives(query, key, 2, keep="all", generator=seeded(1))
    law = p[:, None] * p / (1.0 - p[:, None])
    assert abs(distance(drawn[:, 0] * 4 + drawn[:, 1], law.fill_diagonal_(0.0).flatten())) < 4.0


def test_what_rounds_leave_open_follows_the_law_of_exclusion(monkeypatch):
    monkeypatch.setattr(drawing, "ROUNDS", 1)
    p = torch.softmax(-torch.arange(4.0, dtype=torch.float64), 0)
    query, key = torch.ones(MANY, 1, dtype=torch.float64), p.log().unsqueeze(1)
    drawn = sample_negatives(query, key, 4, keep="all", generator=seeded(1))
    orders = torch.tensor(list(permutations(range(4))))
    q = p[orders]
    law = (q / (1.0 - q.cumsum(1) + q)).prod(1)
    powers = 4 ** torch.arange(4)
    outcome = torch.searchsorted((orders * powers.flip(0)).sum(1), (drawn * powers.flip(0)).sum(1))
    assert torch.equal(orders[outcome], drawn)
    assert abs(distance(outcome, law)) < 4.0


def test_peaked_scores_take_few_sweeps(monkeypatch):
    seen, visit = [], stream.Stream.visit
    monkeypatch.setattr(stream.Stream, "visit", lambda self, see: (seen.append(1), visit(self, see))[1])
    options = {"temperature": 1e-3, "generator": seeded()}
    drawn = sample_negatives(QUERY, KEY, 30, **options)
    assert len(seen) == 2 * drawing.ROUNDS + 1
    assert all(len(set(own) - {-1}) == 30 for own in drawn.tolist())
    for columns in (7, M):
        monkeypatch.setattr("contrastile.retrieval.largest.COLUMNS", columns)
        monkeypatch.setattr(drawing, "COLUMNS", columns)
        monkeypatch.setattr(stream, "COPIES", 1 << 16)
        assert torch.equal(sample_negatives(QUERY, KEY, 30, **(options | {"generator": seeded()})), drawn)


def test_without_replacement_all_columns_differ_and_the_rest_is_missing(tiling):
    drawn = sample_negatives(QUERY, KEY, M + 5, generator=seeded())
    assert torch.equal(drawn[:, M - 1 :], torch.full((N, 6), -1))
    expected = [[j for j in range(M) if j != i] for i in range(N)]
    assert drawn[:, : M - 1].sort(1).values.tolist() == expected
    # far apart, also beyond what float64 exponentials hold: nearly always in falling order
    steep = sample_negatives(QUERY, KEY, 5, temperature=1e-4, generator=seeded())
    assert torch.equal(steep, topk(QUERY, KEY, 5, keep="other_index").indices)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_draws_do_not_depend_on_how_the_work_is_cut(replacement, floor, monkeypatch):
    options = {"replacement": replacement, "floor": floor, "temperature": 0.3}
    whole = sample_negatives(QUERY, KEY, 12, generator=seeded(5), **options)
    for columns, copies in ((3, 1 << 17), (13, 1 << 15), (M, 1 << 16)):
        monkeypatch.setattr(drawing, "COLUMNS", columns)
        monkeypatch.setattr(stream, "COPIES", copies)
        blocks = [KEY[:10], KEY[10:]]
        assert torch.equal(sample_negatives(QUERY, blocks, 12, generator=seeded(5), **options), whole)
    torch.manual_seed(5)
    assert torch.equal(sample_negatives(QUERY, KEY, 12, **options), whole)  # None: torch's own generator
    assert not torch.equal(sample_negatives(QUERY, KEY, 12, **options), whole)


def test_the_first_draw_is_the_inverse_of_the_cumulative_sum():
    u = torch.rand(N, 1, generator=seeded(9), dtype=torch.float64)
    probability = torch.softmax((QUERY @ KEY.T).masked_fill(OWN, -torch.inf), 1)
    expected = torch.searchsorted(probability.cumsum(1), u, right=True)
    assert torch.equal(sample_negatives(QUERY, KEY, replacement=True, generator=seeded(9)), expected)


def test_rules_and_limits_choose_the_candidates(tiling):
    row_ids, high = IDS[:N] + 0, 0.5
    options = {"keep": "other_id", "row_ids": row_ids, "col_ids": IDS, "high": high, "temperature": 0.5}
    drawn = sample_negatives(QUERY, KEY, M, generator=seeded(), **options)
    kept = (row_ids[:, None] != IDS) & (QUERY @ KEY.T <= high)
    found = torch.zeros(N, M + 1, dtype=torch.bool).scatter_(1, torch.where(drawn < 0, M, drawn), True)[:, :M]
    assert torch.equal(found, kept)


@pytest.mark.parametrize("score", ["volume", "dot"])
def test_a_row_of_one_strong_candidate(score):
    """The tuple that spans the smallest volume, as GRAM's matching head is given."""
    key = (KEY, OTHER) if score == "volume" else KEY
    scores = -gram_volume_matrix(QUERY, KEY, OTHER) if score == "volume" else QUERY @ KEY.T
    best = scores.masked_fill(OWN, -torch.inf).argmax(1)
    drawn = sample_negatives(QUERY, key, 1, score=score, temperature=1e-5, generator=seeded())
    assert torch.equal(drawn[:, 0], best)


def test_candidates_that_weigh_nothing_are_never_drawn():
    query, key = torch.ones(500, 1), torch.tensor([[-1e4], [0.0], [-1e4], [0.0], [-1e4]])
    drawn = sample_negatives(query, key, 50, keep="all", replacement=True, generator=seeded())
    assert set(drawn.unique().tolist()) == {1, 3}


@pytest.mark.parametrize("n, m", [(0, 5), (3, 0), (1, 1), (0, 0)])
def test_nobody_to_draw(n, m):
    drawn = sample_negatives(torch.randn(n, D), torch.randn(m, D), 2)
    assert torch.equal(drawn, torch.full((n, 2), -1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_without_finite_scores_draws_nothing(value):
    query = QUERY.clone()
    query[2] = value
    drawn = sample_negatives(query, KEY, 3, generator=seeded())
    assert (drawn[2] == -1).all() and (drawn[[0, 1, 3]] >= 0).all()


def test_semi_hard_negatives_come_from_the_pool(tiling):
    pool = topk(QUERY, KEY, 12).indices
    inside = torch.zeros(N, M, dtype=torch.bool).scatter_(1, pool, True) & (IDS[:N, None] != IDS)
    options = {"pool": 12, "keep": "other_id", "row_ids": IDS[:N], "col_ids": IDS}
    drawn = semi_hard_negatives(QUERY, KEY, 20, generator=seeded(), **options)
    found = torch.zeros(N, M + 1, dtype=torch.bool).scatter_(1, torch.where(drawn < 0, M, drawn), True)[:, :M]
    assert torch.equal(found, inside)
    many = semi_hard_negatives(QUERY, KEY, MANY, replacement=True, generator=seeded(), **options)
    for own, true in zip(many, inside.double(), strict=True):
        assert abs(distance(own, true / true.sum())) < 4.0


SHARES = ((0, 4, 0, 25), (4, 4, 25, 25), (4, N, 25, M))


def of_ranks(rank, strategy):
    from contrastile.distributed import Ranks

    low, high, first, last = SHARES[rank]
    group, pair = Ranks(strategy=strategy), (QUERY[low:high], KEY[first:last])
    return (
        sample_negatives(*pair, 6, temperature=0.3, floor=1e-3, generator=seeded(5 + rank), group=group),
        sample_negatives(*pair, 6, replacement=True, generator=seeded(5 + rank), group=group),
        sample_negatives(*pair, 30, temperature=1e-3, generator=seeded(5 + rank), group=group),
        semi_hard_negatives(*pair, 6, pool=10, generator=seeded(5 + rank), group=group),
    )


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["gather", "ring"])
def test_ranks_draw_what_one_process_draws(strategy):
    found = [torch.cat(parts) for parts in zip(*gather_from(3, of_ranks, strategy), strict=True)]
    expected = (
        sample_negatives(QUERY, KEY, 6, temperature=0.3, floor=1e-3, generator=seeded(5)),
        sample_negatives(QUERY, KEY, 6, replacement=True, generator=seeded(5)),
        sample_negatives(QUERY, KEY, 30, temperature=1e-3, generator=seeded(5)),
        semi_hard_negatives(QUERY, KEY, 6, pool=10, generator=seeded(5)),
    )
    assert all(map(torch.equal, found, expected))


def official_gram(volume, temperature):
    """model/gram.py of GRAM, restated: weights of the softmax with 1e-4 added, the own index at 0."""
    weights = F.softmax(-volume / temperature, 1) + 1e-4
    weights.fill_diagonal_(0)
    return weights / weights.sum(1, keepdim=True)


def test_the_law_of_gram():
    volume = gram_volume_matrix(QUERY, KEY, OTHER)
    law = official_gram(volume, 0.07)
    options = {"score": "volume", "temperature": 0.07, "floor": 1e-4, "generator": seeded()}
    drawn = sample_negatives(QUERY, (KEY, OTHER), MANY, replacement=True, **options)
    for own, true in zip(drawn, law, strict=True):
        likely = true > 50.0 / MANY  # enough draws for the chi-square
        assert abs(torch.bincount(own, minlength=M)[~likely].sum() / MANY - true[~likely].sum()) < 0.02
        counts, expected = torch.bincount(own, minlength=M)[likely], true[likely] * MANY
        assert ((counts - expected) / expected.sqrt()).abs().max() < 4.5


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"k": 0}, ValueError, ["k", ">= 1"]),
        ({"temperature": 0.0}, ValueError, ["temperature", "> 0"]),
        ({"temperature": torch.tensor(0.0)}, ValueError, ["temperature", "> 0"]),
        ({"temperature": torch.full((len(QUERY),), torch.nan)}, ValueError, ["temperature", "> 0"]),
        ({"temperature": torch.ones(len(QUERY) + 1)}, ValueError, ["temperature", rf"\({len(QUERY)},\)"]),
        ({"floor": -1.0}, ValueError, ["floor", ">= 0"]),
        ({"generator": 5}, TypeError, ["generator", "torch.Generator", "int"]),
        ({"score": "cosine"}, ValueError, ["score", "cosine"]),
    ],
)
def test_bad_input_is_named(options, error, words):
    with refuses(error, *words):
        sample_negatives(QUERY, KEY, **options)
    with refuses(ValueError, "pool", ">= 1"):
        semi_hard_negatives(QUERY, KEY, 1, pool=0)
