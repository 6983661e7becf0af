"""topk and ranks against dense scores in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile import gram_volume_matrix
from contrastile.ops import stream
from contrastile.retrieval import largest, ranks, topk
from support.launch import gather_from
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

G = torch.Generator().manual_seed(7)
N, M, D, K = 7, 60, 6, 5


def rows(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64).requires_grad_()


QUERY, GALLERY, OTHER, BIAS = rows(N, D), rows(M, D), rows(M, D), rows(M)
ROW_IDS, COL_IDS = (torch.randint(0, 4, (size,), generator=G) for size in (N, M))
ROW_GROUPS, COL_GROUPS = (torch.randint(0, 3, (size,), generator=G) for size in (N, M))
SAME_ID = ROW_IDS[:, None] == COL_IDS
MASK = torch.rand(N, M, generator=G) < 0.5
PARTNER = torch.stack([torch.randperm(M, generator=G)[:3] for _ in range(N)])
PARTNER[0, 1:] = -1


def dense_area(anchor, x, y):
    u, w = anchor[:, None] - x, anchor[:, None] - y
    return 0.5 * (u.square().sum(2) * w.square().sum(2) - (u * w).sum(2).square()).sqrt()


def ordered(scores, k):
    """Columns by falling score, then by rising index; -inf is no candidate."""
    values, index = scores.sort(dim=1, descending=True, stable=True)
    values, index = F.pad(values, (0, k), value=-torch.inf)[:, :k], F.pad(index, (0, k), value=-1)[:, :k]
    return values, index.masked_fill(values == -torch.inf, -1)


@pytest.fixture(params=["one tile", "many tiles"])
def tiling(request, monkeypatch):
    if request.param == "many tiles":
        monkeypatch.setattr(largest, "COLUMNS", 3)
        monkeypatch.setattr("contrastile.retrieval.placing.COLUMNS", 7)
        monkeypatch.setattr(stream, "COPIES", 1 << 16)  # a few rows


CASES = {
    "plain": ({}, lambda z: z),
    "bias": ({"col_bias": BIAS}, lambda z: z + BIAS),
    "ids": (dict(keep="other_id", row_ids=ROW_IDS, col_ids=COL_IDS), lambda z: z.masked_fill(SAME_ID, -torch.inf)),
    "two rules": (
        dict(keep=("same_group", "other_id"), row_ids=ROW_IDS, col_ids=COL_IDS)
        | dict(row_groups=ROW_GROUPS, col_groups=COL_GROUPS),
        lambda z: z.masked_fill(SAME_ID | (ROW_GROUPS[:, None] != COL_GROUPS), -torch.inf),
    ),
    "limits": (
        dict(low=-1.0, high=torch.linspace(-0.5, 1.5, N, dtype=torch.float64)),
        lambda z: z.masked_fill((z <= -1.0) | (z > torch.linspace(-0.5, 1.5, N)[:, None].double()), -torch.inf),
    ),
    "mask": ({"mask": MASK}, lambda z: z.masked_fill(~MASK, -torch.inf)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_indices_and_gradients_are_those_of_all_scores(case, tiling):
    options, of_scores = CASES[case]
    found = topk(QUERY, GALLERY, K, **options)
    values, index = ordered(of_scores(QUERY @ GALLERY.T), K)
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.values, values, rtol=1e-12, atol=1e-13)
    leaves, weight = (QUERY, GALLERY, BIAS), torch.randn(N, K, generator=G, dtype=torch.float64)
    sums = [(torch.where(index < 0, 0.0, x) * weight).sum() for x in (found.values, values)]
    for own, true in zip(*(torch.autograd.grad(x, leaves, allow_unused=True) for x in sums), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-11, atol=1e-13)


def test_a_gallery_of_blocks_is_one_gallery(tiling):
    found, whole = topk(QUERY, [GALLERY[:11], GALLERY[11:11], GALLERY[11:]], K), topk(QUERY, GALLERY, K)
    assert torch.equal(found.indices, whole.indices)
    torch.testing.assert_close(found.values, whole.values, rtol=1e-13, atol=0.0)
    leaves = QUERY, GALLERY
    for own, true in zip(*(torch.autograd.grad(x.values.square().sum(), leaves) for x in (found, whole)), strict=True):
        torch.testing.assert_close(own, true)


DENSE = {
    "volume": lambda: gram_volume_matrix(QUERY, GALLERY, OTHER),
    "area": lambda: dense_area(QUERY, GALLERY, OTHER),
    "squared_area": lambda: 2.0 * dense_area(QUERY, GALLERY, OTHER).square(),
}


@pytest.mark.parametrize("score", DENSE)
def test_small_volumes_and_areas_come_first(score, tiling):
    found, (values, index) = topk(QUERY, (GALLERY, OTHER), K, score=score), ordered(-DENSE[score](), K)
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.values, values, rtol=1e-10, atol=1e-12)
    leaves = QUERY, GALLERY, OTHER
    for own, true in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (found.values, values)), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-9, atol=1e-11)
    place = (ordered(-DENSE[score](), M)[1] == torch.arange(N)[:, None]).nonzero()[:, 1] + 1
    assert torch.equal(ranks(QUERY, (GALLERY, OTHER), score=score), place)


def integers(*shape):
    """Few values, so that many scores are equal, and exact."""
    return torch.randint(-1, 2, shape, generator=G).float()


@pytest.mark.parametrize("m", [1, 3, 64, 700, 3000])
@pytest.mark.parametrize("k", [1, 4, 900])
def test_of_equal_scores_the_first_columns_are_taken(m, k):
    query, gallery = integers(20, 3), integers(m, 3)
    assert all(map(torch.equal, topk(query, gallery, k), ordered(query @ gallery.T, k)))


def test_equal_scores_in_many_tiles(tiling):
    query, gallery = integers(20, 3), integers(50, 3)
    scores = query @ gallery.T
    assert all(map(torch.equal, topk(query, gallery, 8), ordered(scores, 8)))
    places = ordered(scores, 50)[1].argsort(1) + 1
    assert torch.equal(ranks(query, gallery), places.diagonal())
    partner = torch.randint(0, 50, (20, 2), generator=G)
    found = ranks(query, gallery, positives="partner", partner=partner, each=True)
    assert torch.equal(found, places.gather(1, partner))


def test_copies_of_one_row_come_in_order():
    found = topk(QUERY.float(), GALLERY[:1].expand(100, D).float(), 100)
    assert torch.equal(found.indices, torch.arange(100).expand(N, 100))


def test_nan_is_the_largest():
    gallery = GALLERY.detach().clone()
    gallery[[3, 40]] = torch.nan
    found = topk(QUERY.detach(), gallery, 4)
    assert torch.equal(found.indices[:, :2], torch.tensor([3, 40]).expand(N, 2))
    assert found.values[:, :2].isnan().all() and found.values[:, 2:].isfinite().all()
    gallery[:] = torch.nan
    assert torch.equal(topk(QUERY.detach(), gallery, 4).indices, torch.arange(4).expand(N, 4))


@pytest.mark.parametrize("n, m", [(0, 5), (3, 0), (1, 1), (0, 0)])
def test_few_queries_and_candidates(n, m):
    query, gallery = rows(n, D), rows(m, D)
    found = topk(query, gallery, 3)
    assert found.values.shape == found.indices.shape == (n, 3)
    assert (found.indices[:, m:] == -1).all() and (found.values[:, m:] == -torch.inf).all()
    found.values[:, :m].sum().backward()
    assert query.grad.shape == query.shape and gallery.grad.shape == gallery.shape
    assert torch.equal(ranks(query, gallery), torch.ones(n, dtype=torch.int64) * (m > 0))


def test_no_item_is_its_own_candidate():
    found = topk(GALLERY, None, 4, keep="same_id", row_ids=COL_IDS)
    scores = (GALLERY @ GALLERY.T).masked_fill(COL_IDS[:, None] != COL_IDS, -torch.inf).fill_diagonal_(-torch.inf)
    values, index = ordered(scores, 4)
    assert torch.equal(found.indices, index)
    both = [torch.autograd.grad(x[index >= 0].sum(), GALLERY)[0] for x in (found.values, values)]
    torch.testing.assert_close(*both, rtol=1e-11, atol=1e-13)
    every = (GALLERY @ GALLERY.T).detach().fill_diagonal_(-torch.inf)
    found = ranks(GALLERY, None, positives="same_id", row_ids=COL_IDS)
    assert torch.equal(found, dense_ranks(every, COL_IDS[:, None] == COL_IDS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_scores_of_narrow_types_are_float32(dtype):
    query, gallery = QUERY.detach().to(dtype), GALLERY.detach().to(dtype).requires_grad_()
    found = topk(query, gallery, K)
    values, index = ordered(query.double() @ gallery.double().T, K)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.values.double(), values, rtol=1e-6, atol=1e-6)
    found.values.sum().backward()
    assert gallery.grad.dtype == dtype


def test_indices_are_those_of_float64_wherever_gaps_exceed_rounding():
    query, gallery = torch.randn(50, 64, generator=G), torch.randn(3000, 64, generator=G)
    values, index = ordered(query.double() @ gallery.double().T, 11)
    clear = (values[:, :-1] - values[:, 1:]).min(1).values > 1e-4
    assert clear.sum() > 40
    assert torch.equal(topk(query, gallery, 10).indices[clear], index[clear, :10])


def test_neighbours_are_those_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    points = F.normalize(torch.randn(300, 8, generator=G, dtype=torch.float64), dim=1)
    found = neighbors.NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(points.numpy())
    distance, index = map(torch.from_numpy, found.kneighbors())  # without an argument: of the points, not themselves
    own = topk(points, None, 6)
    assert torch.equal(own.indices, index)
    torch.testing.assert_close(1.0 - own.values, distance)


# ---- ranks


def dense_ranks(scores, positive):
    """The best place of a positive."""
    place = scores.sort(dim=1, descending=True, stable=True).indices.argsort(1) + 1
    place = torch.where(positive & (scores > -torch.inf), place, M + 1).amin(1)
    return torch.where(place <= M, place, 0)


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_the_places_of_all_scores(case, tiling):
    options, of_scores = CASES[case]
    scores = of_scores(QUERY @ GALLERY.T).detach()
    own = torch.eye(N, M, dtype=torch.bool)
    assert torch.equal(ranks(QUERY, GALLERY, **options), dense_ranks(scores, own))
    places = torch.where(PARTNER < 0, M, PARTNER)
    partners = torch.zeros(N, M + 1, dtype=torch.bool).scatter_(1, places, True)[:, :M]
    found = ranks(QUERY, GALLERY, positives="partner", partner=PARTNER, **options)
    assert torch.equal(found, dense_ranks(scores, partners))
    each = ranks(QUERY, GALLERY, positives="partner", partner=PARTNER, each=True, **options)
    place = scores.sort(dim=1, descending=True, stable=True).indices.argsort(1) + 1
    kept = (PARTNER >= 0) & (scores.gather(1, PARTNER.clamp_min(0)) > -torch.inf)
    assert torch.equal(each, torch.where(kept, place.gather(1, PARTNER.clamp_min(0)), 0))


def test_the_best_of_several_positives_by_id(tiling):
    options = {"positives": "same_id", "row_ids": ROW_IDS, "col_ids": COL_IDS}
    assert torch.equal(ranks(QUERY, GALLERY, **options), dense_ranks((QUERY @ GALLERY.T).detach(), SAME_ID))
    options["row_ids"] = ROW_IDS + 100
    assert not ranks(QUERY, GALLERY, **options).any()


def test_ranks_agree_with_topk():
    place = ranks(QUERY, GALLERY)
    for k in (1, 3, 20):
        found = (topk(QUERY, GALLERY, k).indices == torch.arange(N)[:, None]).any(1)
        assert torch.equal(found, place <= k)


def test_ranks_where_scores_are_nan(tiling):
    gallery = GALLERY.detach().clone()
    gallery[[50, 51]] = torch.nan
    before = ranks(QUERY, GALLERY[:50])
    found = ranks(QUERY, gallery[:52])
    assert torch.equal(found, before + 2)  # others that are NaN are ahead
    gallery[2] = torch.nan
    assert ranks(QUERY, gallery)[2] == M  # a positive that is NaN is the last
    several = {"positives": "partner", "partner": torch.tensor([50, 5]).expand(N, 2)}
    assert torch.equal(
        ranks(QUERY, gallery, **several), ranks(QUERY, gallery, positives="partner", partner=PARTNER * 0 + 5)
    )
    each = ranks(QUERY, gallery, each=True, **several)
    assert (each[:, 0] == M).all()


# ---- of ranks

SHARES = ((0, 3, 0, 50), (3, 3, 50, 50), (3, N, 50, M))


def of_ranks(rank, strategy):
    from contrastile.distributed import Ranks

    low, high, first, last = SHARES[rank]
    query, gallery = QUERY[low:high].detach().requires_grad_(), GALLERY[first:last].detach().requires_grad_()
    group = Ranks(strategy=strategy)
    found = topk(query, gallery, K, group=group)
    (found.values * (found.indices + 1)).sum().backward()
    options = {"positives": "same_id", "row_ids": ROW_IDS[low:high], "col_ids": COL_IDS[first:last], "group": group}
    others = {"gallery": (gallery.detach(), OTHER[first:last].detach()), "score": "volume", "group": group}
    return (
        found.values.detach(), found.indices, query.grad, gallery.grad, ranks(query, gallery, **options),
        topk(query, k=K, **others).indices,
    )  # fmt: skip


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["gather", "ring"])
def test_ranks_find_what_one_process_finds(strategy):
    found = [torch.cat(parts) for parts in zip(*gather_from(3, of_ranks, strategy), strict=True)]
    whole = topk(QUERY, GALLERY, K)
    options = {"positives": "same_id", "row_ids": ROW_IDS, "col_ids": COL_IDS}
    expected = [
        whole.values, whole.indices,
        *torch.autograd.grad((whole.values * (whole.indices + 1)).sum(), (QUERY, GALLERY)),
        ranks(QUERY, GALLERY, **options), topk(QUERY, (GALLERY, OTHER), K, score="volume").indices,
    ]  # fmt: skip
    for own, true in zip(found, expected, strict=True):
        torch.testing.assert_close(own, true.detach(), rtol=1e-12, atol=1e-13)


# ---- what is refused, what is held


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: topk(QUERY, GALLERY, 0), ValueError, ["k", ">= 1", "0"]),
        (lambda: topk(QUERY, GALLERY, 2.0), TypeError, ["k", "int", "float"]),
        (lambda: topk(QUERY, [], 1), ValueError, ["gallery"]),
        (lambda: topk(QUERY, GALLERY[:, :3], 1), ValueError, ["gallery", "width"]),
        (lambda: topk(QUERY, GALLERY, 1, score="cosine"), ValueError, ["score", "squared_area", "cosine"]),
        (lambda: topk(QUERY, GALLERY, 1, score="area"), ValueError, ["gallery", "two"]),
        (lambda: topk(QUERY, None, 1, score="volume"), ValueError, ["gallery", "at least one"]),
        (lambda: topk(QUERY, GALLERY, 1, score="volume", col_bias=BIAS), ValueError, ["col_bias", "volume"]),
        (lambda: topk(QUERY, None, 1, keep="same_id", row_ids=ROW_IDS, col_ids=ROW_IDS), ValueError, ["col_ids"]),
        (lambda: topk(QUERY, GALLERY, 1, low=2.0, high=1.0), ValueError, ["low", "high"]),
        (lambda: topk(QUERY, GALLERY, 1, low=BIAS), ValueError, ["low", "shape"]),
        (lambda: ranks(QUERY, GALLERY, positives="kept"), ValueError, ["positives", "kept"]),
        (lambda: ranks(QUERY, None), ValueError, ["same_index", "gallery"]),
        (lambda: ranks(QUERY, GALLERY, each=True), ValueError, ["each", "partner"]),
    ],
)
def test_bad_input_is_named(call, error, words):
    with refuses(error, *words):
        call()


@needs_linux
def test_scores_of_all_pairs_are_not_held_to_retrieve():
    found = "contrastile.retrieval.topk(x, y, 10).values.sum()"
    assert peak_bytes(f"({found} + contrastile.retrieval.ranks(x, y)[0])", rows=3000) < 0.6 * 3000 * 3000 * 4


@pytest.mark.parametrize("score", ["volume", "area", "squared_area"])
def test_tuples_of_a_wider_type_than_the_query(score):
    wide, query = (GALLERY.detach(), OTHER.detach()), QUERY.detach().float()
    found, expected = topk(query, wide, K, score=score), topk(query.double(), wide, K, score=score)
    assert found.values.dtype == torch.float64
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.values, expected.values)
