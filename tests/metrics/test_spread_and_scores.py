"""Tolerance, anisotropy, the even spread, and scores against lists of texts, written densely in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from contrastile import metrics
from contrastile.metrics import spread
from contrastile.retrieval import largest
from support.refusals import refuses

G = torch.Generator().manual_seed(6)
N, M, D = 30, 17, 5
X = torch.randn(N, D, generator=G, dtype=torch.float64) + 0.5
Y, OTHERS = (torch.randn(size, D, generator=G, dtype=torch.float64) for size in (M, 40))
LABELS = torch.randint(-2, 4, (N,), generator=G)


def unit(x):
    return F.normalize(x, dim=1)


def apart(x):
    """Cosines of different rows."""
    return (unit(x) @ unit(x).T)[~torch.eye(len(x), dtype=torch.bool)]


def assert_alike(ours, dense, *given):
    results = []
    for function in (ours, dense):
        own = [x.clone().requires_grad_() for x in given]
        value = function(*own)
        weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
        results.append([value.detach(), *torch.autograd.grad((value * weights).sum(), own)])
    for own, true in zip(*results, strict=True):
        torch.testing.assert_close(own, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("conditional", [False, True])
def test_tolerance(conditional):
    same = (LABELS[:, None] == LABELS)[~torch.eye(N, dtype=torch.bool)]

    def dense(x):
        return apart(x)[same].mean() if conditional else (apart(x) * same).mean()

    assert_alike(lambda x: metrics.tolerance(x, LABELS, conditional=conditional), dense, X)


def test_a_class_of_one():
    assert metrics.tolerance(X, torch.arange(N)) == 0.0
    assert metrics.tolerance(X, torch.arange(N), conditional=True).isnan()


def test_anisotropy():
    assert_alike(metrics.anisotropy, lambda x: apart(x).mean(), X)
    assert metrics.anisotropy(torch.ones(9, 3)).item() == pytest.approx(1.0)
    spread_out = torch.cat([torch.eye(3), -torch.eye(3)])
    assert metrics.anisotropy(spread_out).item() == pytest.approx(-1 / 5)  # each has one opposite among five


@pytest.mark.parametrize("width", [2, 3, 64])
def test_wasserstein_uniformity(width, monkeypatch):
    """Sorted cosines against quantiles of the even spread: t^2 has the law Beta(1/2, (D - 1)/2)."""
    stats = pytest.importorskip("scipy.stats")
    monkeypatch.setattr(spread, "COLUMNS", 7)
    x = torch.randn(N, width, generator=G, dtype=torch.float64) + 0.2
    found, n = apart(x).sort().values, N * (N - 1)
    steps = (torch.arange(n * 50, dtype=torch.float64) + 0.5) / (n * 50)
    even = stats.beta(0.5, (width - 1) / 2).ppf((2 * steps - 1).abs().numpy()) ** 0.5 * (2 * steps - 1).sign().numpy()
    expected = (found.repeat_interleave(50) - torch.as_tensor(even)).abs().mean()
    assert metrics.wasserstein_uniformity(x).item() == pytest.approx(expected.item(), abs=1e-4)


def test_extremes_of_wasserstein_uniformity():
    alike = metrics.wasserstein_uniformity(torch.ones(9, 3))
    assert alike.item() == pytest.approx(1.0, abs=1e-4)  # E |1 - t| of an even t
    cosines = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)[:-1]
    ring = torch.stack([cosines.cos(), cosines.sin()], 1)
    assert metrics.wasserstein_uniformity(ring) < 0.005
    x = X.clone()
    x[0, 0] = torch.nan
    assert metrics.wasserstein_uniformity(x).isnan() and metrics.tolerance(x, LABELS).isnan()
    assert metrics.anisotropy(x).isnan()
    assert metrics.wasserstein_uniformity(X.bfloat16().requires_grad_()).dtype == torch.float32
    assert largest.COLUMNS == spread.COLUMNS


# ---- scores


def test_scores_of_known_and_unknown_images():
    def mcm(x, y):
        return (x @ y.T / 0.7).softmax(1).amax(1)

    def neg_label(x, y, others):
        return (x @ torch.cat([y, others]).T / 0.3).softmax(1)[:, : len(y)].sum(1)

    assert_alike(lambda x, y: metrics.mcm_score(x, y, temperature=0.7), mcm, X, Y)
    assert_alike(lambda *given: metrics.neg_label_score(*given, temperature=0.3), neg_label, X, Y, OTHERS)
    directions = [unit(z) for z in (X, Y, OTHERS)]
    torch.testing.assert_close(metrics.mcm_score(X, Y, normalize=True), metrics.mcm_score(*directions[:2]))
    scores = metrics.neg_label_score(X, Y, OTHERS, normalize=True)
    torch.testing.assert_close(scores, metrics.neg_label_score(*directions))


def test_scores_without_texts():
    assert (metrics.neg_label_score(X, Y, OTHERS[:0]) == 1.0).all()
    assert not metrics.neg_label_score(X, Y[:0], OTHERS).any()
    assert metrics.mcm_score(X[:0], Y).shape == (0,) and metrics.mcm_score(X, Y[:0]).isnan().all()
    small = metrics.neg_label_score(torch.eye(2).float(), -torch.eye(2).float(), torch.eye(2).float(), temperature=0.02)
    assert (small > 0.0).all() and (small < 1e-20).all()


REDUCES = {
    "max_mean": lambda z: z.amax(1).mean(), "mean": lambda z: z.mean(), "max": lambda z: z.max(),
    "min": lambda z: z.min(),
}  # fmt: skip


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("normalize", [False, True])
def test_similarities_of_sets(reduce, normalize):
    def dense(x, y):
        return REDUCES[reduce](unit(x) @ unit(y).T if normalize else x @ y.T)

    assert_alike(lambda x, y: metrics.set_similarity(x, y, reduce=reduce, normalize=normalize), dense, X, Y)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: metrics.tolerance(X[:1], LABELS[:1]), ["x", "at least 2", "1"]),
        (lambda: metrics.tolerance(X, LABELS[1:]), ["labels", f"{N}"]),
        (lambda: metrics.anisotropy(X[:1]), ["x", "at least 2"]),
        (lambda: metrics.wasserstein_uniformity(X[:, :1]), ["x", "2 columns"]),
        (lambda: metrics.set_similarity(X, Y, reduce="median"), ["reduce", "median"]),
        (lambda: metrics.set_similarity(X, Y[:0]), ["y", "at least 1"]),
        (lambda: metrics.mcm_score(X, Y[:, 1:]), ["text_features", "width of image_features"]),
        (lambda: metrics.neg_label_score(X, Y, OTHERS[:, 1:]), ["negative_features", "width"]),
        (lambda: metrics.mcm_score(X, Y, temperature=0.0), ["temperature", "> 0"]),
    ],
)
def test_refusals(call, words):
    with refuses(ValueError, *words):
        call()
