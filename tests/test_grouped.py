"""Losses of each query's own candidates alone against the official codes, restated; lists of any length."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import Candidates, grouped_info_nce, grouped_margin_loss, reference
from support.refusals import refuses

N, K, D = 6, 4, 8
G = torch.Generator().manual_seed(3)
X, Y, OWN = (F.normalize(torch.randn(*s, D, generator=G, dtype=torch.float64), dim=-1) for s in ((N,), (N,), (N, K)))
MASK = torch.rand(N, K, generator=G) < 0.6
MASK[2] = False
BIAS = torch.randn(N, K, generator=G, dtype=torch.float64)
SCALE = torch.tensor(12.0, dtype=torch.float64)


def agree(loss, truth, *given):
    """Values and every gradient."""
    results = []
    for function in (loss, truth):
        leaves = [x.clone().requires_grad_() for x in given]
        value = function(*leaves)
        value.sum().backward()
        results.append([value, *(x.grad for x in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_the_softmax_is_that_of_degla():
    """Its matrix of all captions, where a mask leaves the own ones."""

    def official(image, text, negatives, scale):
        every = scale * image @ torch.cat([text, negatives.flatten(0, 1)]).T
        own = torch.cat([torch.eye(N), torch.eye(N).repeat_interleave(K, 1)], 1) > 0
        return F.cross_entropy(every.masked_fill(~own, -torch.inf), torch.arange(N))

    agree(lambda x, y, own, scale: grouped_info_nce(x, y, own, temperature=1 / scale), official, X, Y, OWN, SCALE)


def test_the_hinge_is_that_of_fg_clip_2():
    """Its texts of a region are 1 + K, the right one first."""

    def official(image, text, negatives, scale):
        texts = torch.cat([text[:, None], negatives], 1)
        scores = scale * torch.bmm(image[:, None], texts.transpose(1, 2)).squeeze(1)
        return torch.relu(1.5 + scores[:, 1:] - scores[:, :1]).mean()

    def ours(x, y, own, scale):
        return grouped_margin_loss(x, y, own, margin=1.5, temperature=1 / scale)

    agree(ours, official, X, Y, OWN, SCALE)


@pytest.mark.parametrize("name, options", [
    ("grouped_info_nce", {"reduction": "none"}), ("grouped_margin_loss", {"margin": 0.4}),
    ("grouped_info_nce", {"normalize": True, "present": torch.arange(N) != 3, "temperature": 0.2}),
    ("grouped_margin_loss", {"margin": 0.4, "weights": torch.arange(N, dtype=torch.float64), "reduction": "sum"}),
])  # fmt: skip
def test_lists_of_any_length_and_a_bias(name, options):
    def lists(function):
        return lambda x, y, own, bias: function(x, y, Candidates(own, MASK, bias), **options)

    agree(lists(getattr(contrastile, name)), lists(getattr(reference, name)), X, Y, 1.5 * OWN, BIAS)


NONE = Candidates.of_bank(Y[:0], -1 - 0 * MASK.long())


@pytest.mark.parametrize("own", [OWN[:, :0], Candidates(OWN, MASK & False), NONE])
def test_queries_without_candidates_are_zero(own):
    for loss in (grouped_info_nce, lambda *given: grouped_margin_loss(*given, margin=5.0)):
        query = X.clone().requires_grad_()
        value = loss(query, Y, own)
        value.backward()
        assert value == 0 and not query.grad.any()


def test_an_empty_batch_is_zero():
    for own in (OWN[:0], Candidates(OWN[:0])):
        assert grouped_info_nce(X[:0], Y[:0], own) == 0 == grouped_margin_loss(X[:0], Y[:0], own, margin=1.0)


def test_a_converged_model_has_digits():
    """softplus(-60), which log(1 + e^-60) rounds to 0 in float32."""
    x = torch.eye(4)
    value = grouped_info_nce(x, x, -x[:, None], temperature=2 / 60.0)
    torch.testing.assert_close(value, torch.tensor(-60.0).exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("given, error, words", [
    ({"hard_negatives": OWN[1:]}, ValueError, ("hard_negatives", r"\(6, K, D\)", r"got \(5, 4, 8\)")),
    ({"hard_negatives": Candidates(OWN[1:])}, ValueError, ("hard_negatives", "6 queries", "got those of 5")),
    ({"hard_negatives": None}, TypeError, ("hard_negatives", "torch.Tensor or Candidates", "got NoneType")),
    ({"positive": Y[1:]}, ValueError, ("positive", "shape of query")),
    ({"margin": float("nan")}, ValueError, ("margin", "finite")),
    ({"temperature": 0.0}, ValueError, ("temperature", "> 0")),
    ({"reduction": "max"}, ValueError, ("reduction", "one of")),
])  # fmt: skip
def test_what_is_refused(given, error, words):
    with refuses(error, *words):
        grouped_margin_loss(**{"query": X, "positive": Y, "hard_negatives": OWN, "margin": 0.1, **given})
