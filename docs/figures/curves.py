"""Losses as curves of one quantity."""

import math

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from contrastile import reference
from palette import FAINT, INK, PULL, PUSH, THIRD


def debiased() -> plt.Figure:
    """What the correction leaves of the negatives' sum, from the reference loss: L = log(1 + g / e^z)."""
    n = 64
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.9), layout="constrained", sharey=True)
    cosine = torch.linspace(-0.2, 1.0, 121, dtype=torch.float64)
    for panel, temperature in zip(axes, (0.5, 0.1), strict=True):
        for tau_plus, colour in ((0.0, INK), (0.01, PULL), (0.05, THIRD), (0.1, PUSH)):
            left = [negatives_left(p, n, temperature, tau_plus) for p in cosine]
            panel.plot(cosine, left, color=colour, label=f"tau_plus = {tau_plus:g}")
        panel.axhline(math.exp(-1 / temperature), color=FAINT, linewidth=0.8, zorder=0)
        panel.set(title=f"temperature {temperature:g}", xlabel="cosine of the positive (negatives 0)")
    axes[0].set(ylabel="g / sum of the negatives", ylim=(-0.02, 1.12))
    axes[0].legend(fontsize=8)
    axes[1].annotate(
        "floor: no gradient\nreaches the negatives",
        (0.75, 0.02),
        (0.78, 0.3),
        ha="center",
        fontsize=8,
        arrowprops={"arrowstyle": "->", "color": INK},
    )
    return figure


def negatives_left(cosine: Tensor, n: int, temperature: float, tau_plus: float) -> float:
    query = torch.eye(n, 2 * n, dtype=torch.float64)
    key = cosine * query + (1 - cosine**2).clamp_min(0).sqrt() * query.roll(n, 1)
    loss = reference.debiased_info_nce(query, key, temperature=temperature, tau_plus=tau_plus, reduction="none")[0]
    return float(loss.expm1() * torch.exp(cosine / temperature)) / (n - 1)


def kernels() -> plt.Figure:
    """Energy of a pair against its distance, and the force: minus its slope."""
    d = torch.linspace(0.05, 2.0, 300, dtype=torch.float64, requires_grad=True)
    energies = {
        "gaussian, t = 2": (torch.exp(-2 * d**2), PULL),
        "log, t = 2": (-0.5 * torch.log1p(2 * d**2), THIRD),
        "imq, t = 2": (2 / torch.sqrt(4 + d**2), INK),
        "riesz, s = 1": (1 / d, PUSH),
    }
    figure, (value, force) = plt.subplots(1, 2, figsize=(7.5, 2.9), layout="constrained")
    for label, (energy, colour) in energies.items():
        (slope,) = torch.autograd.grad(energy.sum(), d, retain_graph=True)
        value.plot(d.detach(), energy.detach(), color=colour, label=label)
        force.plot(d.detach(), -slope, color=colour, label=label)
    value.set(title="energy of a pair", xlabel="distance on the unit sphere", ylim=(-1.2, 3))
    force.set(title="repulsion: minus its slope", xlabel="distance on the unit sphere", ylim=(0, 3))
    force.legend(fontsize=8)
    return figure
