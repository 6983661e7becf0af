"""Makers of cases that several families use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .card import Case, CaseMaker


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
    """`pair` plus any of: negatives, hard_negatives, ids, key_ids, groups, row temperatures."""

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
        if "groups" in names:
            kwargs["query_groups"] = torch.randint(0, 3, (n,), generator=g)
            kwargs["negative_groups"] = torch.randint(0, 3, (len(kwargs["negatives"]),), generator=g)
        if "row_temperature" in names:
            kwargs["temperature"] = temperature * (1.0 + torch.rand(n, generator=g))
        return Case(case.args, kwargs, case.magnitude)

    return make


def scaled(scale: float, *, bias: float | None = None, equal: str = "", **options: Any) -> CaseMaker:
    """Image and text features with logit_scale (and logit_bias) as tensors; equal: "ids", "groups" or "labels" of both
    sides."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        more = (scalar(bias),) if bias is not None else ()
        kwargs = dict(options)
        for side in ("image", "text") if equal else ():
            kwargs[f"{side}_{equal}"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        return Case((x, related(x, g), scalar(scale), *more), kwargs, scale + abs(bias or 0.0))

    return make


def over_prefixes(maker: CaseMaker) -> CaseMaker:
    """A case whose loss is the sum over three prefixes of the features, of fewer where there are no more."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case, widths = maker(n, d, g, dtype), sorted({(d + 2) // 3, (2 * d + 2) // 3, d})
        more = {"matryoshka": widths, "matryoshka_weights": [1.0, 0.5, 2.0][: len(widths)]}
        return replace(case, kwargs={**case.kwargs, **more})

    return make


def one_each(n: int, g: Generator, low: float = 0.0, high: float = 2.0) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g)


def some(n: int, g: Generator, *shape: int) -> Tensor:
    """Which items are there: most, and some of them always."""
    found = torch.rand(*shape, n, generator=g) < 0.8
    found[..., : min(n, 2)] = True
    return found


ROW_OPTIONS: dict[str, Callable[[int, Generator], Tensor]] = {
    "weights": one_each,
    "present": some,
    "temperature": lambda n, g: one_each(n, g, 0.05, 0.1),
    "key_temperature": lambda n, g: one_each(n, g, 0.05, 0.1),
    "logit_scale": lambda n, g: one_each(n, g, 5.0, 15.0),
    "text_logit_scale": lambda n, g: one_each(n, g, 5.0, 15.0),
}


def each(maker: CaseMaker, *names: str) -> CaseMaker:
    """A case with options that have one number for each item, by name."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = maker(n, d, g, dtype)
        wide = dtype if dtype == torch.float64 else torch.float32
        more = {name: ROW_OPTIONS[name](case.n, g) for name in names}
        more = {name: x.to(wide) if x.is_floating_point() else x for name, x in more.items()}
        args = case.args
        if "logit_scale" in more:  # comes by place
            args = (*args[:2], more.pop("logit_scale"), *args[3:])
        return replace(case, args=args, kwargs={**case.kwargs, **more})

    return make
