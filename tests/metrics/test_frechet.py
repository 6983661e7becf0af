"""The Frechet distance, and MIR with what its official code, shikiw/Modality-Integration-Rate, does."""

from __future__ import annotations

import math

import pytest
import torch

from contrastile.metrics import frechet_distance, modality_integration_rate
from support.refusals import refuses

G = torch.Generator().manual_seed(4)
X = torch.randn(40, 6, generator=G, dtype=torch.float64) @ torch.randn(6, 6, generator=G, dtype=torch.float64)
Y = torch.randn(33, 6, generator=G, dtype=torch.float64) + 0.7


def by_scipy(x, y):
    linalg = pytest.importorskip("scipy.linalg")
    first, second = torch.cov(x.T), torch.cov(y.T)
    root = linalg.sqrtm((first @ second).numpy()).real
    return ((x.mean(0) - y.mean(0)).square().sum() + first.trace() + second.trace()).item() - 2.0 * root.trace()


def test_the_formula():
    assert frechet_distance(X, Y).item() == pytest.approx(by_scipy(X, Y), rel=1e-10)
    assert frechet_distance(Y, X).item() == pytest.approx(frechet_distance(X, Y).item(), rel=1e-12)
    x, y = (torch.randn(5000, 1, generator=G, dtype=torch.float64) * s + m for s, m in ((2.0, 1.0), (0.5, -1.0)))
    between = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2  # of one dimension
    torch.testing.assert_close(frechet_distance(x, y), between, rtol=1e-12, atol=0.0)


def test_it_keeps_its_digits():
    """Of covariances without full rank, and of nearly equal sets, where roots of eigenvalues keep half of them."""
    wide = torch.randn(4, 50, generator=G, dtype=torch.float64)
    assert abs(frechet_distance(wide, wide).item()) < 1e-13 * wide.square().sum()
    assert frechet_distance(wide, wide + 1e-3).item() == pytest.approx(50e-6, rel=1e-6)
    turned = wide[torch.tensor([2, 0, 3, 1])]
    assert abs(frechet_distance(wide, turned).item()) < 1e-13 * wide.square().sum()


def test_types_and_what_is_not_finite():
    assert frechet_distance(X.bfloat16(), Y.bfloat16()).item() == pytest.approx(frechet_distance(X, Y).item(), rel=0.05)
    assert frechet_distance(X.float().requires_grad_(), Y.float()).dtype == torch.float32
    x = X.clone()
    x[1, 2] = torch.inf
    assert frechet_distance(x, Y).isnan() and modality_integration_rate([x], [Y]).isnan()


# ---- MIR: mir.py and mir_util.py @07070b9


def newton(product, iterations=5):
    """matrix_sqrt of the fast mode."""
    eye = torch.eye(len(product), dtype=product.dtype)
    Y, Z = product, eye
    for _ in range(iterations):
        Y = 0.5 * (Y + torch.inverse(Z) @ product)
        Z = 0.5 * (Z + torch.inverse(Y) @ product)
    return Y


def replaced(data):
    data, norms = data.clone(), data.norm(p=2, dim=-1)
    outliers = (norms - norms.median()).abs() > 3 * norms.std()
    data[outliers, :] = data.median(dim=0).values
    return data, int(outliers.sum())


def official(vision, text, fast):
    total = 0.0
    for v, t in zip(vision, text, strict=True):
        scale = 1.0 / t.norm(p=2, dim=-1).mean(0)
        v, t = replaced(scale * v)[0], replaced(scale * t)[0]
        if fast:
            first, second = torch.cov(v.T), torch.cov(t.T)
            mean = (v.mean(0) - t.mean(0)).square().sum()
            total += (mean + first.trace() + second.trace() - 2 * newton(first @ second).trace()).item()
        else:
            total += by_scipy(v, t)
    return math.log(total, 10)


def layers(outliers):
    vision, text = [X, 2.0 * X.roll(1, 1)], [Y, Y.roll(2, 1)]
    vision[0] = vision[0].clone()
    vision[0][torch.tensor(outliers, dtype=torch.int64)] *= 30.0
    return vision, text


@pytest.mark.parametrize("outliers", [[], [5]])
def test_the_official_modes(outliers):
    vision, text = layers(outliers)
    assert (replaced(vision[0])[1] > 0) == bool(outliers)
    kept = [x.clone() for x in vision]
    found = {mode: modality_integration_rate(vision, text, mode=mode).item() for mode in ("exact", "fast")}
    assert found["exact"] == pytest.approx(official(vision, text, fast=False), rel=1e-9)
    assert all(torch.equal(x, before) for x, before in zip(vision, kept, strict=True))
    small = [0.3 * x for x in vision]  # the trace of a product outgrows the others
    fast = modality_integration_rate(small, text, mode="fast").item()
    assert fast == pytest.approx(official(small, text, fast=True), rel=1e-8)
    assert abs(fast - modality_integration_rate(small, text).item()) > 1e-3


def test_the_fast_iteration_starts_at_its_fixed_point():
    product = torch.cov(X.T) @ torch.cov(Y.T)
    torch.testing.assert_close(newton(product), product, rtol=1e-8, atol=1e-10)


def test_the_scale_of_the_model_does_not_matter():
    vision, text = layers([5])
    doubled = modality_integration_rate([2.0 * x for x in vision], [2.0 * x for x in text])
    torch.testing.assert_close(doubled, modality_integration_rate(vision, text), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: frechet_distance(X, Y[:1]), ["y", "at least 2", "1"]),
        (lambda: frechet_distance(X, Y[:, 1:]), ["y", "width of x"]),
        (lambda: modality_integration_rate([], []), ["layers", "0"]),
        (lambda: modality_integration_rate([X], [Y, Y]), ["layers", "1 and 2"]),
        (lambda: modality_integration_rate([X, X], [Y, Y[:1]]), [r"text\[1\]", "at least 2"]),
        (lambda: modality_integration_rate([X], [Y], mode="accurate"), ["mode", "accurate"]),
    ],
)
def test_refusals(call, words):
    with refuses(ValueError, *words):
        call()
