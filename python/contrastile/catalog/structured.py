"""Softmax losses of mixtures, prototypes, parts, blocks, and with positives that count otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from .card import PARTS, Case, CaseMaker, LossCard
from .cases import each, one_each, pair, scalar, scaled, unit_rows, with_extras


def mixtures(temperature: float, *names: str, partner: str = "permutation", **options: Any) -> CaseMaker:
    """Pairs, the partners of the first side, and shares: "each" of its own, "both" of item and partner, or one for all;
    "unmixed": with what both sides were before."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = pair(temperature, **options)(n, d, g, dtype)
        partners = {
            "permutation": torch.randperm(n, generator=g),
            "flipped": torch.arange(n).flip(0),
            "any": torch.randint(0, n, (n,), generator=g),
        }
        wide = dtype if dtype == torch.float64 else torch.float32
        share = scalar(0.7)
        if "each" in names:  # some are not mixed
            share = one_each(n, g, 0.0, 1.5).clamp_max(1.0).to(wide)
        if "both" in names:
            share = torch.ones(n, 2, dtype=wide)
        kwargs = {**case.kwargs, "partner": partners[partner], "share": share}
        if "unmixed" in names:
            kwargs |= {name: unit_rows(n, d, g, dtype) for name in ("unmixed", "unmixed_clean")}
        return replace(case, kwargs=kwargs)

    return make


def between(temperature: float, **options: Any) -> CaseMaker:
    """Pairs and the share of the first side in points between."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = pair(temperature, share=scalar(0.3), **options)(n, d, g, dtype)
        return replace(case, derived=True)

    return make


def classes(temperature: float, few: bool = False, private: int = 0, **options: Any) -> CaseMaker:
    """Items with prototypes of n classes, or of about half as many, or with `private` ones of each item's own."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        count = private or (n // 2 + 3 if few else n)
        prototypes = unit_rows(n * private, d, g, dtype).view(n, private, d) if private else None
        kwargs = {
            "prototypes": unit_rows(count, d, g, dtype) if prototypes is None else prototypes,
            "labels": torch.randint(0, max(count, 1), (n,), generator=g),
            "temperature": scalar(temperature),
        }
        shared = () if private else ("prototypes",)
        return Case((unit_rows(n, d, g, dtype),), {**kwargs, **options}, 1.0 / temperature, shared=shared)

    return make


def parts(temperature: float, masked: bool = False, **options: Any) -> CaseMaker:
    """Items and PARTS parts of each; masked: of which some are missing, and of some items all."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        every = unit_rows(n * PARTS, d, g, dtype).view(n, PARTS, d)
        kwargs = {"temperature": scalar(temperature), **options}
        if masked:
            kwargs["mask"] = torch.rand(n, PARTS, generator=g) < 0.6
        return Case((unit_rows(n, d, g, dtype), every), kwargs, 1.0 / temperature)

    return make


def versions(temperature: float, blocks: int = 2, **options: Any) -> CaseMaker:
    """Pairs in several versions, block by block."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = pair(temperature, blocks=blocks, **options)(n * blocks, d, g, dtype)
        return replace(case, versions=blocks)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "margin_info_nce", "pairs, positives that must win by a margin", "arXiv 2008.11702", "MarginNCE", 8,
        {
            "default": pair(0.1, margin=0.2),
            "queue": with_extras(0.2, "negatives", margin=-0.5, in_batch=False),
            "arc": with_extras(0.1, "negatives", "ids", margin=0.3, kind="arc", symmetric=True),
            "weights": each(pair(0.1, margin=-0.4, kind="arc"), "weights", "present"),
        },
    ),
    LossCard(
        "cma_loss", "image-text, closer pairs, for out-of-distribution scores", "arXiv 2503.18817", "official code", 8,
        {
            "default": scaled(14.3, lam=0.2),
            "ids": scaled(20.0, equal="ids", lam=0.1, direction="cols"),
            "weights": each(scaled(14.3, lam=0.001), "weights", "present"),
        },
    ),
    LossCard(
        "mixup_info_nce", "mixed items, two positives weighted by share", "arXiv 2409.17777", "official code", 8,
        {
            "default": mixtures(0.1),
            "overwritten": mixtures(0.1, "each", partner="any", fixed_points="overwrite"),
            "both mixed": mixtures(0.07, "both", partner="flipped", direction="sum"),
            "unmixed": mixtures(0.07, "each", "unmixed", partner="flipped"),
            "weights": each(mixtures(0.1, "each", direction="cols", normalize=True), "weights"),
        },
    ),
    LossCard(
        "m2_mix", "two modalities, negatives between them", "arXiv 2203.03897", "official code", 16,
        {"default": between(0.07), "weights": each(between(0.1, direction="mean"), "weights", "present")},
        copies=4.5,
    ),
    LossCard(
        "prototype_loss", "classes with one vector each", "arXiv 1811.12649", "normalized softmax", 6,
        {
            "default": classes(0.07),
            "smoothing": classes(0.05, few=True, label_smoothing=0.1),
            "private": classes(0.1, private=5, label_smoothing=0.1),
            "weights": each(classes(0.1, few=True), "weights", "present", "temperature"),
        },
    ),
    LossCard(
        "global_local_info_nce", "items against the tokens or patches of others", "arXiv 2202.10401", "official code",
        8,
        {"default": parts(0.07), "mask": parts(0.1, masked=True), "weights": each(parts(0.1, masked=True), "weights")},
        times="L",
    ),
    LossCard(
        "block_info_nce", "pairs in several versions (forward, reversed)", "arXiv 2301.02074", "official code", 8,
        {
            "default": versions(0.1, same_pair_weight=2.0),
            "three": versions(0.2, blocks=3, same_pair_weight=0.5, other_block_weight=0.25, direction="rows"),
            "alone": versions(0.1, other_block_weight=0.0, same_pair_weight=0.0, direction="mean"),
        },
        stacked=True,
    ),
    LossCard(
        "m3el_loss", "two modalities, candidates of both", "arXiv 2412.10440", "official code", 16,
        {
            "default": pair(0.07, intra_scale=scalar(0.8), inter_scale=scalar(1.1)),
            "low temperature": pair(0.03, direction="cols"),
            "weights": each(pair(0.1), "weights", "present"),
        },
        copies=4.5,
    ),
)  # fmt: skip
