"""Losses of columns: correlations of features, softmaxes over prototypes."""

import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from contrastile import reference
from palette import INK, PAPER, PULL, PUSH, THIRD


def decorrelation() -> plt.Figure:
    """Features that share directions, before and after descending the reference loss."""
    g = torch.Generator().manual_seed(5)
    content = torch.randn(200, 8, generator=g, dtype=torch.float64)
    views = [content + 0.4 * torch.randn(200, 8, generator=g, dtype=torch.float64) for _ in range(2)]
    mixing = torch.eye(8, dtype=torch.float64) + 0.7 * torch.rand(8, 8, generator=g, dtype=torch.float64)
    mixing.requires_grad_()
    figure, panels = plt.subplots(1, 2, figsize=(6.2, 2.9), layout="constrained")
    colours = LinearSegmentedColormap.from_list("signs", [PUSH, PAPER, PULL])
    for panel, title in zip(panels, ("at the start", "after 300 steps"), strict=True):
        matrix = reference.cross_correlation(*(x @ mixing for x in views)).detach()
        image = panel.imshow(matrix, cmap=colours, vmin=-1, vmax=1)
        panel.set(title=title, xlabel="features of view 2", ylabel="features of view 1", xticks=[], yticks=[])
        descend(mixing, views)
    figure.colorbar(image, ax=panels, label="correlation", shrink=0.9)
    return figure


def descend(mixing: Tensor, views: list[Tensor]) -> None:
    optimizer = torch.optim.Adam([mixing], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        reference.barlow_twins_loss(*(x @ mixing for x in views), off_diagonal_weight=0.1).backward()
        optimizer.step()


def vocabulary() -> plt.Figure:
    """A batch of teacher logits of which one prototype has the largest mean."""
    g = torch.Generator().manual_seed(2)
    logits = 0.1 * torch.randn(400, 12, generator=g, dtype=torch.float64)
    logits[:, 4] += 0.15
    softmaxes = {
        "temperature 0.1": (logits / 0.1).softmax(1),
        "0.04": (logits / 0.04).softmax(1),
        "0.04, centred": ((logits - logits.mean(0)) / 0.04).softmax(1),
    }
    figure, axes = plt.subplots(figsize=(6.2, 2.7), layout="constrained")
    place = torch.arange(12)
    for shift, (colour, (label, q)) in enumerate(zip((INK, PUSH, PULL), softmaxes.items(), strict=True)):
        axes.bar(place + 0.28 * (shift - 1), q.mean(0), 0.26, color=colour, label=label)
    axes.axhline(1 / 12, color=THIRD, linewidth=0.8)
    axes.set(xlabel="prototype", ylabel="mean share of the items", xticks=[])
    axes.legend()
    return figure
