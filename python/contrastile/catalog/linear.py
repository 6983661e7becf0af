"""Losses without pairs of items: of features' correlations, of matched rows, over a vocabulary or prototypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, one_each, related, scalar, some, unit_rows


def batches(radius: float = 1.0, **options: Any) -> CaseMaker:
    """Two related batches, not unit unless radius is 1."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, torch.float32)
        return Case(((radius * x).to(dtype), (radius * related(x, g)).to(dtype)), options)

    return make


def own_candidates(temperature: float, count: int, radius: float = 1.0, **options: Any) -> CaseMaker:
    """Pairs with candidates of each query."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, torch.float32)
        own = related(x.repeat_interleave(count, 0), g).view(n, count, d)
        args = tuple((radius * z).to(dtype) for z in (x, related(x, g), own))
        return Case(args, {"temperature": scalar(temperature), **options}, 1.0 / temperature)

    return make


def correlated(**options: Any) -> CaseMaker:
    """Two views whose features vary by about 1, as a projector gives them."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = torch.randn(n, d, generator=g)
        y = x + 0.5 * torch.randn(n, d, generator=g)
        return Case((x.to(dtype), y.to(dtype)), {"off_diagonal_weight": scalar(0.05), **options}, 4.0)

    return make


def chosen(maker: CaseMaker, *names: str) -> CaseMaker:
    """A case with weights or a mask of its rows, or of its tokens."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = maker(n, d, g, dtype)
        shape = case.args[0].shape[:-1]
        wide = dtype if dtype == torch.float64 else torch.float32
        more = {"weights": one_each(shape.numel(), g).reshape(shape).to(wide), "mask": some(shape[-1], g, *shape[:-1])}
        return replace(case, kwargs={**case.kwargs, **{name: more[name] for name in names}})

    return make


def tokens(count: int, radius: float, **options: Any) -> CaseMaker:
    """Token features of every item on both sides."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x, y = batches(radius)(n * count, d, g, dtype).args
        return Case((x.view(n, count, d), y.view(n, count, d)), options)

    return make


def captions(columns: float = 1.0, **options: Any) -> CaseMaker:
    """Hidden states, a layer (of `columns` times as many rows) and labels; biased: a bias; ignored: some padding."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        kwargs, size = dict(options), int(n * columns) + 3 * (columns != 1.0)
        hidden, weight = 3.0 * unit_rows(n, d, g, torch.float32), unit_rows(size, d, g, dtype)
        labels = torch.randint(0, size, (n,), generator=g)
        if kwargs.pop("biased", False):
            kwargs["bias"] = torch.randn(size, generator=g).to(dtype if dtype == torch.float64 else torch.float32)
        if kwargs.pop("ignored", False):
            labels[some(n, g).logical_not()] = kwargs["ignore_index"] = 0
            labels[0] = 1
        return Case((hidden.to(dtype), weight, labels), kwargs, 3.0, shared=(1, "bias"))

    return make


def distilled(columns: float = 1.0, views: int = 0, centred: bool = False, **options: Any) -> CaseMaker:
    """Features and prototypes of a student and of a teacher of another width."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        size, of_teacher = int(n * columns) + 3 * (columns != 1.0), min(views, 2)
        student, teacher = unit_rows(n * max(views, 1), d, g, dtype), unit_rows(n * max(of_teacher, 1), d + 3, g, dtype)
        if views:
            student, teacher = student.view(views, n, d), teacher.view(of_teacher, n, d + 3)
        kwargs = {"student_temperature": scalar(0.2), "teacher_temperature": scalar(0.1), **options}
        if centred:
            wide = dtype if dtype == torch.float64 else torch.float32
            kwargs["center"] = (0.3 * torch.randn(size, generator=g)).to(wide)
        args = (student, teacher, unit_rows(size, d, g, dtype), unit_rows(size, d + 3, g, dtype))
        frozen = (1, 3, "center", "teacher_temperature")
        return Case(args, kwargs, 15.0, views=views > 0, frozen=frozen, shared=(2, 3, "center"))

    return make


def as_logits(maker: CaseMaker) -> CaseMaker:
    """The same, with what the features give on some prototypes instead of them."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = maker(n, d, g, dtype)
        student, teacher, *heads = (x.double() for x in case.args)
        args = tuple((x @ w[:20].mT).to(dtype) for x, w in zip((student, teacher), heads, strict=True))
        kwargs = dict(case.kwargs)
        if "center" in kwargs:
            kwargs["center"] = kwargs["center"][:20]
        return replace(case, args=args, kwargs=kwargs)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "barlow_twins_loss", "two views, decorrelated features", "arXiv 2103.03230", "eq. 1", 0,
        {
            "default": correlated(),
            "as they are": correlated(standardize=False),
            "some": each(correlated(), "present"),
        },
    ),
    LossCard(
        "in_modal_consistency", "equal similarities within both modalities", "arXiv 2205.14459", "L_I-Cyclic", 0,
        {"default": batches(), "normalize": batches(1.7, normalize=True), "some": each(batches(), "present")},
    ),
    LossCard(
        "cross_modal_consistency", "symmetric similarities across modalities", "arXiv 2205.14459", "L_C-Cyclic", 0,
        {"default": batches(), "some": each(batches(1.7), "present")},
    ),
    LossCard(
        "grouped_info_nce", "pairs with their own negatives only", "arXiv 2504.16801", "eq. 8", 0,
        {
            "default": own_candidates(0.07, 4),
            "normalize": own_candidates(0.1, 3, 1.7, normalize=True),
            "weights": each(own_candidates(0.1, 5), "weights", "present", "temperature"),
        },
    ),
    LossCard(
        "grouped_margin_loss", "positives that must beat their own negatives", "arXiv 2510.10921", "official code", 0,
        {
            "default": own_candidates(0.1, 4, margin=2.0),
            "weights": each(own_candidates(1.0, 5, margin=0.3), "weights", "present"),
        },
    ),
    LossCard(
        "cosine_loss", "a prediction and its target, no negatives", "arXiv 2011.10566", "eq. 1", 0,
        {
            "default": batches(1.7),
            "negative": batches(1.7, form="negative"),
            "tokens": chosen(tokens(3, 1.7, form="squared"), "mask", "weights"),
        },
    ),
    LossCard(
        "linear_cross_entropy", "captions over a vocabulary", "arXiv 2205.01917", "eq. 3", 6,
        {
            "default": captions(),
            "padding": captions(0.5, biased=True, ignored=True),
            "smoothing": chosen(captions(0.5, biased=True, label_smoothing=0.1), "weights"),
        },
        pairs="NV",
    ),
    LossCard(
        "dino_loss", "a teacher's softmax over prototypes", "arXiv 2104.14294", "algorithm 1", 8,
        {
            "default": distilled(),
            "centre": each(distilled(0.5, centred=True), "weights", "present"),
            "views": distilled(0.5, views=3, centred=True),
            "logits": as_logits(each(distilled(0.5, centred=True), "present")),
            "logits of views": as_logits(distilled(0.5, views=3)),
        },
        pairs="NK",
        forward=4,
    ),
)  # fmt: skip
