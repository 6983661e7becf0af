"""SogCLR and RGCL against LibAUC's GCLoss_v1 (two views) and GCLoss_v2 (images and texts).

GCLoss_v1 normalises its rows. GCLoss_v2 does not divide by the number of negatives and halves the sum of both sides, so
it is (N - 1) / 2 times this package's loss.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile import ISogCLR, SogCLR
from support.standins import load

pytestmark = pytest.mark.peers
SAMPLES, B, D = 24, 6, 5
RGCL = dict(rho=1.0, eta=0.005)
CASES = {
    "GCLoss_v1": (dict(gamma=0.8), dict(unimodal=True)),
    "GCLoss_v1 RGCL": (
        dict(gamma=0.8, enable_isogclr=True, **RGCL), dict(unimodal=True, t_min=0.05, t_max=0.7, clip=None, **RGCL),
    ),
    "GCLoss_v2": (dict(gamma=0.8), {}),
    "GCLoss_v2 RGCL": (
        dict(gamma=0.8, enable_isogclr=True, tau_max=0.2, **RGCL), dict(t_min=0.005, t_max=0.2, clip=None, **RGCL),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_libauc(case):
    """Two epochs: losses and gradients, those of images and texts times (B - 1) / 2, and temperatures."""
    options, ours = CASES[case]
    theirs = getattr(load("libauc.losses.contrastive", ("libauc", "libauc.losses")), case[:9])(
        N=SAMPLES, tau=0.1, device="cpu", **options
    )
    kind = ISogCLR if "t_min" in ours else SogCLR
    module = kind(SAMPLES, temperature=0.1, gamma=0.8, normalize="unimodal" in ours, **ours)
    factor = 1.0 if module.unimodal else (B - 1) / 2
    g = torch.Generator().manual_seed(0)
    for epoch in range(2):
        theirs.adjust_gamma(epoch)
        for index in torch.randperm(SAMPLES, generator=g).split(B):
            x, y = (z.requires_grad_() for z in F.normalize(torch.randn(2, B, D, generator=g), dim=2))
            found, true = factor * module(x, y, index), theirs(x, y, index)
            true = true[0] if isinstance(true, tuple) else true
            torch.testing.assert_close(found, true, rtol=2e-5, atol=2e-5)
            for f, t in zip(*(torch.autograd.grad(z, (x, y)) for z in (found, true)), strict=True):
                torch.testing.assert_close(f, t, rtol=1e-4, atol=5e-5)
    if module.individual:
        names = ["learnable_tau"] if module.unimodal else ["learnable_tau_img", "learnable_tau_txt"]
        for own, name in zip(module.state["temperature"], names, strict=True):
            torch.testing.assert_close(own, getattr(theirs, name)[:, 0], rtol=1e-5, atol=1e-6)
