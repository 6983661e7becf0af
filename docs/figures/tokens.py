"""Losses of token sets: which tokens are compared, where words attend, how a codebook is shared."""

import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

from contrastile import reference
from pairs import items, legend, matrix, pair_gradients, panels
from palette import INK, PAPER, PULL, PUSH


def late_interaction() -> plt.Figure:
    """Three queries of two tokens, three documents of three."""
    n, t, u = 3, 2, 3
    tokens = torch.cat([items(n * t, 1), items(n * u, 1, seed=7)])
    figure, axes = panels(3)
    options = {
        "max": {},
        "softmax_mean": {"document_reduce": "softmax_mean", "sharpness": 2.0},
        "top_k=4": {"top_k": 4},
    }
    for panel, (title, how) in zip(axes, options.items(), strict=True):
        found = pair_gradients(
            lambda r, how=how: reference.late_interaction_info_nce(
                r[: n * t].view(n, t, -1), r[n * t :].view(n, u, -1), temperature=0.3, **how
            ),
            tokens,
        )[: n * t, n * t :]
        matrix(panel, found, title, "tokens of queries", "tokens of documents", ())
        for place in range(1, n):
            panel.axvline(place * u, color=INK, linewidth=0.8)
            panel.axhline(place * t, color=INK, linewidth=0.8)
    return legend(figure)


def word_regions() -> plt.Figure:
    """Attention of five words over twelve regions, some of which look like a word."""
    g = torch.Generator().manual_seed(4)
    words = torch.randn(5, 32, generator=g, dtype=torch.float64)
    regions = 0.9 * torch.randn(12, 32, generator=g, dtype=torch.float64)
    for region, word in ((1, 0), (2, 0), (5, 2), (8, 3), (9, 3), (10, 4)):
        regions[region] += 0.4 * words[word]
    products = 0.15 * words @ regions.T
    figure, axes = plt.subplots(1, 2, figsize=(6.2, 2.4), layout="constrained")
    colours = LinearSegmentedColormap.from_list("shares", [PAPER, PULL])
    for panel, (title, scores) in zip(
        axes, (("over_words=True", products.softmax(0)), ("over_words=False", products)), strict=True
    ):
        image = panel.imshow((4.0 * scores).softmax(1), cmap=colours, vmin=0, vmax=1)
        panel.set(title=title, xlabel="regions", ylabel="words", xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, label="attention", shrink=0.8)
    return figure


def codebook() -> plt.Figure:
    """Shares of one item's scores of twelve vectors."""
    scores = torch.randn(12, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    figure, axes = plt.subplots(1, 2, figsize=(6.2, 2.4), layout="constrained", sharey=True)
    place = torch.arange(12)
    for panel, temperature in zip(axes, (1.0, 4.0), strict=True):
        panel.bar(place - 0.2, (scores / temperature).softmax(0), 0.38, color=PUSH, label="softmax")
        panel.bar(place + 0.2, reference.sparsemax(scores / temperature), 0.38, color=PULL, label="sparsemax")
        panel.set(title=f"temperature {temperature:g}", xlabel="vectors of the codebook", xticks=[])
    axes[0].set(ylabel="share")
    axes[0].legend()
    return figure
