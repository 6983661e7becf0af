"""The cosine loss against the codes that have one, restated; small distances, masks, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile import cosine_loss
from support.refusals import refuses

N, L, D = 9, 4, 6
G = torch.Generator().manual_seed(6)


def rows(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64).requires_grad_()


P1, P2, Z1, Z2 = (rows(N, D) for _ in range(4))
TOKENS, MAPPED = rows(N, L, D), rows(N, L, D)
VALID = torch.rand(N, L, generator=G) < 0.6


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True, allow_unused=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        if true is None:
            assert found is None or not found.any()
        else:
            torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


def test_simsiam():
    """D(p, z) / 2 of both, the target behind a stop-gradient."""
    similarity = torch.nn.CosineSimilarity(dim=1)
    expected = -(similarity(P1, Z2.detach()).mean() + similarity(P2, Z1.detach()).mean()) * 0.5
    options = {"form": "negative", "detach_target": True}
    found = 0.5 * (cosine_loss(P1, Z2, **options) + cosine_loss(P2, Z1, **options))
    same(found, expected, P1, P2, Z1, Z2)


def test_byol():
    """2 - 2 <p, v> of unit rows (BYOL, SiamLIP, SLAP)."""
    p, v = F.normalize(P1, dim=-1), F.normalize(Z1, dim=-1)
    expected = 2 - 2 * (p * v.detach()).sum(dim=1).mean()
    same(cosine_loss(P1, Z1, form="squared", detach_target=True), expected, P1, Z1)


def test_inversion():
    """CosineEmbeddingLoss with the target 1 (OTI, OVI): gradients reach both sides."""
    expected = torch.nn.CosineEmbeddingLoss()(P1, Z1, torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(cosine_loss(P1, Z1), expected, rtol=1e-9, atol=1e-9)
    same(cosine_loss(P1, Z1), (1 - F.cosine_similarity(P1, Z1)).mean(), P1, Z1)


def test_masked_tokens():
    """The mean over the valid tokens of the batch (FUSION)."""
    expected = (1 - F.cosine_similarity(TOKENS[VALID], MAPPED[VALID], dim=1)).mean()
    same(cosine_loss(TOKENS, MAPPED, mask=VALID), expected, TOKENS, MAPPED)
    holes = torch.where(VALID[:, :, None], TOKENS, torch.nan)
    same(cosine_loss(holes, MAPPED, mask=VALID), expected, TOKENS, MAPPED)
    each = cosine_loss(TOKENS, MAPPED, mask=VALID, reduction="none")
    assert each.shape == (N, L) and not each[~VALID].any()


def test_regulariser():
    """lambda (1 - mean cos) against frozen features (MMRL), with a weight for each row."""
    weights = torch.linspace(0.1, 2.0, N, dtype=torch.float64)
    cosine = F.cosine_similarity(P1, Z1.detach())
    expected = 1 - (weights * cosine).sum() / weights.sum()
    same(cosine_loss(P1, Z1, detach_target=True, weights=weights), expected, P1)


def test_small_distances_keep_their_digits():
    x = P1.detach().float()
    y = x * (1.0 + torch.rand(N, 1, generator=G)) + 1e-4 * Z1.detach().float()
    truth = 1 - F.cosine_similarity(x.double(), y.double())
    found = cosine_loss(x, y, reduction="none").double()
    torch.testing.assert_close(found, truth, rtol=5e-3, atol=0.0)
    assert (1 - F.cosine_similarity(x, y)).sub(truth).abs().max() > 10 * found.sub(truth).abs().max()


@pytest.mark.parametrize("form, value", [("distance", 1.0), ("negative", 0.0), ("squared", 2.0)])
def test_rows_of_zeros_have_the_cosine_zero(form, value):
    x, y = P1.detach().clone(), Z1.detach().clone()
    x[0] = x[1] = y[1] = y[2] = 0.0
    x.requires_grad_()
    rows = cosine_loss(x, y, form=form, reduction="none")
    assert torch.equal(rows[:3], torch.full((3,), value, dtype=torch.float64))
    (grad,) = torch.autograd.grad(rows.sum(), x)
    assert not grad[:2].any() and grad[3:].any(1).all() and grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, D), (0, L, D), (3, 0, D)])
def test_no_rows(shape):
    x, y = torch.zeros(2, *shape).requires_grad_()
    assert cosine_loss(x, y) == 0 and cosine_loss(x, y, reduction="none").shape == shape[:-1]
    assert cosine_loss(TOKENS, MAPPED, mask=torch.zeros(N, L, dtype=torch.bool)) == 0


def test_bad_input():
    for given, error, message in (
        ({"mask": VALID[:, :2]}, ValueError, r"^mask must have shape \(9, 4\)"),
        ({"mask": VALID.long()}, TypeError, "^mask must be a bool tensor"),
        ({"weights": torch.ones(N)}, ValueError, r"^weights must have shape \(9, 4\), got \(9,\)"),
        ({"form": "cos"}, ValueError, "^form must be one of 'distance', 'negative', 'squared'"),
    ):
        with refuses(error, message):
            cosine_loss(TOKENS, MAPPED, **given)
    with refuses(ValueError, r"^y must have shape \(N, K, D\)"):
        cosine_loss(TOKENS, P1)


def test_derivatives_of_any_order():
    x, y = (z[:3, :3].detach().requires_grad_() for z in (P1, Z1))
    assert torch.autograd.gradgradcheck(cosine_loss, (x, y))
