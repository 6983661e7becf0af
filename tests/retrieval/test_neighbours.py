"""Graphs, assignments, normalised retrieval and repulsion against their definitions on whole matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from contrastile import area
from contrastile.retrieval import (
    inverted_softmax_bias,
    invgc,
    kmeans_assign,
    knn_graph,
    local_adj,
    querybank_topk,
    topk,
    topk_repulsion_loss,
    triangle_area_matrix,
)
from support.launch import gather_from
from support.refusals import refuses

G = torch.Generator().manual_seed(13)
N, M, D = 12, 30, 6


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=G, dtype=torch.float64), dim=-1).requires_grad_()


X, GALLERY, BANK = unit(N, D), unit(M, D), unit(25, D)
TEXTS = F.normalize(
    X.detach()[[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]] + 0.05 * X.detach().flip(0), dim=1
).requires_grad_()


# ---- graphs


def dense_graph(x, k, scaling):
    similarity = (F.normalize(x, dim=1) @ F.normalize(x, dim=1).T).fill_diagonal_(-torch.inf)
    adjacency = torch.zeros_like(similarity).scatter_(1, similarity.topk(k, 1).indices, 1.0)
    degree = adjacency.sum(1)
    if scaling == "row":
        return adjacency / degree[:, None]
    return adjacency / (degree[:, None] * degree).sqrt() if scaling == "symmetric" else adjacency


@pytest.mark.parametrize("scaling", ["symmetric", "row", "none"])
def test_the_graph_is_that_of_all_cosines(scaling):
    points = torch.randn(40, 5, generator=G, dtype=torch.float64)
    found = knn_graph(points, 4, scaling=scaling)
    assert found.is_coalesced() and found._nnz() == 160
    torch.testing.assert_close(found.to_dense(), dense_graph(points, 4, scaling))


def test_the_graph_is_that_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    points = torch.randn(60, 5, generator=G, dtype=torch.float64)
    expected = neighbors.kneighbors_graph(points.numpy(), 5, metric="cosine", include_self=False).toarray()
    torch.testing.assert_close(knn_graph(points, 5, scaling="none").to_dense(), torch.from_numpy(expected))


def test_a_graph_of_few_points():
    assert knn_graph(torch.ones(3, 2), 7).to_dense().fill_diagonal_(0.5).eq(0.5).all()  # two neighbours each
    assert knn_graph(torch.ones(1, 2), 1)._nnz() == knn_graph(torch.ones(0, 2), 1)._nnz() == 0


def test_points_go_to_the_nearest_centre():
    points, centers = torch.randn(50, 3, generator=G), 2.0 * torch.randn(6, 3, generator=G)
    labels, square = kmeans_assign(points, centers)
    distance = torch.cdist(points.double(), centers.double())
    assert torch.equal(labels, distance.argmin(1))
    torch.testing.assert_close(square.double(), distance.amin(1).square(), rtol=1e-5, atol=1e-6)
    assert kmeans_assign(points, centers[:1].expand(4, 3))[0].eq(0).all()
    with refuses(ValueError, "centers", "at least one"):
        kmeans_assign(points, centers[:0])


def test_points_far_from_the_origin_go_to_the_nearest_centre():
    points, centers = (torch.randn(size, 8, generator=G) + 1000.0 for size in (500, 20))
    assert torch.equal(kmeans_assign(points, centers)[0], torch.cdist(points.double(), centers.double()).argmin(1))


def test_no_point_goes_to_a_centre_that_is_no_number():
    points = torch.tensor([[1.0], [5.0], [torch.nan]])
    centers = torch.tensor([[torch.nan], [0.0], [torch.inf], [3e38], [6.0]])
    labels, square = kmeans_assign(points, centers[[0, 1, 2, 4]])
    assert labels.tolist() == [1, 3, -1]
    assert square[:2].tolist() == [1.0, 1.0] and square[2].isnan()
    labels, square = kmeans_assign(points, centers[3:])  # both are 1.5e38 away from their mean
    assert labels.eq(-1).all() and square.isnan().all()


# ---- gallery convolutions


def official_invgc(t, g, rate):
    """InvGC/InvGC.py on the whole matrix."""
    s = t @ g.T
    return F.normalize(t - rate / len(g) * (s - s.mean()) @ g, dim=1)


def official_local_adj(t, g, rate, k):
    s = t @ g.T
    best = s.topk(k, 1)
    return F.normalize(t - rate / k * torch.zeros_like(s).scatter_(1, best.indices, best.values) @ g, dim=1)


def test_gallery_convolutions_are_the_official_codes():
    for value, expected in (
        (invgc(GALLERY, BANK, 0.8), official_invgc(GALLERY, BANK, 0.8)),
        (local_adj(GALLERY, BANK, 0.8, k=4), official_local_adj(GALLERY, BANK, 0.8, 4)),
    ):
        torch.testing.assert_close(value, expected)
        grads = (torch.autograd.grad(x.pow(3).sum(), (GALLERY, BANK)) for x in (value, expected))
        for own, true in zip(*grads, strict=True):
            torch.testing.assert_close(own, true)


def test_gallery_convolutions_of_nothing():
    assert torch.equal(invgc(GALLERY, BANK[:0], 0.5), F.normalize(GALLERY, dim=1))
    torch.testing.assert_close(local_adj(GALLERY, BANK[:0], 0.5, k=2), GALLERY)
    assert invgc(GALLERY[:0], BANK, 0.5).shape == local_adj(GALLERY[:0], BANK, 0.5, k=2).shape == (0, D)
    with refuses(ValueError, "rate", "> 0"):
        invgc(GALLERY, BANK, 0.0)


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that an operator makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        found = made if isinstance(made, (list, tuple)) else [made]
        self.numbers = max([self.numbers, *(x.numel() for x in found if isinstance(x, torch.Tensor))])
        return made


def test_the_gradient_of_a_local_convolution_holds_no_matrix_of_scores():
    gallery, bank = (torch.randn(size, 4, generator=G).requires_grad_() for size in (150, 200))
    value = local_adj(gallery, bank, 0.5, k=3).pow(3).sum()
    with Largest() as seen:
        value.backward()
    assert 0 < seen.numbers <= 150 * 3 * 4
    assert bank.grad.any() and gallery.grad.any()


def test_a_bank_of_fewer_points_than_k():
    leaves = GALLERY, BANK[:3]
    found, true = local_adj(*leaves, 0.8, k=5), F.normalize(GALLERY - 0.16 * GALLERY @ BANK[:3].T @ BANK[:3], dim=1)
    torch.testing.assert_close(found, true)
    for own, expected in zip(
        *(torch.autograd.grad(x.pow(3).sum(), (GALLERY, BANK)) for x in (found, true)), strict=True
    ):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("k, error", [(0, ValueError), ("a", TypeError)])
def test_how_many_neighbours_is_named(k, error):
    with refuses(error, "^k must be"):
        local_adj(GALLERY, BANK, 0.5, k=k)


def test_a_bank_of_another_type():
    own = invgc(GALLERY.detach().float(), BANK.detach(), 0.8)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, invgc(GALLERY.detach(), BANK.detach(), 0.8).float())


# ---- normalised by a bank of queries


def test_the_inverted_softmax_orders_as_its_definition():
    normalised = (20.0 * X @ GALLERY.T).exp() / (20.0 * BANK @ GALLERY.T).exp().sum(0)
    found = topk(X, GALLERY, 5, col_bias=inverted_softmax_bias(GALLERY, BANK))
    assert torch.equal(found.indices, normalised.topk(5, 1).indices)
    torch.testing.assert_close(found.values, normalised.topk(5, 1).values.log() / 20.0)
    with refuses(ValueError, "bank", "at least one"):
        inverted_softmax_bias(GALLERY, BANK[:0])


@pytest.mark.parametrize("hubs", [1, 4])
def test_only_queries_at_hubs_are_normalised(hubs):
    similarity, bias = X @ GALLERY.T, -(20.0 * BANK @ GALLERY.T).logsumexp(0) / 20.0
    first = set((BANK @ GALLERY.T).topk(hubs, 1).indices.flatten().tolist())
    active = torch.tensor([j in first for j in similarity.argmax(1).tolist()])
    assert (active.any() and not active.all()) or hubs > 1
    scores = torch.where(active[:, None], similarity + bias.detach(), similarity)
    found = querybank_topk(X, GALLERY, BANK, 3, hubs=hubs)
    assert torch.equal(found.indices, scores.topk(3, 1).indices)
    torch.testing.assert_close(found.values, scores.topk(3, 1).values)


def test_how_many_hubs_is_named():
    with refuses(ValueError, "^hubs must be >= 1"):
        querybank_topk(X, GALLERY, BANK, 3, hubs=0)


# ---- TIC


def official_tic(z, k):
    """fgclip2.py, on all similarities: what is left out stays as a zero."""
    similarity = z @ z.T
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), 0.0)
    similarity = similarity.masked_fill(similarity > 0.95, 0.0)
    return similarity.topk(k, 1).values.exp().sum(1).log().mean()


def dense_tic(z, k, temperature):
    similarity = z @ z.T
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool) | (similarity > 0.95), -torch.inf)
    return (similarity.topk(k, 1).values / temperature).logsumexp(1).mean()


@pytest.mark.parametrize("k", [2, 5, 9])
def test_repulsion_is_the_official_codes(k):
    assert (TEXTS @ TEXTS.T).fill_diagonal_(0.0).max() > 0.95  # some are left out
    pairs = [
        (topk_repulsion_loss(TEXTS, k, fill=True), official_tic(TEXTS, k)),
        (topk_repulsion_loss(TEXTS, k, temperature=0.3), dense_tic(TEXTS, k, 0.3)),
    ]
    for value, expected in pairs:
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(*(torch.autograd.grad(x, TEXTS)[0] for x in (value, expected)))


def test_nobody_to_repel():
    for x in (unit(0, D), unit(1, D)):
        value = topk_repulsion_loss(x, 3)
        value.backward()
        assert value == 0.0 and not x.grad.any()
    copies = unit(1, D).detach().expand(5, D).clone().requires_grad_()
    assert topk_repulsion_loss(copies, 3) == 0.0
    assert topk_repulsion_loss(copies, 3, fill=True).item() == pytest.approx(torch.tensor(3.0).log().item())


def of_ranks(rank):
    own = slice(*((0, 5), (5, 5), (5, N))[rank])
    x = TEXTS.detach()[own].requires_grad_()
    value = topk_repulsion_loss(x, 3, group="world")
    value.backward()
    bias = inverted_softmax_bias(GALLERY.detach()[own], BANK.detach()[own], group="world")
    return (
        value.detach().unsqueeze(0),
        x.grad / 3,
        invgc(GALLERY.detach()[own], BANK.detach()[own], 0.7, group="world"),
        bias,
    )


@pytest.mark.dist
def test_ranks_have_what_one_process_has():
    losses, grads, moved, bias = (torch.cat(parts) for parts in zip(*gather_from(3, of_ranks), strict=True))
    value = topk_repulsion_loss(TEXTS, 3)
    torch.testing.assert_close(losses.mean(), value.detach())
    torch.testing.assert_close(grads, torch.autograd.grad(value, TEXTS)[0])
    torch.testing.assert_close(moved, official_invgc(GALLERY.detach()[:N], BANK.detach()[:N], 0.7))
    torch.testing.assert_close(bias, inverted_softmax_bias(GALLERY[:N], BANK[:N]))


def test_areas_of_all_triangles():
    x, y = unit(M, D), unit(M, D)
    found = triangle_area_matrix(X, x, y)
    expected = torch.stack([area(a.expand(M, D), x, y) for a in X])
    torch.testing.assert_close(found, expected)
    leaves = X, x, y
    for own, true in zip(*(torch.autograd.grad(v.square().sum(), leaves) for v in (found, expected)), strict=True):
        torch.testing.assert_close(own, true)
