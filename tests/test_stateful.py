"""SogCLR, iSogCLR, FastCLIP: the official classes step by step, what is remembered, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import FastCLIP, ISogCLR, SogCLR
from support import official_stateful as official

SAMPLES, B, D = 24, 6, 5
EPOCHS = 3  # of four steps each
EXACT = dict(rtol=2e-6, atol=2e-6)  # numbers of samples are float32


def batches(dtype=torch.float64, n=B, seed=0):
    """Of EPOCHS epochs over the same samples, with features that move: (epoch, x, y, index)."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(2, SAMPLES, D, generator=g, dtype=torch.float64)
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=g)
        for index in order.split(n):
            moved = base[:, index] + 0.3 * torch.randn(2, len(index), D, generator=g, dtype=torch.float64)
            x, y = F.normalize(moved, dim=2).to(dtype)
            yield epoch, x.requires_grad_(), y.requires_grad_(), index


def learnt(module):
    return {"temperature": module.state["temperature"], "u": module.state["temperature_slope"]}


OPTIONS = dict(rho=1.0, eta=0.05, beta=0.7)
CASES = {
    "SogCLR bimodal": (
        lambda: SogCLR(SAMPLES, temperature=0.1, gamma=0.8, warm_start=False, include_positive=True),
        lambda: official.Bimodal(SAMPLES, 0.8, 0.1), 1.0,
    ),
    "iSogCLR bimodal": (
        lambda: ISogCLR(SAMPLES, temperature=0.1, gamma=0.8, warm_start=False, include_positive=True, **OPTIONS),
        lambda: official.Bimodal(SAMPLES, 0.8, 0.1, True, **OPTIONS), 1.0,
    ),
    "SogCLR unimodal": (
        lambda: SogCLR(SAMPLES, temperature=0.1, gamma=0.8, unimodal=True),
        lambda: official.Unimodal(SAMPLES, 0.8, 0.1), 1.0,
    ),
    "iSogCLR unimodal": (
        lambda: ISogCLR(SAMPLES, temperature=0.1, t_min=0.05, gamma=0.8, unimodal=True, clip=3.0, **OPTIONS),
        lambda: official.Unimodal(SAMPLES, 0.8, 0.1, True, **OPTIONS), 1.0,
    ),
    "LibAUC GCLoss_v2": (
        lambda: SogCLR(SAMPLES, temperature=0.1), lambda: official.LibAUC(SAMPLES, 0.9, 0.1), (B - 1) / 2,
    ),
    "LibAUC RGCL": (
        lambda: ISogCLR(SAMPLES, temperature=0.04, t_max=0.05, gamma=0.9, clip=None, rho=6.0, eta=0.001),
        lambda: official.LibAUC(SAMPLES, 0.9, 0.04, True, rho=6.0, eta=0.001), (B - 1) / 2,
    ),
    "FastCLIP-v2": (
        lambda: FastCLIP(SAMPLES, "v2", temperature=0.1, gamma_epochs=2, rho=1.0, eta=0.01),
        lambda: official.FastCLIPIndividual(SAMPLES, 0.2, 2, 1.0, 0.1, 0.01), 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_official_class(case):
    """Value, gradients, averages and temperatures in every step of three epochs."""
    ours, theirs, factor = (make() if callable(make) else make for make in CASES[case])
    for epoch, x, y, index in batches():
        ours.set_epoch(epoch)
        theirs.epoch = epoch
        loss, truth = ours(x, y, index), theirs(x, y, index)
        found, true = (torch.autograd.grad(z, (x, y)) for z in (loss * factor, truth))
        torch.testing.assert_close(loss * factor, truth, **EXACT)
        for f, t in zip(found, true, strict=True):
            torch.testing.assert_close(f, t, **EXACT)
        torch.testing.assert_close(ours.state["log_mean"].double(), theirs.log_mean(), **EXACT)
        if isinstance(theirs, official.FastCLIPIndividual):
            names = {"temperature": theirs.tau, "temperature_slope": theirs.m, "temperature_square": theirs.v}
        elif ours.individual:
            names = {"temperature": theirs.tau, "temperature_slope": theirs.u}
        else:
            continue
        for name, state in names.items():
            state = torch.stack(state) if isinstance(state, list) else state[None]
            torch.testing.assert_close(ours.state[name].double(), state, **EXACT)
    if ours.individual:  # some of them have moved, and not all to a bound
        t = ours.state["temperature"]
        assert len(t.unique()) > SAMPLES / 2


@pytest.mark.parametrize("version", ["v0", "v1", "v3"])
def test_fastclip_with_one_temperature(version):
    """With the gradient of the temperature, and an optimizer that moves it."""
    ours = FastCLIP(SAMPLES, version, temperature=0.1, gamma_epochs=2).double()
    log_t = torch.tensor(0.1).log().double().requires_grad_()
    theirs = official.FastCLIP(SAMPLES, 0.2, 2, rho=6.5, multiply=version == "v3")
    learns = version != "v1"
    assert [name for name, _ in ours.named_parameters()] == ["log_temperature"] * learns
    for epoch, x, y, index in batches():
        ours.set_epoch(epoch)
        theirs.epoch = epoch
        loss, truth = ours(x, y, index), theirs(x, y, index, log_t.exp())
        torch.testing.assert_close(loss, truth, **EXACT)
        own = [ours.log_temperature] if learns else []
        found, true = torch.autograd.grad(loss, [x, y, *own]), torch.autograd.grad(truth, [x, y, log_t])
        for f, t in zip(found, true, strict=False):
            torch.testing.assert_close(f, t, **EXACT)
        torch.testing.assert_close(ours.state["log_mean"].double(), theirs.log_mean(), **EXACT)
        if learns:
            with torch.no_grad():
                ours.log_temperature -= 0.01 * found[2]
                log_t -= 0.01 * true[2]
