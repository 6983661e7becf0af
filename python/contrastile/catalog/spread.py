"""Kernels of distances, uniformity, alignment and the modality gap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, related, scalar, scaled, unit_rows


def kernel_pairs(**options: Any) -> CaseMaker:
    """Two related batches for a kernel of distances; t and gamma take gradients."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        y = related(x, g)
        kwargs = {"gamma": scalar(16.0), **options}
        if options.get("kernel") != "riesz":
            kwargs["t"] = scalar(2.0)
        magnitude = 8.0
        if "riesz" in options.get("kernel", ""):  # a rounding of d^2 counts by its share of the smallest
            pairs = [torch.pdist(x.float()), torch.pdist(y.float()), (x.float() - y.float()).norm(dim=1)]
            magnitude = max(8.0, 2.0 * abs(options.get("s", 2.0)) / float(torch.cat(pairs).min()) ** 2)
        return Case((x, y), kwargs, magnitude)

    return make


def points(count: int, radius: float = 1.0, **options: Any) -> CaseMaker:
    """One or two clouds of points, not on the sphere unless radius is 1."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        clouds = tuple((unit_rows(n, d, g, torch.float32) * radius).to(dtype) for _ in range(count))
        return Case(clouds, options, 4.0 * radius**2 * options.get("t", 2.0))

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "kcl", "two views, kernels instead of a softmax", "arXiv 2405.18045", "KCL", 8,
        {
            "default": kernel_pairs(),
            "log": kernel_pairs(kernel="log"),
            "imq": kernel_pairs(kernel="imq"),
            "riesz": kernel_pairs(kernel="riesz"),
            "negative riesz": kernel_pairs(kernel="riesz", s=-1.5),
            "gaussian riesz": kernel_pairs(kernel="gaussian_riesz", s=1.0),
            "some": each(kernel_pairs(), "present"),
            "some log": each(kernel_pairs(kernel="log"), "present"),
            "some riesz": each(kernel_pairs(kernel="riesz"), "present"),
        },
    ),
    LossCard(
        "cua", "image-text without a gap: CLIP, uniformity, alignment", "arXiv 2405.18570", "L_CUA", 16,
        {
            "default": scaled(100.0),
            "weights": scaled(20.0, t=1.0, clip_weight=0.3, uniformity_weight=0.5, alignment_weight=2.0),
            "some": each(scaled(20.0), "present"),
        },
        copies=4.5,  # each term has points measured from their mean
    ),
    LossCard(
        "cuaxu", "CUA with uniformity across modalities", "arXiv 2405.18570", "L_CUAXU", 24,
        {
            "default": scaled(100.0),
            "weights": scaled(20.0, t=3.0, clip_weight=0.0, cross_uniformity_weight=2.0),
            "some": each(scaled(20.0), "present"),
        },
        copies=4.5,
    ),
    LossCard(
        "uniformity", "spread on the sphere, metric or term", "arXiv 2005.10242", "eq. 4", 4,
        {
            "default": points(1),
            "not unit": points(1, 1.7),
            "two sets": points(2),
            "wide": points(1, t=5.0),
            "normalize": points(1, 1.7, normalize=True),
            "some": each(points(1), "present"),
            "some of two sets": each(points(2), "present"),
        },
    ),
    LossCard(
        "joint_entropy", "parts of a representation that should share nothing", "arXiv 2402.11928", "k-JEM", 4,
        {
            "default": points(1, 1.7, t=1.0),
            "wide": points(1, 4.0, t=0.1),
            "weights": each(points(1, t=2.0), "weights", "present"),
            "normalize": points(1, 1.7, normalize=True),
        },
    ),
    LossCard(
        "alignment", "closeness of positives, metric or term", "arXiv 2005.10242", "eq. 3", 0,
        {
            "default": points(2),
            "alpha 1": points(2, alpha=1.0),
            "normalize": points(2, 1.7, normalize=True),
            "weights": each(points(2), "weights", "present"),
        },
    ),
)  # fmt: skip
