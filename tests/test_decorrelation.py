"""Barlow Twins, BarLIP and CyCLIP's terms against the official codes, restated; digits, ranks, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from contrastile import barlow_twins_loss, cross_correlation, cross_modal_consistency, in_modal_consistency, reference
from contrastile.catalog import Case
from contrastile.distributed import Ranks
from support.launch import gather_from
from support.pairing import Pairing, assert_agreement
from support.refusals import refuses
from support.sharding import jointly

N, D = 11, 6
G = torch.Generator().manual_seed(4)


def rows(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64).requires_grad_()


X, Y, WIDE_X, WIDE_Y = rows(N, D), rows(N, D), rows(N, 3 * N), rows(N, 3 * N)
HERE = torch.arange(N) % 3 != 0
both_shapes = pytest.mark.parametrize("x, y", [(X, Y), (WIDE_X, WIDE_Y)], ids=["N > D", "D > 2 N"])


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


# ---- Barlow Twins


def off_diagonal(x):
    n = len(x)
    return x.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


def barlow(z1, z2, weight):
    """BarlowTwins.forward: batch normalisation without scale and shift, in training mode."""
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False, dtype=z1.dtype)
    c = norm(z1).T @ norm(z2) / len(z1)
    return (torch.diagonal(c) - 1).pow(2).sum() + weight * off_diagonal(c).pow(2).sum()


def barlip(z1, z2, lamb=5e-3, scale_loss=0.025):
    n, d = z1.shape
    corr = torch.einsum("bi,bj->ij", z1, z2) / n
    diag = torch.eye(d, dtype=z1.dtype)
    cdif = (corr - diag).pow(2)
    cdif[~diag.bool()] *= lamb
    return scale_loss * cdif.sum()


@both_shapes
def test_barlow_twins(x, y):
    same(barlow_twins_loss(x, y, off_diagonal_weight=0.0051), barlow(x, y, 0.0051), x, y)


@both_shapes
def test_barlip(x, y):
    same(0.025 * barlow_twins_loss(x, y, standardize=False), barlip(x, y), x, y)


@both_shapes
def test_instances_that_are_missing(x, y):
    found = barlow_twins_loss(torch.where(HERE[:, None], x, torch.nan), y, present=HERE)
    same(found, barlow(x[HERE], y[HERE], 0.005), x, y)


@both_shapes
@pytest.mark.parametrize("standardize", [True, False])
def test_cross_correlation(x, y, standardize):
    found = cross_correlation(x, y, standardize=standardize, present=HERE)
    expected = reference.cross_correlation(x, y, standardize=standardize, present=HERE)
    same(found.square().sum(), expected.square().sum(), x, y)
    diagonal = cross_correlation(x, x).diagonal()
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal), rtol=1e-3, atol=0.0)


@both_shapes
def test_the_learned_weight_has_a_gradient(x, y):
    weight = torch.tensor(0.3, requires_grad=True)
    (found,) = torch.autograd.grad(barlow_twins_loss(x, y, off_diagonal_weight=weight), weight)
    matrix = cross_correlation(x, y).detach()
    torch.testing.assert_close(found.double(), off_diagonal(matrix).square().sum(), rtol=1e-6, atol=0.0)


def test_the_smaller_matrix_is_the_one_that_is_made(monkeypatch):
    sizes = []
    original = torch.Tensor.square
    monkeypatch.setattr(torch.Tensor, "square", lambda x: (sizes.append(tuple(x.shape)), original(x))[1])
    barlow_twins_loss(WIDE_X, WIDE_Y)
    assert (3 * N, 3 * N) not in sizes
    barlow_twins_loss(X, Y)
    assert (D, D) in sizes


def test_constant_features_and_one_instance():
    x = X.detach().clone()
    x[:, 2] = 5.0
    x.requires_grad_()
    value = barlow_twins_loss(x, Y)
    (grad,) = torch.autograd.grad(value, x)
    assert value.isfinite() and grad.isfinite().all()
    for d in (1, 3):
        assert barlow_twins_loss(X[:1, :d], Y[:1, :d]) == d


def test_half_precision_features_are_standardised_in_float32():
    x, y = (1000.0 + z.detach().bfloat16() for z in (X, Y))
    expected = barlow(x.double(), y.double(), 0.005)
    torch.testing.assert_close(barlow_twins_loss(x, y).double(), expected, rtol=1e-5, atol=0.0)


# ---- CyCLIP


def cyclip(image, text, logit_scale):
    """The two terms of get_loss, with their logit scale and batch size."""
    n = len(image)
    per_image, per_text = logit_scale * image @ text.T, logit_scale * text @ image.T
    images, texts = logit_scale * image @ image.T, logit_scale * text @ text.T
    in_modal = (images - texts).square().mean() / (logit_scale * logit_scale) * n
    return in_modal, (per_image - per_text).square().mean() / (logit_scale * logit_scale) * n


@both_shapes
def test_cyclip(x, y):
    unit = [F.normalize(z, dim=1) for z in (x, y)]
    in_modal, cross_modal = cyclip(*unit, 14.3)
    same(in_modal_consistency(*unit), in_modal, x, y)
    same(cross_modal_consistency(x, y, normalize=True), cross_modal, x, y)


@pytest.mark.parametrize("loss", [in_modal_consistency, cross_modal_consistency])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_modalities_that_are_nearly_equal_keep_their_digits(loss, noise):
    """Norms of d x d matrices that are subtracted have none left: their difference is noise^2 of them."""
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(300, 16, generator=generator), dim=1)
    y = x + noise * torch.randn(300, 16, generator=generator)
    case = Case((x, y))
    expected = [z.double().requires_grad_() for z in (x, y)]
    truth = getattr(reference, loss.__name__)(*expected)
    truth.backward()
    found = [z.clone().requires_grad_() for z in case.args]
    value = loss(*found)
    value.backward()
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=0.0)
    for z, true in zip(found, expected, strict=True):
        torch.testing.assert_close(z.grad.double(), true.grad, rtol=1e-5, atol=1e-6 * true.grad.abs().max().item())


def test_equal_geometries_are_consistent():
    turn = torch.linalg.qr(rows(D, D).detach())[0]
    assert in_modal_consistency(X, X) == 0 and cross_modal_consistency(X, X) == 0
    assert 0 <= in_modal_consistency(X, X @ turn).abs() < 1e-12
    assert cross_modal_consistency(X, X @ turn) > 1e-2


@pytest.mark.parametrize("loss", [barlow_twins_loss, in_modal_consistency, cross_modal_consistency])
def test_strided_features_and_no_gradients(loss):
    x, y = (torch.stack([z, z], 2).flatten(1)[:, ::2].detach() for z in (X, Y))
    with torch.no_grad():
        assert torch.equal(loss(x, y), loss(X.detach(), Y.detach()))


@pytest.mark.parametrize("loss", [barlow_twins_loss, in_modal_consistency, cross_modal_consistency])
def test_derivatives_of_any_order(loss):
    x, y = (z[:4, :3].detach().requires_grad_() for z in (X, Y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


@pytest.mark.parametrize("loss", [barlow_twins_loss, in_modal_consistency, cross_modal_consistency])
def test_autocast_changes_nothing(loss):
    grads = []
    for enabled in (False, True):
        x, y = (z.detach().float().requires_grad_() for z in (X, Y))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss(x, y).backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_bad_input():
    with refuses(ValueError, "^z2 must have the shape of z1"):
        barlow_twins_loss(X, Y[:, :3])
    with refuses(ValueError, "^off_diagonal_weight must be finite"):
        barlow_twins_loss(X, Y, off_diagonal_weight=torch.inf)
    with refuses(ValueError, "^y must have the shape of x"):
        cross_correlation(X, Y[:4])
    with refuses(TypeError, "^present must be a bool tensor"):
        in_modal_consistency(X, Y, present=torch.ones(N))


# ---- ranks: more features than twice the batch, which the catalog's cases have not


def wide_loss(rank: int) -> str:
    case = Case((WIDE_X.detach(), WIDE_Y.detach()), {"off_diagonal_weight": torch.tensor(0.1)}, 4.0)
    loss = jointly(Pairing(barlow_twins_loss, reference.barlow_twins_loss), case, Ranks())  # type: ignore[arg-type]
    assert_agreement(loss, reference.barlow_twins_loss, case)
    return "agrees"


def correlations(rank: int) -> Any:
    sizes = (6, 0, 5)
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return cross_correlation(X[own].detach(), Y[own].detach(), present=HERE[own], group="world")


@pytest.mark.dist
def test_ranks_agree_on_batch_statistics():
    assert gather_from(3, wide_loss) == ["agrees"] * 3
    for found in gather_from(3, correlations):
        torch.testing.assert_close(found, cross_correlation(X, Y, present=HERE).detach(), rtol=1e-12, atol=1e-12)
