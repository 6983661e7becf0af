"""Bytes for the N x N numbers that a formulation of CLIP holds at once: arithmetic, not a measurement."""

import torch
from matplotlib import pyplot as plt

from contrastile.backends.base import CPU_LIMITS
from contrastile.ops.pair import LOSS_BUDGET
from palette import INK, PULL, PUSH, THIRD

D, FLOAT = 256, 4


def clip() -> plt.Figure:
    n = torch.logspace(9, 17, 65, base=2, dtype=torch.float64)
    matrices = n**2 * FLOAT
    lines = (
        ("two logit matrices and their softmaxes (plain torch)", 4 * matrices, PUSH),
        ("one logit matrix", matrices, THIRD),
        ("clip_loss: one block, scores within its budget, gradients", blocks(n), PULL),
        ("the features themselves", 2 * n * D * FLOAT, INK),
    )
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for label, bytes_, colour in lines:
        axes.plot(n, bytes_ / 1e9, color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="pairs in the batch, N", ylabel="GB", ylim=(1e-3, 1.5e3), xlim=(2**9, 2**17))
    axes.set_xticks([2**p for p in range(9, 18)], [f"{2**p:,}" for p in range(9, 18)])
    axes.legend(loc="upper left", fontsize=8)
    axes.set_title(f"memory of CLIP, forward and backward, by arithmetic (float32, D = {D})")
    axes.grid(alpha=0.4)
    return figure


def blocks(n: torch.Tensor) -> torch.Tensor:
    """Score gradients of a block of pairs, scores saved from statistics to score gradients, float32 gradients."""
    scores = n**2 * FLOAT
    return scores.clamp_max(CPU_LIMITS.workspace) + scores.clamp_max(LOSS_BUDGET) + 2 * n * D * FLOAT
