"""CKA, CKNNA and shared neighbours against minyoungg/platonic-rep, metrics.py, restated densely in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile.metrics import cka, cknna, cycle_knn, mutual_knn
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

G = torch.Generator().manual_seed(2)
N, D, E = 23, 5, 3
X = torch.randn(N, D, generator=G, dtype=torch.float64) + 0.4
Y = X[:, :E].sin() + 0.6 * torch.randn(N, E, generator=G, dtype=torch.float64)


def biased(K, L):
    H = torch.eye(len(K), dtype=K.dtype) - 1.0 / len(K)
    return torch.trace(K @ H @ L @ H)


def unbiased(K, L):
    m, other = len(K), ~torch.eye(len(K), dtype=torch.bool)
    K, L = K * other, L * other
    found = (K * L.T).sum() + K.sum() * L.sum() / ((m - 1) * (m - 2)) - 2.0 * (K @ L).sum() / (m - 2)
    return found / (m * (m - 3))


def aligned(hsic, K, L, eps, masks=None):
    first, second = masks if masks is not None else (torch.ones_like(K), torch.ones_like(L))
    both = first * second
    return hsic(both * K, both * L) / ((hsic(first * K, first * K) * hsic(second * L, second * L)).sqrt() + eps)


def gram(x, kernel, sigma):
    squares = (x[:, None] - x).square().sum(2)
    return x @ x.T if kernel == "linear" else (-squares / (2.0 * sigma**2)).exp()


def nearest(x, k, itself=False):
    scores = x @ x.T if itself else (x @ x.T).fill_diagonal_(-torch.inf)
    return scores.detach().topk(k).indices


def mask_of(x, k, itself):
    return torch.zeros(len(x), len(x), dtype=x.dtype).scatter_(1, nearest(x, k, itself), 1.0)


def assert_alike(ours, dense):
    results = []
    for function in (ours, dense):
        x, y = (z.clone().requires_grad_() for z in (X, Y))
        value = function(x, y)
        results.append([value.detach(), *torch.autograd.grad(value, (x, y))])
    for own, true in zip(*results, strict=True):
        torch.testing.assert_close(own, true, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("without_bias", [False, True])
@pytest.mark.parametrize("kernel, sigma", [("linear", 1.0), ("rbf", 1.0), ("rbf", 3.0)])
def test_centred_kernel_alignment(kernel, sigma, without_bias):
    hsic = unbiased if without_bias else biased
    for eps in (0.0, 1e-6):
        assert_alike(
            lambda x, y, eps=eps: cka(x, y, kernel=kernel, rbf_sigma=sigma, unbiased=without_bias, eps=eps),
            lambda x, y, eps=eps: aligned(hsic, gram(x, kernel, sigma), gram(y, kernel, sigma), eps),
        )


@pytest.mark.parametrize("without_bias", [False, True])
@pytest.mark.parametrize("size, sigma", [(1e-5, 1.0), (1.0, 1e4), (8.0, 1.0)])
def test_kernels_that_are_nearly_constant(size, sigma, without_bias, monkeypatch):
    """Beside the dense formula of kernels minus 1, without which that has no digits either; of far rows without it."""
    monkeypatch.setattr("contrastile.metrics.kernels.PAIRS", 4 * N)
    hsic = unbiased if without_bias else biased

    def dense(x, y):
        logs = (-(size * z[:, None] - size * z).square().sum(2) / (2.0 * sigma**2) for z in (x, y))
        return aligned(hsic, *(z.exp() if size > 1.0 else z.expm1() for z in logs), 0.0)

    def ours(x, y):
        return cka(size * x, size * y, kernel="rbf", rbf_sigma=sigma, unbiased=without_bias)

    assert_alike(ours, dense)


@pytest.mark.parametrize("without_bias", [False, True])
@pytest.mark.parametrize("k", [2, 6, N - 1])
def test_alignment_of_neighbours(k, without_bias):
    hsic = unbiased if without_bias else biased

    def dense(x, y):
        masks = [mask_of(z, k, not without_bias) for z in (x, y)]
        return aligned(hsic, x @ x.T, y @ y.T, 1e-6, masks)

    assert_alike(lambda x, y: cknna(x, y, k=k, unbiased=without_bias, eps=1e-6), dense)


@pytest.mark.parametrize("k", [1, 4, N - 1])
@pytest.mark.parametrize("normalize", [False, True])
def test_shared_neighbours(k, normalize):
    x, y = (F.normalize(z, dim=1) if normalize else z for z in (X, Y))
    first, second = nearest(x, k), nearest(y, k)
    shared = [len(set(a) & set(b)) / k for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert mutual_knn(X, Y, k=k, normalize=normalize).item() == pytest.approx(sum(shared) / N)
    back = [any(i in first[j] for j in second[i]) for i in range(N)]
    assert cycle_knn(X, Y, k=k, normalize=normalize).item() == pytest.approx(sum(back) / N)


def test_what_does_not_change_it():
    turned = 3.0 * X @ torch.linalg.qr(torch.randn(D, D, generator=G, dtype=torch.float64)).Q
    torch.testing.assert_close(cka(turned + 100.0, Y), cka(X, Y), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(cka(turned + 100.0, Y, unbiased=True), cka(X, Y, unbiased=True), rtol=1e-9, atol=0.0)
    assert cka(X, turned).item() == pytest.approx(1.0) and mutual_knn(X, turned) == 1.0
    assert cka(X, turned, unbiased=True).item() == pytest.approx(1.0)
    assert cknna(X, turned, k=5).item() == pytest.approx(1.0)


def test_unrelated_sets_show_the_bias():
    x, y = torch.randn(2, 60, 40, generator=G).unbind()
    assert cka(x, y) > 0.3 and cka(x, y, unbiased=True).abs() < 0.1
    assert cka(x, y, kernel="rbf", rbf_sigma=5.0) > 0.3
    assert cka(x, y, kernel="rbf", rbf_sigma=5.0, unbiased=True).abs() < 0.1


def test_small_and_equal_inputs():
    assert cka(X[:1], Y[:1]).isnan() and cka(X[:1], Y[:1], eps=1e-6) == 0.0
    for kernel in ("linear", "rbf"):  # no direction is left
        for n in (5, 7):
            equal = torch.full((n, 2), 0.1, dtype=torch.float64)
            assert cka(equal, Y[:n], kernel=kernel).isnan() and cka(Y[:n], equal, kernel=kernel, unbiased=True).isnan()
    assert mutual_knn(torch.ones(5, 2), torch.ones(5, 2), k=2) == 1.0  # by index
    assert cka(torch.zeros(7, 1), torch.zeros(7, 1), eps=1.0) == 0.0
    assert cka(X.bfloat16(), Y.bfloat16()).item() == pytest.approx(cka(X, Y).item(), abs=0.01)
    assert cka(X.float(), Y.float()).dtype == cknna(X.half(), Y.half(), k=3).dtype == torch.float32
    x = X.clone()
    x[3] = torch.nan
    assert cka(x, Y).isnan() and cka(x, Y, kernel="rbf").isnan() and cknna(x, Y, k=3).isnan()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: cka(X, Y[1:]), ["y", f"{N}", f"{N - 1}"]),
        (lambda: cka(X[:3], Y[:3], unbiased=True), ["x", "4", "3"]),
        (lambda: cka(X[:0], Y[:0]), ["x", "1 rows", "0"]),
        (lambda: cka(X, Y, kernel="cosine"), ["kernel", "cosine"]),
        (lambda: cka(X, Y, kernel="rbf", rbf_sigma=0.0), ["rbf_sigma", "> 0"]),
        (lambda: cka(X, Y, eps=-1.0), ["eps", ">= 0"]),
        (lambda: cknna(X, Y, k=1), ["k", ">= 2", "1"]),
        (lambda: mutual_knn(X, Y, k=N), ["k", "less", f"{N}"]),
        (lambda: mutual_knn(X, Y, k=0), ["k", "0"]),
        (lambda: cycle_knn(X[:1], Y[:1], k=1), ["k", "less", "1"]),
    ],
)
def test_refusals(call, words):
    with refuses(ValueError, *words):
        call()


def test_what_is_no_tensor():
    for call in (mutual_knn, cycle_knn):
        for given, name in (((None, Y), "x"), ((X, None), "y")):
            with refuses(TypeError, name, "Tensor"):
                call(*given)


@needs_linux
def test_scores_of_neighbours_are_not_held():
    call = "(x.sum() + contrastile.metrics.cknna(x.detach(), y.detach(), k=5))"
    assert peak_bytes(call, rows=5000) < 0.6 * 5000 * 5000 * 4
