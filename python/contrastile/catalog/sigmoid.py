"""Losses of single pairs."""

from __future__ import annotations

from .card import LossCard
from .cases import each, scaled

CARDS: tuple[LossCard, ...] = (
    LossCard(
        "siglip_loss", "image-text without a softmax over the batch", "arXiv 2303.15343", "algorithm 1", 6,
        {
            "default": scaled(10.0, bias=-10.0),
            "no bias": scaled(10.0),
            "scale 100": scaled(100.0, bias=-10.0),
            "labels": scaled(10.0, bias=-3.0, equal="labels"),
            "ids": scaled(10.0, bias=-3.0, equal="ids"),
            "weights": each(scaled(10.0, bias=-3.0), "weights", "present"),
            "weights and labels": each(scaled(10.0, bias=-3.0, equal="labels"), "weights", "present"),
        },
    ),
)  # fmt: skip
