"""Sinkhorn's potentials and SwALIP against the official code's steps on the whole matrix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile.retrieval import sinkhorn_potentials, swapped_prediction_loss
from support.launch import gather_from
from support.refusals import refuses

G = torch.Generator().manual_seed(5)
N, M, D = 7, 10, 4


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=G, dtype=torch.float64), dim=-1).requires_grad_()


ROWS, COLS = unit(N, D), unit(M, D)
IMAGES, TEXTS = [unit(N, D), unit(N, D)], [unit(N, D), unit(N, D)]
SCALE = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)


def official_sinkhorn(logits, eps, iterations):
    """clip-rocket's losses.py on all logits: of each sample (row) a distribution over the keys."""
    q = torch.exp(logits / eps).t()
    q = q / q.sum()
    keys, samples = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / keys
        q = q / q.sum(0, keepdim=True) / samples
    return (q * samples).t()


@pytest.mark.parametrize("eps, iterations", [(0.05, 3), (0.5, 1), (0.5, 200)])
def test_the_plan_is_the_official_codes(eps, iterations):
    rows, cols = sinkhorn_potentials(ROWS, COLS, eps=eps, iterations=iterations)
    plan = (ROWS @ COLS.T / eps + rows[:, None] + cols).exp()
    torch.testing.assert_close(N * plan, official_sinkhorn(ROWS @ COLS.T, eps, iterations), rtol=1e-11, atol=1e-13)
    if iterations == 200:  # converged
        torch.testing.assert_close(plan.sum(0), torch.full((M,), 1.0 / M, dtype=torch.float64), rtol=1e-9, atol=0.0)


def official_loss(detach_keys=False):
    """SwALIPLoss in one process, also with full gradients."""
    total = 0.0
    for x, y in ((IMAGES, TEXTS), (TEXTS, IMAGES)):
        for a in range(2):
            for b in range(2):
                target = official_sinkhorn(x[1 - a] @ y[1 - b].T, 0.05, 3).detach()
                keys = y[b].detach() if detach_keys else y[b]
                total = total - (target * F.log_softmax(SCALE * x[a] @ keys.T, 1)).sum(1).mean() / 2
    return total / 4


@pytest.mark.parametrize("detach_keys", [False, True])
def test_the_swapped_prediction_is_the_official_codes(detach_keys):
    value, expected = swapped_prediction_loss(IMAGES, TEXTS, SCALE, detach_keys=detach_keys), official_loss(detach_keys)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    leaves = [*IMAGES, *TEXTS, SCALE]
    for own, true in zip(*(torch.autograd.grad(x, leaves) for x in (value, expected)), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-9, atol=1e-12)


def test_half_precision_overflows_nowhere():
    a, b = ROWS.detach().half(), COLS.detach().half()
    rows, cols = sinkhorn_potentials(a, b, eps=0.02)  # e^50 is no float16
    plan = (a.double() @ b.double().T / 0.02 + rows[:, None].double() + cols.double()).exp()
    torch.testing.assert_close(plan.sum(1), torch.full((N,), 1.0 / N).double(), rtol=1e-4, atol=0.0)
    halves = [[x.detach().half() for x in views] for views in (IMAGES, TEXTS)]
    assert swapped_prediction_loss(*halves, 8.0).item() == pytest.approx(official_loss().item(), rel=0.02)


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_transport(n, m):
    rows, cols = sinkhorn_potentials(torch.randn(n, D), torch.randn(m, D))
    assert torch.equal(rows, torch.zeros(n)) and torch.equal(cols, torch.zeros(m))


def test_an_empty_batch_has_the_loss_0():
    nothing = torch.zeros(0, D, requires_grad=True)
    value = swapped_prediction_loss([nothing] * 2, [nothing] * 2, 5.0)
    value.backward()
    assert value == 0.0 and nothing.grad.shape == (0, D)


SHARES = ((0, 3, 0, 6), (3, 3, 6, 6), (3, N, 6, M))


def of_ranks(rank):
    low, high, first, last = SHARES[rank]
    views = [[x[low:high].detach() for x in views] for views in (IMAGES, TEXTS)]
    found = sinkhorn_potentials(ROWS[low:high].detach(), COLS[first:last].detach(), group="world")
    return *found, swapped_prediction_loss(*views, 8.0, group="world").unsqueeze(0)


@pytest.mark.dist
def test_ranks_have_the_plan_of_one_process():
    rows, cols, losses = (torch.cat(parts) for parts in zip(*gather_from(3, of_ranks), strict=True))
    expected = sinkhorn_potentials(ROWS, COLS)
    torch.testing.assert_close(rows, expected.rows)
    torch.testing.assert_close(cols, expected.cols)
    torch.testing.assert_close(losses.mean(), official_loss().detach())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: sinkhorn_potentials(ROWS, COLS, eps=0.0), ["eps", "> 0"]),
        (lambda: sinkhorn_potentials(ROWS, COLS, iterations=0), ["iterations", ">= 1"]),
        (lambda: sinkhorn_potentials(ROWS, COLS[:, :2]), ["b", "width"]),
        (lambda: swapped_prediction_loss(IMAGES[:1], TEXTS, 1.0), ["images", "two views"]),
        (lambda: swapped_prediction_loss(IMAGES, [x[:, 1:] for x in TEXTS], 1.0), [r"texts\[0\]", r"images\[0\]"]),
        (lambda: swapped_prediction_loss([IMAGES[0], IMAGES[1][1:]], TEXTS, 1.0), [r"images\[1\]", r"images\[0\]"]),
    ],
)
def test_bad_input_is_named(call, words):
    with refuses(ValueError, *words):
        call()
