"""SepCLR's terms against the official code, restated: k-JEM by name, the others as compositions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from contrastile import Targets, alignment, joint_entropy, pair_reduce, uniformity

N, COMMON, SALIENT = 12, 5, 4
G = torch.Generator().manual_seed(7)


def rows(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64).requires_grad_()


C1, C2, S1, S2 = rows(N, COMMON), rows(N, COMMON), rows(N, SALIENT), rows(N, SALIENT)
TARGET = torch.arange(N) % 3 != 0


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


def align_loss(x, y, alpha=2, tau=0.5):
    return (x - y).norm(p=2, dim=1).pow(alpha).mul(1 / (2 * tau)).mean()


def uniform_loss(x, tau=0.5):
    return torch.pdist(x, p=2).pow(2).mul(-1 / (2 * tau)).exp().mean().log()


def joint_entropy_loss(c, s, tau=0.5):
    """Squares as such: the gradient of the official cdist is NaN between equal points."""
    kernels = [(z[:, None] - z).square().sum(2).mul(-1 / (2 * tau)).exp() for z in (s, c)]
    return (kernels[0] * kernels[1]).mean(-1).log().mean()


@pytest.mark.parametrize("tau", [0.5, 0.1])
def test_joint_entropy(tau):
    found = joint_entropy(torch.cat([C1, S1], 1), t=1 / (2 * tau))
    same(found, joint_entropy_loss(C1, S1, tau), C1, S1)


def test_the_whole_objective():
    """train() of cifar_mnist: background rows of the salient space are zeros, without gradient."""
    common = [F.normalize(c, dim=1) for c in (C1, C2)]
    hollow = [torch.where(TARGET[:, None], s, 0.0) for s in (S1, S2)]
    expected = align_loss(*common) + 2.0 * (uniform_loss(common[0]) + uniform_loss(common[1])) / 2
    expected = expected + 1000 * (
        align_loss(S1[TARGET], S2[TARGET]) + 2.0 * (uniform_loss(hollow[0]) + uniform_loss(hollow[1])) / 2
    )
    zeros = torch.zeros(int((~TARGET).sum()), SALIENT, dtype=torch.float64)
    expected = expected + 1000 * (align_loss(zeros, S1[~TARGET]) + align_loss(zeros, S2[~TARGET])) / 2
    expected = expected + 10 * sum(joint_entropy_loss(c, s) for c, s in zip(common, hollow, strict=True)) / 2

    found = alignment(*common) + sum(uniformity(c, t=1.0) for c in common)
    found = found + 1000 * (alignment(S1, S2, present=TARGET) + sum(uniformity(s, t=1.0) for s in hollow))
    background = [alignment(s, torch.zeros_like(s), present=~TARGET) for s in (S1, S2)]
    found = found + 500 * sum(background)
    found = found + 5 * sum(joint_entropy(torch.cat([c, s], 1)) for c, s in zip(common, hollow, strict=True))
    same(found, expected, C1, C2, S1, S2)


def test_supervised_alignment():
    """sup_align_loss: distances weighted by a kernel of an attribute, as soft targets."""
    x, y, tau = rows(N), torch.rand(N, generator=G, dtype=torch.float64), 0.025
    kernel = torch.pdist(y[:, None], p=2).pow(2).mul(-1 / (2 * tau)).exp()
    i, j = torch.triu_indices(N, N, 1)
    expected = (kernel * (x[i] - x[j]).square()).mean()

    at = torch.stack([y / tau, -y.square() / (2 * tau)], 1)
    targets = Targets(torch.stack([y, torch.ones_like(y)], 1), at)
    points = x[:, None]
    found = pair_reduce(
        points, points.clone(), scale=2.0, row_bias=-x.square(), col_bias=-x.square(), targets=targets,
    )  # fmt: skip
    mass = (found.row_target_lse - y.square() / (2 * tau)).exp()
    same(-(mass * found.row_targets).sum() / (N * (N - 1)), expected, x)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("offset, radius, t", [(0.0, 1.0, 1.0), (1e3, 1.0, 1.0), (0.0, 1e-3, 1.0), (0.0, 1e3, 1e-6)])
def test_points_of_any_size_keep_their_digits(backend, offset, radius, t):
    """Far from the origin, close together, far apart: as good as float32 differences of points."""
    x = (radius * S1.detach() + offset).float().requires_grad_()
    value = joint_entropy(x, t=t, backend=backend)
    value.backward()
    wide = x.detach().double().requires_grad_()
    truth = (-t * (wide[:, None] - wide).square().sum(2)).logsumexp(1).mean() - math.log(N)
    truth.backward()
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=3e-7)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-4, atol=1e-5 * wide.grad.abs().max().item())


def test_extremes():
    equal = torch.ones(5, 3, requires_grad=True)
    value = joint_entropy(equal)
    (grad,) = torch.autograd.grad(value, equal)
    torch.testing.assert_close(value, torch.tensor(0.0), rtol=0.0, atol=1e-6)
    assert not grad.any()
    apart = 100.0 * torch.eye(5)
    assert joint_entropy(apart) == -torch.tensor(5.0).log()
    assert joint_entropy(apart[:1]) == 0 and joint_entropy(apart[:0]) == 0
