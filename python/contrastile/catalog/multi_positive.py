"""Losses of anchors with several positives in another set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, one_each, related, scalar, unit_rows


def several(temperature: float, *names: str, keys: float = 1.0, **options: Any) -> CaseMaker:
    """Queries and keys, as many times the queries as `keys` says, of a few items; with any of: labels (sets), groups,
    negatives, key_weights."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        sizes = {"query": n, "key": int(keys * n), "negative": n // 2 + 3}
        y = related(x, g).repeat(2, 1)[: sizes["key"]] if keys != 1.0 else related(x, g)
        kwargs: dict[str, Any] = {"temperature": scalar(temperature), **options}
        if "negatives" not in names:
            del sizes["negative"]
        else:
            kwargs["negatives"] = unit_rows(sizes["negative"], d, g, dtype)
        for side, size in sizes.items():
            kwargs[f"{side}_ids"] = torch.randint(0, n // 2 + 1, (size,), generator=g)
            if "labels" in names:
                kwargs[f"{side}_labels"] = torch.rand(size, 9, generator=g) < 0.15
            if "groups" in names:
                kwargs[f"{side}_groups"] = torch.randint(0, 2, (size,), generator=g)
        if "key_weights" in names:
            kwargs["key_weights"] = one_each(sizes["key"], g).to(dtype if dtype == torch.float64 else torch.float32)
        args = (x, y, kwargs.pop("query_ids"), kwargs.pop("key_ids"))
        return Case(args, kwargs, 1.0 / temperature)

    return make


def bags(temperature: float, size: int = 3, masked: bool = False, **options: Any) -> CaseMaker:
    """Videos with a bag of texts each, of which some may be missing."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        text = torch.stack([related(x, g) for _ in range(size)], 1)
        kwargs: dict[str, Any] = {"temperature": scalar(temperature), **options}
        if masked:
            kwargs["mask"] = torch.rand(n, size, generator=g) < 0.5
        return Case((x, text), kwargs, 1.0 / temperature)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "multi_positive", "two sets, several positives each", "arXiv 2204.03610", "L_i2t + L_t2i", 8,
        {
            "default": several(0.1),
            "in": several(0.07, keys=1.5, form="in"),
            "each": several(0.1, "groups", "negatives", keys=1.5, form="each"),
            "label sets": several(0.1, "labels", "groups", per_pair=True),
            "queue": each(several(0.07, "negatives", direction="rows", normalize=True), "weights"),
            "detached": each(several(0.1, "key_weights", keys=2.0, detach_keys=True, direction="sum"), "weights"),
        },
        copies=3.5,
    ),
    LossCard(
        "mil_nce", "videos with bags of texts", "arXiv 1912.06430", "eq. 1", 8,
        {
            "default": bags(0.1, 2),
            "both directions": bags(0.07, joint=False, direction="sum"),
            "rows": bags(0.1, joint=False, direction="rows", normalize=True),
            "mask": each(bags(0.1, masked=True), "weights"),
        },
        "k",
    ),
)  # fmt: skip
