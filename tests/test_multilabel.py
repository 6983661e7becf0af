"""Pairs with learned soft labels: every form against the dense definition, twice differentiable, in chunks."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from contrastile import LowRank, multilabel_contrastive, reference
from contrastile.literals import MultilabelForm
from contrastile.losses import multilabel
from support.refusals import refuses

N, D, R = 11, 6, 3
every_form = pytest.mark.parametrize("form", get_args(MultilabelForm))


def problem():
    g = torch.Generator().manual_seed(2)
    x, y = (F.normalize(torch.randn(N, D, generator=g, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))
    parts = torch.rand(N, generator=g), torch.randn(N, R, generator=g), torch.randn(N, R, generator=g)
    diagonal, left, right = (part.double().requires_grad_() for part in parts)
    return x, y, diagonal, left, right, torch.tensor(5.0, dtype=torch.float64, requires_grad=True)


def found_and_true(form, x, y, diagonal, left, right, scale):
    alpha = 0.5
    dense = torch.diag(diagonal) + alpha / R * left @ right.T
    found = multilabel_contrastive(x, y, LowRank(diagonal, left, right, alpha), logit_scale=scale, form=form)
    return found, reference.multilabel_contrastive(x, y, dense, logit_scale=scale, form=form)


@every_form
def test_value_and_first_and_second_derivatives(form, monkeypatch):
    monkeypatch.setattr(multilabel, "CHUNK", 4 * N)  # three chunks
    leaves = problem()
    results = []
    for value in found_and_true(form, *leaves):
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        # trajectory matching: the distance of a step from where it should have led
        distance = sum((p - 0.1 * g - 1.0).square().sum() for p, g in zip(leaves, grads, strict=True))
        results.append((value, *grads, *torch.autograd.grad(distance, leaves)))
    for x, true in zip(*results, strict=True):
        torch.testing.assert_close(x, true, rtol=1e-9, atol=1e-11)


@every_form
def test_dense_labels_and_half_precision(form):
    x, y, *_ = problem()
    labels = torch.rand(N, N, generator=torch.Generator().manual_seed(3))
    found = multilabel_contrastive(x.detach().bfloat16(), y.detach().bfloat16(), labels, form=form)
    expected = reference.multilabel_contrastive(
        x.detach().bfloat16().double(), y.detach().bfloat16().double(), labels.double(), form=form
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


def test_nothing_is_matched_and_empty_batches():
    x, y = torch.randn(2, 4, 3)
    zero = torch.zeros(4, 4)
    torch.testing.assert_close(
        multilabel_contrastive(x, y, zero), reference.multilabel_contrastive(x, y, zero), rtol=1e-6, atol=1e-6
    )
    empty = torch.zeros(0, 3, requires_grad=True)
    value = multilabel_contrastive(empty, empty, torch.zeros(0, 0))
    value.backward()
    assert value == 0 and empty.grad is not None


@pytest.mark.parametrize(
    "message, given",
    [
        ("form must be one of", {"form": "focal"}),
        ("labels must have shape", {"labels": torch.zeros(N, N + 1)}),
        ("labels.left must have shape", {"labels": LowRank(torch.ones(N), torch.ones(N, 0), torch.ones(N, 0))}),
        ("labels.diagonal must have shape", {"labels": LowRank(torch.ones(3), torch.ones(N, 2), torch.ones(N, 2))}),
        ("y must have the shape of x", {"y": torch.zeros(N + 1, D)}),
    ],
)
def test_bad_arguments_are_named(message, given):
    arguments = {"x": torch.zeros(N, D), "y": torch.zeros(N, D), "labels": torch.zeros(N, N), **given}
    with refuses(ValueError, message):
        multilabel_contrastive(**arguments)
