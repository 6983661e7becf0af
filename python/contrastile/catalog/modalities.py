"""Losses of three and more modalities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, related, scalar, unit_rows


def tuples(
    count: int, temperatures: dict[str, float], noise: float = 0.5, derived: bool = False, **options: Any
) -> CaseMaker:
    """Matched modalities of the same samples, and temperatures that take a gradient."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        first = unit_rows(n, max(d, 2 * count), g, dtype)  # fewer dimensions than modalities: every volume is 0
        others = [related(first, g, noise) for _ in range(count - 1)]
        kwargs = {name: scalar(value) for name, value in temperatures.items()}
        return Case((first, *others), {**kwargs, **options}, count / min(temperatures.values()), derived=derived)

    return make


def volumes(count: int, temperature: float = 0.07, **options: Any) -> CaseMaker:
    return tuples(count, {"temperature": temperature}, derived=True, **options)


DENSE_TUPLES = 64  # items up to which a reference that holds all N^3 tuples is cheap


def mips(count: int, scale: float, radius: float = 1.0, **options: Any) -> CaseMaker:
    """Modalities of the same items for multilinear inner products, with fixed permutations where they are drawn."""
    every = options.get("negatives") == "n_squared"

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        n = min(n, DENSE_TUPLES) if every else n
        first = unit_rows(n, d, g, torch.float32)
        rows = [(radius * x).to(dtype) for x in (first, *(related(first, g) for _ in range(count - 1)))]
        kwargs = {"logit_scale": scalar(scale), **options}
        if not every:
            orders = [torch.randperm(n, generator=g) for _ in range(count * (count - 1))]
            kwargs["permutations"] = torch.stack(orders).view(count, count - 1, n)
        terms = torch.stack(rows).double().prod(0).abs().sum(1)
        return Case(tuple(rows), kwargs, scale * float(terms.max()))

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "gram_loss", "k modalities, the volume they span with an anchor", "arXiv 2412.11959", "eq. 6", 8,
        {
            "default": volumes(3),
            "two": volumes(2),
            "four": volumes(4),
            "low temperature": volumes(3, 0.005),
            "no smoothing": volumes(5, label_smoothing=0.0),
            "one direction": volumes(3, symmetric=False),
            "detached": volumes(3, detach_keys=True),
            "normalize": volumes(3, normalize=True),
            "weights": each(volumes(3, direction="sum"), "weights"),
            "columns": volumes(3, direction="cols"),
        },
        "(k-1)",
    ),
    LossCard(
        "triangle_loss", "three modalities, the area of their triangle", "arXiv 2509.24734", "official code", 16,
        {
            "default": volumes(3),
            "area": volumes(3, squared=False),
            "low temperature": volumes(3, 0.02, noise=2.0, label_smoothing=0.0),
            "detached": volumes(3, detach_keys=True),
            "weights": each(volumes(3), "weights", "present"),
            "columns": volumes(3, direction="cols"),
        },
        copies=6.0,
    ),
    LossCard(
        "pmrl_loss", "any number of modalities, no anchor", "arXiv 2507.17343", "L_intra + L_inter", 4,
        {
            "default": tuples(3, {"singular_temperature": 0.05, "instance_temperature": 0.1}, noise=2.0),
            "warm": tuples(3, {"singular_temperature": 0.5, "instance_temperature": 0.5}, noise=2.0),
            "two": tuples(2, {"singular_temperature": 0.3, "instance_temperature": 0.2}, noise=1.5),
            "pre-training": tuples(4, {"singular_temperature": 0.01, "instance_temperature": 0.1}),
            "normalize": tuples(3, {"singular_temperature": 0.2, "instance_temperature": 0.3}, noise=1, normalize=True),
            "weights": each(tuples(3, {"singular_temperature": 0.3, "instance_temperature": 0.2}), "weights"),
        },
        copies=5.0,
    ),
    LossCard(
        "symile_loss", "k modalities, one score for all of them", "arXiv 2411.01053", "official code", 8,
        {
            "default": mips(3, 14.3),
            "scale 100": mips(3, 100.0),
            "two": mips(2, 14.3),
            "weights": each(mips(3, 14.3), "weights"),
            "four": mips(4, 50.0),
            "not unit": mips(3, 1.0, radius=8.0),
            "normalize": mips(3, 14.3, radius=3.0, normalize=True),
            "n_squared": mips(3, 14.3, negatives="n_squared"),
            "n_squared scale 100": mips(3, 100.0, negatives="n_squared"),
            "n_squared not unit": mips(3, 1.0, radius=8.0, negatives="n_squared"),
        },
        "k", copies=6.5,
    ),
)  # fmt: skip
