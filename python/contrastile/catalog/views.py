"""Losses of several views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, related, scalar, some, unit_rows


def several_views(count: int, temperature: float, **options: Any) -> CaseMaker:
    """Related batches as one (count, n, d) tensor."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        views = torch.stack([related(x, g) for _ in range(count)])
        return Case((views,), {"temperature": scalar(temperature), **options}, 1.0 / temperature, views=True)

    return make


def each_view(maker: CaseMaker) -> CaseMaker:
    """A case of views of which some are missing, with weights of instances."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = each(maker, "weights")(n, d, g, dtype)
        return replace(case, kwargs={**case.kwargs, "present": some(case.n, g, case.args[0].shape[0])})

    return make


def image_text_views(scale: float, local: float, count: int = 3, **options: Any) -> CaseMaker:
    """A global view and local ones of every image and text, with a scale for each kind."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        (images,) = several_views(count, 0.1)(n, d, g, dtype).args
        texts = torch.stack([related(x, g) for x in images])
        kwargs = {"local_logit_scale": scalar(local), **options} if count > 1 else options
        return Case((images, texts, scalar(scale)), kwargs, max(scale, local), views=True)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "mv_infonce", "k views, one softmax per instance", "arXiv 2507.06979", "MV-InfoNCE", 4,
        {
            "default": several_views(3, 0.5),
            "low temperature": several_views(3, 0.005),
            "eight views": several_views(8, 0.1),
            "across views": several_views(3, 0.2, negatives="cross_view"),
            "sharp across views": several_views(4, 0.01, negatives="cross_view"),
            "normalize": several_views(2, 0.2, normalize=True),
            "weights": each_view(several_views(3, 0.2)),
            "weights across views": each_view(several_views(3, 0.2, negatives="cross_view")),
        },
        stacked=True,
    ),
    LossCard(
        "mv_dhel", "k views, repulsion within each view only", "arXiv 2507.06979", "MV-DHEL", 4,
        {
            "default": several_views(3, 0.5),
            "low temperature": several_views(3, 0.005),
            "eight views": several_views(8, 0.1),
            "normalize": several_views(2, 0.2, normalize=True),
            "weights": each_view(several_views(3, 0.5)),
        },
        "k",
    ),
    LossCard(
        "pvc", "k views, each pair against the negatives", "arXiv 2403.05490", "poly-view", 4,
        {
            "default": several_views(3, 0.2),
            "sharp": several_views(4, 0.01),
            "arithmetic": several_views(4, 0.2, aggregation="arithmetic"),
            "sharp arithmetic": several_views(3, 0.005, aggregation="arithmetic"),
            "weights": each_view(several_views(4, 0.2)),
            "arithmetic weights": each_view(several_views(4, 0.2, aggregation="arithmetic")),
            "normalize": several_views(2, 0.2, normalize=True),
        },
        stacked=True,
    ),
    LossCard(
        "multiview_clip_loss", "image-text with augmented views of both", "arXiv 2305.08675", "official code", 8,
        {
            "default": image_text_views(14.3, 10.0),
            "smoothing": image_text_views(14.3, 10.0, label_smoothing=0.1, direction="sum"),
            "weights": each(image_text_views(20.0, 5.0, local_weight=0.5), "weights", "present"),
            "detached": image_text_views(14.3, 10.0, label_smoothing=0.1, detach_keys=True),
        },
        "(1+(k-1)²)",
    ),
)  # fmt: skip
