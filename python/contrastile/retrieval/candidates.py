"""The arguments that retrieval functions share: queries, what they choose from, and the engine's rules between both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import Keep, Positives
from ..losses.common import upcast
from ..losses.triangle import lines
from ..losses.tuples import Columns, check_tuples
from ..losses.volume import spans
from ..ops import EngineOptions, Pairs, Stream, check
from ..ops.arguments import arguments
from ..ops.rules import PerBlock
from ..ranks import Group

Gallery: TypeAlias = Tensor | Sequence[Tensor] | None
RetrievalScore: TypeAlias = Literal["dot", "volume", "area", "squared_area"]
SCORES = get_args(RetrievalScore)


@dataclass(slots=True)
class Candidates:
    """Not yet checked. Fields that are not listed here are those of ops.Pairs."""

    query: Tensor
    gallery: Gallery
    score: RetrievalScore = "dot"
    keep: Keep = "all"
    row_ids: Tensor | None = None
    col_ids: PerBlock | None = None
    row_groups: Tensor | None = None
    col_groups: PerBlock | None = None
    row_labels: Tensor | None = None
    col_labels: PerBlock | None = None
    partner: Tensor | None = None
    low: float | Tensor | None = None
    high: float | Tensor | None = None
    col_bias: Tensor | None = None
    mask: Tensor | None = None
    group: Group = None
    positives: Positives | None = None
    scale: float | Tensor = 1.0

    def stream(self) -> tuple[Pairs, Stream]:
        pairs, engine = self.pairs()
        return pairs, Stream(arguments(pairs, engine), engine.ranks)

    def pairs(self) -> tuple[Pairs, EngineOptions]:
        """Checked. Columns of a gallery that is None are the queries; none of them is its own candidate."""
        check.choice("score", self.score, SCORES)
        query, engine = check.features("query", self.query), EngineOptions.of(None, "torch", self.group)
        pairs = Pairs(query, keep=self.keep, positives=self.positives, scale=self.scale, mask=self.mask)
        for name in ("ids", "groups", "labels"):
            setattr(pairs, f"row_{name}", getattr(self, f"row_{name}"))
            setattr(pairs, f"col_{name}", getattr(self, f"col_{name}"))
        pairs.partner = self.partner
        if self.score == "dot":
            pairs.b, pairs.col_bias = self.columns(pairs), self.col_bias
        else:
            engine.compute_dtype = self.set_tuples(pairs)
        limits = between(self.low, self.high, query)
        pairs.row_low, pairs.row_high = (None if x is None else x * self.scale for x in limits)
        return pairs, engine

    def columns(self, pairs: Pairs) -> list[Tensor]:
        """Of dot products, in blocks."""
        if self.gallery is None:
            pairs.keep = never_itself(self.keep)
            for name in ("ids", "groups", "labels"):
                if getattr(pairs, f"col_{name}") is not None:
                    raise ValueError(f"col_{name} must be None without a gallery: the queries have row_{name}")
                setattr(pairs, f"col_{name}", getattr(pairs, f"row_{name}"))
            return [self.query]
        blocks = listed(self.gallery)
        if not blocks:
            raise ValueError("gallery must hold at least one tensor, got none")
        for index, block in enumerate(blocks):
            name = "gallery" if len(blocks) == 1 else f"gallery[{index}]"
            check.features(name, block)
            check.same_width(name, block, "query", self.query)
            check.same_device(name, block, self.query.device)
        return blocks

    def set_tuples(self, pairs: Pairs) -> torch.dtype:
        """Minus the volume or area of every query with the tuples of the gallery. The type that all of them have."""
        if self.col_bias is not None:
            raise ValueError(f"col_bias must be None with score={self.score!r}")
        others = [] if self.gallery is None else listed(self.gallery)
        volume = self.score == "volume"
        if len(others) != 2 and not (volume and others):
            wanted = "at least one tensor" if volume else "two tensors"
            raise ValueError(f"gallery must be {wanted} with score={self.score!r}, got {len(others)}")
        names = ["query", *(f"gallery[{i}]" for i in range(len(others)))]
        query, *others = check_tuples(names, [self.query, *others])
        columns: Columns = spans(others) if volume else lines(others[0], others[1], self.score == "squared_area")
        wide = upcast(query)
        pairs.a, pairs.b, pairs.scale = wide, columns.directions, -1.0 * self.scale
        pairs.col_scale, pairs.row_bias, pairs.col_bias = columns.factor, wide.square().sum(1), columns.norm
        pairs.score, pairs.offset = columns.score, columns.offset
        return query.dtype


def listed(gallery: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return list(gallery) if isinstance(gallery, (list, tuple)) else [gallery]  # type: ignore[list-item]


def never_itself(keep: Keep) -> Keep:
    if keep == "all":
        return "other_index"
    names = keep if isinstance(keep, tuple) else (keep,)
    return names if "other_index" in names else (*names, "other_index")


def between(
    low: float | Tensor | None, high: float | Tensor | None, query: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Both thresholds of each query, checked under the names that users know."""
    least, most = limit("low", low, query), limit("high", high, query)
    if least is not None and most is not None:
        check.condition("low must not be above high", ~(least > most))
    return least, most


def limit(name: str, x: float | Tensor | None, query: Tensor) -> Tensor | None:
    """A threshold for each query."""
    if x is None:
        return None
    value = check.scalar(name, x, device=query.device) if not isinstance(x, Tensor) or x.dim() == 0 else x
    if isinstance(value, Tensor) and value.dim():
        return check.vector(name, value, query.shape[0], query.device)
    return check.as_tensor(name, value, query).expand(query.shape[0])


def count(name: str, x: int) -> int:
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"{name} must be an int, got {type(x).__name__}")
    if x < 1:
        raise ValueError(f"{name} must be >= 1, got {x}")
    return x
