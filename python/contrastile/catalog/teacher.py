"""Losses with soft targets or gates: second operands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from .card import Case, CaseMaker, LossCard
from .cases import each, pair, related, scalar, scaled, unit_rows, with_extras


def taught(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs and a teacher that saw them: by itself, or (teacher_key) with candidates and a temperature of its own."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = with_extras(temperature, *(name for name in names if name in ("negatives", "ids", "key_ids")))(
            n, d, g, dtype
        )
        teacher: tuple[Tensor, ...] = (related(case.args[0], g),)
        kwargs = {**case.kwargs, **options}
        if "teacher_key" in names:
            wide = unit_rows(n, d + 3, g, dtype)
            teacher = (wide, related(wide, g))
            kwargs["teacher_temperature"] = scalar(2.0 * temperature)
            if "negatives" in kwargs:
                kwargs["teacher_negatives"] = unit_rows(len(kwargs["negatives"]), d + 3, g, dtype)
        if "negative_ids" in names:
            kwargs["negative_ids"] = torch.randint(0, n // 2 + 1, (len(kwargs["negatives"]),), generator=g)
        frozen = (2, 3, "teacher_temperature", "teacher_negatives") if options.get("detach_targets", True) else ()
        return Case((*case.args, *teacher), kwargs, case.magnitude, frozen=frozen)

    return make


def clip_taught(scale: float, teacher_scale: float | None = None, **options: Any) -> CaseMaker:
    """Image and text features of a student and of a teacher of another width."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case, wide = scaled(scale)(n, d, g, dtype), unit_rows(n, d + 3, g, dtype)
        own = () if teacher_scale is None else (scalar(teacher_scale),)
        frozen = (2, 3, 5) if options.get("detach_targets", True) else ()
        args = (*case.args[:2], wide, related(wide, g), case.args[2], *own)
        return replace(case, args=args, kwargs=options, frozen=frozen)

    return make


def similar(scale: float, **options: Any) -> CaseMaker:
    """`scaled`, with features of the items that say how alike they are."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = scaled(scale, **options)(n, d, g, dtype)
        kwargs = {**case.kwargs, "weight_features": unit_rows(n, d + 3, g, dtype)}
        return replace(case, kwargs=kwargs, frozen=("weight_features",))

    return make


def gated(scale: float, keys: bool = False) -> CaseMaker:
    """Samples of a few classes, each with a gate and a class that it is paired with."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        gate = (0.2 + 0.8 * torch.rand(n, d, generator=g)).to(dtype)
        labels, partners = torch.randint(0, n // 3 + 2, (2, n), generator=g)
        args: tuple[Any, ...] = (unit_rows(n, d, g, dtype), gate, labels, partners)
        if keys:
            args += (unit_rows(n + 5, d, g, dtype), torch.randint(0, n // 3 + 2, (n + 5,), generator=g))
        return Case(args, {"logit_scale": scalar(scale)}, 2.0 * scale, derived=True)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "distill_info_nce", "pairs with a momentum encoder or a teacher, queues", "arXiv 2107.07651", "eq. 6", 8,
        {
            "default": taught(0.1),
            "queue": taught(0.1, "negatives"),
            "low temperature": taught(0.02),
            "teacher": taught(0.1, "negatives", "teacher_key", teacher_loss="kl"),
            "trained teacher": taught(0.2, "teacher_key", detach_targets=False, alpha=1.0, teacher_loss="kl"),
            "filter": taught(0.2, "negatives", "teacher_key", filter_wrong=True),
            "ids": taught(0.1, "negatives", "ids", "negative_ids"),
            "row temperature": each(taught(0.1, "negatives"), "temperature"),
            "weights": each(taught(0.1, alpha=0.8, normalize=True), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "clip_distill_loss", "image-text with a teacher", "open_clip DistillClipLoss", "official code", 12,
        {
            "default": clip_taught(14.3, 10.0),
            "blend": clip_taught(14.3, alpha=0.5, teacher_loss="kl"),
            "trained teacher": clip_taught(10.0, 5.0, detach_targets=False, teacher_loss="kl"),
            "filter": clip_taught(5.0, 5.0, filter_wrong=True, teacher_loss="kl"),
            "text to image": clip_taught(14.3, 20.0, direction="cols"),
            "weights": each(clip_taught(14.3, 10.0), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "softclip_loss", "two modalities, targets from item similarity", "arXiv 2409.17777", "official code", 16,
        {
            "default": pair(0.125),
            "detached": pair(0.125, detach_targets=True),
            "columns": pair(0.2, direction="cols"),
            "weights": each(pair(0.2, normalize=True), "weights"),
        },
        copies=5.0,
    ),
    LossCard(
        "cwcl_loss", "a frozen modality and one to train, weighted pairs", "arXiv 2309.14580", "eq. 3", 12,
        {
            "default": scaled(14.3),
            "features": similar(20.0),
            "weights": each(scaled(14.3, normalize=True), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "hydra_loss", "classes paired at random, in gated subspaces", "arXiv 2410.18200", "official code", 32,
        {"default": gated(10.0), "keys": gated(5.0, keys=True)},
        copies=12.0,
    ),
)  # fmt: skip
