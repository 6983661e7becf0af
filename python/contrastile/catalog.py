"""One row per loss: where it comes from, its dense reference, and inputs to try it on. Tests, selftest and docs
read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from . import losses, reference


@dataclass(frozen=True)
class Case:
    """Arguments of one call. `magnitude`: the largest |logit|, which sets the size of float32 rounding."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    magnitude: float = 1.0


CaseMaker = Callable[[int, int, Generator, torch.dtype], Case]


@dataclass(frozen=True)
class LossCard:
    """A loss of the package."""

    name: str
    task: str  # what one would use it for
    paper: str
    equation: str
    gemm: int  # forward + backward cost is gemm * N^2 * D FLOP (N: rows the loss works on), 0 = no pairs
    variants: dict[str, CaseMaker]

    @property
    def function(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(losses, self.name))

    @property
    def reference(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(reference, self.name))

    @property
    def module(self) -> type[nn.Module]:
        return next(
            cls
            for cls in vars(losses).values()
            if isinstance(cls, type) and getattr(cls, "function", None) is self.function
        )


def unit_rows(n: int, d: int, g: Generator, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=g), dim=-1).to(dtype)


def related(x: Tensor, g: Generator, noise: float = 0.5) -> Tensor:
    """Unit rows that resemble x's, as the two sides of a trained model do."""
    return F.normalize(x.float() + noise * F.normalize(torch.randn(x.shape, generator=g), dim=-1), dim=-1).to(x.dtype)


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def pair(temperature: float, **options: Any) -> CaseMaker:
    """Two related batches and a temperature that takes a gradient."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        kwargs = {"temperature": scalar(temperature), **options}
        return Case((x, related(x, g)), kwargs, 1.0 / temperature)

    return make


def with_extras(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """`pair` plus any of: negatives, hard_negatives, ids, key_ids, row temperatures."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = pair(temperature, **options)(n, d, g, dtype)
        kwargs = dict(case.kwargs)
        if "negatives" in names:
            kwargs["negatives"] = unit_rows(n // 2 + 3, d, g, dtype)
        if "hard_negatives" in names:
            kwargs["hard_negatives"] = unit_rows(n * 3, d, g, dtype).view(n, 3, d)
        if "ids" in names:
            kwargs["query_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        if "key_ids" in names:
            kwargs["key_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        if "row_temperature" in names:
            kwargs["temperature"] = temperature * (1.0 + torch.rand(n, generator=g))
        return Case(case.args, kwargs, case.magnitude)

    return make


def scaled(scale: float, *, bias: float | None = None, ids: bool = False, **options: Any) -> CaseMaker:
    """Image and text features with logit_scale (and logit_bias) as tensors."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        more = (scalar(bias),) if bias is not None else ()
        kwargs = dict(options)
        if ids:
            kwargs["image_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
            kwargs["text_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        return Case((x, related(x, g), scalar(scale), *more), kwargs, scale + abs(bias or 0.0))

    return make


def labelled(temperature: float, classes: float, views: int = 0) -> CaseMaker:
    """Features of any number of views with labels; classes is relative to n."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n * max(views, 1), d, g, dtype)
        x = x.view(n, views, d) if views else x
        labels = torch.randint(0, int(n * classes) + 1, (n,), generator=g)
        return Case((x, labels), {"temperature": scalar(temperature)}, 1.0 / temperature)

    return make


def points(count: int, radius: float = 1.0, **options: Any) -> CaseMaker:
    """One or two clouds of points, not on the sphere unless radius is 1."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        clouds = tuple((unit_rows(n, d, g, torch.float32) * radius).to(dtype) for _ in range(count))
        return Case(clouds, options, 4.0 * radius**2 * options.get("t", 2.0))

    return make


CATALOG: tuple[LossCard, ...] = (
    LossCard(
        "info_nce", "pairs, retrieval embeddings, hard negatives, queues", "arXiv 1807.03748", "eq. 4", 6,
        {
            "default": pair(0.07),
            "low temperature": pair(0.005),
            "symmetric": pair(0.07, symmetric=True),
            "negatives": with_extras(0.07, "negatives"),
            "hard negatives": with_extras(0.07, "negatives", "hard_negatives"),
            "ids": with_extras(0.07, "ids", "key_ids"),
            "symmetric ids": with_extras(0.05, "ids", symmetric=True),
            "margin": with_extras(0.07, "negatives", false_negative_margin=0.05, symmetric=True),
            "smoothing": with_extras(0.07, "negatives", "hard_negatives", label_smoothing=0.1),
            "symmetric smoothing": with_extras(0.07, "negatives", label_smoothing=0.1, symmetric=True),
            "row temperature": with_extras(0.07, "row_temperature", "negatives"),
            "normalize": pair(0.07, normalize=True),
        },
    ),
    LossCard(
        "clip_loss", "image-text and any two modalities", "arXiv 2103.00020", "figure 3", 8,
        {
            "default": scaled(14.3),
            "scale 100": scaled(100.0),
            "scale 1000": scaled(1000.0),
            "smoothing": scaled(14.3, label_smoothing=0.1),
            "ids": scaled(20.0, ids=True),
        },
    ),
    LossCard(
        "siglip_loss", "image-text without a softmax over the batch", "arXiv 2303.15343", "algorithm 1", 6,
        {
            "default": scaled(10.0, bias=-10.0),
            "no bias": scaled(10.0),
            "scale 100": scaled(100.0, bias=-10.0),
            "ids": scaled(10.0, bias=-3.0, ids=True),
        },
    ),
    LossCard(
        "nt_xent", "self-supervised, two views (SimCLR)", "arXiv 2002.05709", "eq. 1", 4,
        {"default": pair(0.5), "low temperature": pair(0.005), "normalize": pair(0.1, normalize=True)},
    ),
    LossCard(
        "debiased_info_nce", "pairs, negatives that may share a class", "arXiv 2007.00224", "eq. 8", 8,
        {"default": pair(0.5), "sharp": pair(0.07), "prior": pair(0.2, tau_plus=0.02)},
    ),
    LossCard(
        "debiased_nt_xent", "two views, negatives that may share a class", "arXiv 2007.00224", "official code", 4,
        {"default": pair(0.5), "sharp": pair(0.1, tau_plus=0.01)},
    ),
    LossCard(
        "sup_con", "labels: several positives per row", "arXiv 2004.11362", "eq. 2", 4,
        {"default": labelled(0.1, 0.25), "views": labelled(0.07, 0.5, views=2), "rare": labelled(0.1, 3.0)},
    ),
    LossCard(
        "dcl", "two views, small batches", "arXiv 2110.06848", "L_DC", 4,
        {"default": pair(0.1), "low temperature": pair(0.005)},
    ),
    LossCard(
        "dclw", "two views, hard positives weighted", "arXiv 2110.06848", "L_DCW", 4,
        {"default": pair(0.1), "sigma": pair(0.1, sigma=1.0)},
    ),
    LossCard(
        "uniformity", "spread on the sphere, metric or term", "arXiv 2005.10242", "eq. 4", 4,
        {"default": points(1), "not unit": points(1, 1.7), "two sets": points(2), "wide": points(1, t=5.0)},
    ),
    LossCard(
        "alignment", "closeness of positives, metric or term", "arXiv 2005.10242", "eq. 3", 0,
        {"default": points(2), "alpha 1": points(2, alpha=1.0)},
    ),
)  # fmt: skip
