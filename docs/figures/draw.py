"""draw.py: every figure of the pages, docs/figures/*.svg, in the same look."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

import columns
import curves
import geometry
import memory
import pairs
import tokens
import training
from palette import FAINT, INK, PAPER

FIGURES: dict[str, Callable[[], plt.Figure]] = {
    "memory": memory.clip,
    "contrastive": pairs.contrastive,
    "candidates": pairs.candidates,
    "mixup": pairs.mixup,
    "structured": pairs.structured,
    "late-interaction": tokens.late_interaction,
    "word-regions": tokens.word_regions,
    "codebook": tokens.codebook,
    "distillation": pairs.distillation,
    "soft-targets": pairs.soft_targets,
    "sigmoid": pairs.sigmoid,
    "two-views": pairs.two_views,
    "supervised": pairs.supervised,
    "multi-positive": pairs.multi_positive,
    "multiview": pairs.multiview,
    "symile": pairs.symile,
    "debiased": curves.debiased,
    "kernel": curves.kernels,
    "gram": geometry.gram,
    "triangle": geometry.triangle,
    "pmrl": geometry.pmrl,
    "gap": geometry.gap,
    "decorrelation": columns.decorrelation,
    "vocabulary": columns.vocabulary,
    "parity": training.parity,
}
LOOK = {
    "svg.fonttype": "path",
    "svg.hashsalt": "contrastile",  # so that equal drawings are equal files
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlepad": 8,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
}


def draw(name: str, folder: Path) -> None:
    with matplotlib.rc_context(LOOK):
        figure = FIGURES[name]()
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        plt.close(figure)


if __name__ == "__main__":
    matplotlib.use("svg")
    for name in FIGURES:
        draw(name, Path(__file__).parent)
