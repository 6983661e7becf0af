"""Figures of retrieval with several positives, against definitions written densely and against other packages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from contrastile.metrics import every_place, mean_rank_variance, retrieval_ranks
from contrastile.ops import stream
from contrastile.retrieval import placing, ranks
from support.launch import gather_from
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

G = torch.Generator().manual_seed(5)
N, M, D = 13, 40, 4
QUERY, GALLERY = (torch.randint(-2, 3, (size, D), generator=G).double() for size in (N, M))  # many equal scores
ROW_IDS, COL_IDS = (torch.randint(0, 4, (size,), generator=G) for size in (N, M))
ROW_IDS[3] = 9  # without a positive
SAME = ROW_IDS[:, None] == COL_IDS
IDS = {"positives": "same_id", "row_ids": ROW_IDS, "col_ids": COL_IDS}
FLAGS = [torch.rand(size, 70, generator=G) < 0.03 for size in (N, M)]


@pytest.fixture(params=["one tile", "many tiles", "one by one"])
def tiling(request, monkeypatch):
    monkeypatch.setattr(every_place, "FEW", M if request.param == "one by one" else 0)
    if request.param == "many tiles":
        monkeypatch.setattr(every_place, "COLUMNS", 7)
        monkeypatch.setattr(every_place, "SEARCHED", 20)
        monkeypatch.setattr(placing, "COLUMNS", 7)
        monkeypatch.setattr(stream, "COPIES", 1 << 18)  # a few rows


def found_by(scores, positive):
    """For each query whether the candidates are positives, best first."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    kept = [int((z > -torch.inf).sum()) for z in scores]
    return [positive[i][order[i, : kept[i]]].tolist() for i in range(len(scores))]


def padded(places):
    width = max(map(len, places))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in places]).view(len(places), width)


def dense_ranks(scores, positive):
    return padded([[place for place, right in enumerate(row, 1) if right] for row in found_by(scores, positive)])


CASES = {
    "ids": (IDS, lambda z: z, SAME),
    "other group": (
        IDS | {"keep": "other_group", "row_groups": ROW_IDS % 2, "col_groups": torch.arange(M) % 3},
        lambda z: z.masked_fill((ROW_IDS % 2)[:, None] == torch.arange(M) % 3, -torch.inf), SAME,
    ),
    "labels": (
        {"positives": "shared_label", "row_labels": FLAGS[0], "col_labels": FLAGS[1]}, lambda z: z,
        (FLAGS[0].double() @ FLAGS[1].double().T) > 0,
    ),
    "index": ({}, lambda z: z, torch.eye(N, M, dtype=torch.bool)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_the_places_of_all_positives(case, tiling):
    options, of_scores, positive = CASES[case]
    found = retrieval_ranks(QUERY, GALLERY, **options)
    assert torch.equal(found.ranks, dense_ranks(of_scores(QUERY @ GALLERY.T), positive))
    assert torch.equal(found.ranks[:, 0], ranks(QUERY, GALLERY, **({"positives": "same_index"} | options)))


def test_within_a_modality_no_item_finds_itself(tiling):
    found = retrieval_ranks(GALLERY, None, positives="same_id", row_ids=COL_IDS)
    scores = (GALLERY @ GALLERY.T).fill_diagonal_(-torch.inf)
    assert torch.equal(found.ranks, dense_ranks(scores, COL_IDS[:, None] == COL_IDS))


def test_equal_rows_come_by_their_index(tiling):
    alike = torch.ones(M, D, dtype=torch.float64)
    assert torch.equal(retrieval_ranks(QUERY, alike, **IDS).ranks, dense_ranks(QUERY @ alike.T, SAME))


class Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_equal_scores_cost_no_step_for_each_row():
    counts = []
    for size in (20, 100):  # of one tile
        with Operators() as operators:
            found = retrieval_ranks(
                torch.ones(size, D), torch.ones(60, D), positives="same_id",
                row_ids=torch.zeros(size, dtype=torch.int64), col_ids=torch.arange(60) % 2,
            )  # fmt: skip
        counts.append(operators.count)
        assert torch.equal(found.ranks, torch.arange(1, 60, 2).expand(size, 30))
    assert counts[0] == counts[1]


def test_positives_that_are_found_share_a_few_blocks_of_memory():
    found = every_place.Found.of(torch.zeros(3))
    blocks = set()
    for step in range(100):
        found.add(torch.tensor([step, step]), torch.tensor([0, 1]), torch.tensor([0.5, step]))
        blocks.add(found.held[0].data_ptr())
    row, column, score = found.all()
    assert row.tolist() == [i // 2 for i in range(200)] and column.tolist() == [0, 1] * 100
    assert torch.equal(score.view(100, 2), torch.stack([torch.full((100,), 0.5), torch.arange(100.0)], 1))
    assert len(blocks) <= 8


@pytest.mark.parametrize("undefined", [[1, 2, 30], [0]])
def test_scores_that_are_nan(undefined, tiling):
    """As others they are ahead, as positives the last."""
    gallery = GALLERY.clone()
    gallery[undefined] = torch.nan
    nan = torch.zeros(M, dtype=torch.bool)
    nan[undefined] = True
    found = retrieval_ranks(QUERY, gallery, **IDS)
    kept = dense_ranks((QUERY @ GALLERY.T).masked_fill(nan, -torch.inf), SAME)
    for own, before, last in zip(found.ranks, kept, SAME[:, nan].sum(1), strict=True):
        some = before[before > 0] + int(nan.sum())
        assert own[: len(some)].tolist() == some.tolist()
        assert own[len(some) :].tolist() == [M] * int(last) + [0] * (len(own) - len(some) - int(last))
    infinite = GALLERY.clone()
    infinite[4] = torch.inf  # scores of inf, -inf and NaN
    retrieval_ranks(QUERY, infinite, **IDS)


# ---- figures


def mean(values):
    return sum(values) / len(values)


def average_precision(right, k, total):
    hits = [sum(right[:place]) / place for place in range(1, min(k, len(right)) + 1) if right[place - 1]]
    return sum(hits) / min(total, k)


FIGURES = {
    "hit_rate": lambda right, k: float(any(right[:k])),
    "recall": lambda right, k: sum(right[:k]) / sum(right),
    "precision": lambda right, k: sum(right[:k]) / k,
    "average_precision": lambda right, k: average_precision(right, k, sum(right)),
}
FIXED = {
    "r_precision": lambda right: sum(right[: sum(right)]) / sum(right),
    "reciprocal_rank": lambda right: 1.0 / (right.index(True) + 1),
    "average_precision": lambda right: average_precision(right, len(right), sum(right)),
    "average_precision_at_r": lambda right: average_precision(right, sum(right), sum(right)),
}
FOUND = retrieval_ranks(QUERY, GALLERY, **IDS)
RIGHT = [right for right in found_by(QUERY @ GALLERY.T, SAME) if any(right)]


@pytest.mark.parametrize("k", [1, 3, M, 100])
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_the_k_best(figure, k):
    value = getattr(FOUND, figure)(k)
    assert value.item() == pytest.approx(mean([FIGURES[figure](right, k) for right in RIGHT]), rel=1e-12)
    each = torch.full((N,), k)
    assert value == getattr(FOUND, figure)(each)


@pytest.mark.parametrize("figure", FIXED)
def test_figures_of_all_candidates(figure):
    expected = mean([FIXED[figure](right) for right in RIGHT])
    assert getattr(FOUND, figure)().item() == pytest.approx(expected, rel=1e-12)


def test_queries_without_a_positive():
    counted = retrieval_ranks(QUERY, GALLERY, empty_target_action="neg", **IDS)
    assert counted.reciprocal_rank().item() == pytest.approx(FOUND.reciprocal_rank().item() * (N - 1) / N)
    with refuses(ValueError, "positive", "1 have none"):
        retrieval_ranks(QUERY, GALLERY, empty_target_action="error", **IDS)
    for nobody in (retrieval_ranks(QUERY, GALLERY, **(IDS | {"row_ids": ROW_IDS + 50})),
                   retrieval_ranks(QUERY[:0], GALLERY, **(IDS | {"row_ids": ROW_IDS[:0]})),
                   retrieval_ranks(QUERY, GALLERY[:0], **(IDS | {"col_ids": COL_IDS[:0]}))):  # fmt: skip
        assert nobody.recall(3).isnan() and nobody.average_precision().isnan() and nobody.r_precision().isnan()
        assert not nobody.positives.any()


def test_the_accuracy_calculator_of_pytorch_metric_learning():
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    query, gallery = (F.normalize(torch.randn(size, D, generator=G), dim=1) for size in (N, M))
    include = ("precision_at_1", "r_precision", "mean_average_precision", "mean_average_precision_at_r",
               "mean_reciprocal_rank")  # fmt: skip
    knn = inference.CustomKNN(distance=__import__("pytorch_metric_learning").distances.CosineSimilarity())
    official = calculator.AccuracyCalculator(include, k=M, knn_func=knn, device=torch.device("cpu"))
    found = retrieval_ranks(query, gallery, **IDS)
    expected = official.get_accuracy(query, ROW_IDS, gallery, COL_IDS)
    assert {
        "precision_at_1": found.precision(1), "r_precision": found.r_precision(),
        "mean_average_precision": found.average_precision(),
        "mean_average_precision_at_r": found.average_precision_at_r(),
        "mean_reciprocal_rank": found.reciprocal_rank(),
    } == pytest.approx(expected, rel=1e-6)  # fmt: skip


def test_the_average_precision_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    query, gallery = torch.randn(N, D, generator=G), torch.randn(M, D, generator=G)
    found = retrieval_ranks(query, gallery, **IDS)
    scores = (query @ gallery.T).numpy()
    each = [sklearn.average_precision_score(SAME[i].numpy(), scores[i]) for i in range(N) if SAME[i].any()]
    assert found.average_precision().item() == pytest.approx(mean(each), rel=1e-12)


@pytest.mark.parametrize("action", ["skip", "neg"])
def test_the_retrieval_metrics_of_torchmetrics(action):
    theirs = pytest.importorskip("torchmetrics.retrieval", reason="torchmetrics is not installed")
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(17, 6, generator=g).double(), torch.randn(23, 6, generator=g).double()
    ids = torch.randint(0, 7, (17,), generator=g), torch.randint(0, 6, (23,), generator=g)
    own = retrieval_ranks(
        x, y, positives="same_id", row_ids=ids[0], col_ids=ids[1], empty_target_action=action
    )  # fmt: skip
    # its recall leaves out positives whose score is not above 0
    scores = (x @ y.T).exp().flatten(), (ids[0][:, None] == ids[1]).flatten(), torch.arange(17).repeat_interleave(23)
    pairs = {
        f"{name}@{k}": (getattr(own, name)(k), getattr(theirs, kind)(empty_target_action=action, top_k=k))
        for name, kind in (
            ("hit_rate", "RetrievalHitRate"), ("recall", "RetrievalRecall"), ("precision", "RetrievalPrecision")
        ) for k in (1, 3, 10)
    }  # fmt: skip
    pairs["r_precision"] = own.r_precision(), theirs.RetrievalRPrecision(empty_target_action=action)
    pairs["reciprocal_rank"] = own.reciprocal_rank(), theirs.RetrievalMRR(empty_target_action=action)
    pairs["average_precision"] = own.average_precision(), theirs.RetrievalMAP(empty_target_action=action)
    for name, (value, metric) in pairs.items():
        torch.testing.assert_close(
            float(value), float(metric(scores[0], scores[1], indexes=scores[2])), rtol=1e-6, atol=0.0, msg=name
        )


def test_the_variance_of_ranks():
    places = torch.tensor([[1, 4, 1], [2, 2, 2]])
    assert mean_rank_variance(places).item() == pytest.approx((4.0 + 1.0 + 1.0) / 3 / 2)
    with refuses(ValueError, "ranks", ">= 1"):
        mean_rank_variance(places - 1)
    with refuses(ValueError, "ranks", "integers"):
        mean_rank_variance(places.double())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: FOUND.recall(0), ["k", ">= 1", "0"]),
        (lambda: FOUND.precision(torch.ones(N)), ["k", "integers"]),
        (lambda: FOUND.hit_rate(torch.ones(N - 1, dtype=torch.int64)), ["k", f"{N}"]),
        (lambda: FOUND.hit_rate(torch.full((N,), -1)), ["k", ">= 0"]),
        (lambda: retrieval_ranks(QUERY, GALLERY, positives="kept"), ["positives", "kept"]),
        (lambda: retrieval_ranks(QUERY, None), ["gallery"]),
        (lambda: retrieval_ranks(QUERY, GALLERY, empty_target_action="pos"), ["empty_target_action", "pos"]),
        (lambda: retrieval_ranks(QUERY, GALLERY[:, :2]), ["gallery", "width"]),
    ],
)
def test_refusals(call, words):
    with refuses(ValueError, *words):
        call()


# ---- of ranks

SHARES = ((0, 3, 0, 25), (3, 3, 25, 25), (3, N, 25, M))


def of_ranks(rank, strategy):
    from contrastile.distributed import Ranks

    low, high, first, last = SHARES[rank]
    options = {"positives": "same_id", "row_ids": ROW_IDS[low:high], "col_ids": COL_IDS[first:last]}
    group = Ranks(strategy=strategy)
    found = retrieval_ranks(QUERY[low:high], GALLERY[first:last], group=group, **options)
    try:
        retrieval_ranks(QUERY[low:high], GALLERY[first:last], empty_target_action="error", group=group, **options)
    except ValueError as error:
        refused = "1 have none" in str(error)
    return found.ranks, found.recall(5), found.average_precision(), refused


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["gather", "ring"])
def test_ranks_find_what_one_process_finds(strategy):
    places, recalls, precisions, refused = zip(*gather_from(3, of_ranks, strategy), strict=True)
    assert torch.equal(padded([row[row > 0].tolist() for part in places for row in part]), FOUND.ranks)
    assert set(map(float, recalls)) == {FOUND.recall(5).item()} and all(refused)
    assert set(map(float, precisions)) == {FOUND.average_precision().item()}


@needs_linux
def test_scores_of_all_pairs_are_not_held():
    call = "(x.sum() + contrastile.metrics.retrieval_ranks(x, y).hit_rate(10))"
    assert peak_bytes(call, rows=5000) < 0.6 * 5000 * 5000 * 4
