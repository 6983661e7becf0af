"""The sum of a loss over prefixes of its features (matryoshka representation learning)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import EngineOptions, Pairs, Prefixes, Weights, check, prefix_sum, stat_dtype
from ..ranks.facts import Fact
from .common import ZERO_ROW, unit, upcast


@dataclass(frozen=True)
class Matryoshka:
    """Prefixes of the features, shortest first, and what each weighs."""

    ends: tuple[int, ...]
    weights: tuple[float, ...]
    normalize: bool  # unit rows of each prefix

    @staticmethod
    def of(ends: Sequence[int] | None, weights: Sequence[float] | None, width: int, normalize: bool) -> Matryoshka:
        """From the arguments `matryoshka` and `matryoshka_weights` of a loss, one of which is given."""
        if ends is None:
            raise ValueError("matryoshka_weights must be None without matryoshka: they would have no effect")
        if not isinstance(ends, (tuple, list)) or any(isinstance(x, bool) or not isinstance(x, int) for x in ends):
            raise TypeError(f"matryoshka must be a tuple of ints, got {ends!r}")
        if not ends or len(set(ends)) < len(ends) or min(ends) < 1 or max(ends) > width:
            raise ValueError(f"matryoshka must be different widths from 1 to {width}, got {ends!r}")
        if weights is None:
            weights = (1.0,) * len(ends)
        if not isinstance(weights, (tuple, list)):
            raise TypeError(f"matryoshka_weights must be a tuple of numbers, got {type(weights).__name__}")
        if len(weights) != len(ends):
            raise ValueError(f"matryoshka_weights must be {len(ends)} numbers, as matryoshka, got {len(weights)}")
        checked = [check.scalar("matryoshka_weights", weight) for weight in weights]
        numbers = [weight for weight in checked if not isinstance(weight, Tensor)]
        if len(numbers) < len(checked):
            raise TypeError("matryoshka_weights must be numbers, got a tensor")
        pairs = sorted(zip(ends, numbers, strict=True))
        return Matryoshka(tuple(end for end, _ in pairs), tuple(weight for _, weight in pairs), normalize)

    def cuts(self) -> Iterator[tuple[float, Callable[[Tensor], Tensor]]]:
        """Each weight with what makes a prefix of whole features."""
        for end, weight in zip(self.ends, self.weights, strict=True):
            yield weight, lambda x, end=end: unit(x[..., :end], self.normalize)  # type: ignore[misc]

    def total(self, loss: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        """The sum of a call for each prefix."""
        parts = [weight * loss(cut) for weight, cut in self.cuts()]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def at_once(self, pairs: Pairs, weights: Weights, engine: EngineOptions) -> Tensor | None:
        """The sum, of whole features, from one product; None where it is not to be had, see ops.prefix_sum."""
        if len(self.ends) == 1 or (self.normalize and self.ends[0] == 1):
            return None  # unit rows of one feature have no gradient: what is 0 must cancel before it is rounded
        scale, cols = check.as_tensor("scale", pairs.scale, pairs.a), None
        if self.normalize:
            norms = self.inverse_norms(pairs.a)
            blocks = [pairs.b] if isinstance(pairs.b, Tensor) else pairs.b
            cols = norms if blocks is None else torch.cat([self.inverse_norms(x) for x in blocks], 1)
            rows = scale * norms
        else:
            rows = scale.to(stat_dtype(pairs.a.dtype)).expand(len(self.ends), pairs.a.shape[0])
        return prefix_sum(pairs, weights, engine, Prefixes(self.ends, self.weights, rows, cols))

    def inverse_norms(self, x: Tensor) -> Tensor:
        """1 / |x_i| of every prefix, (P, N); 0, without gradient, of a row of zeros, as `unit` has it."""
        squares, ends = upcast(x).square(), (0, *self.ends, x.shape[1])
        slices = squares.split([stop - start for start, stop in pairwise(ends)], 1)[:-1]
        return F.threshold(torch.stack([x.sum(1) for x in slices]).cumsum(0), ZERO_ROW**2, torch.inf).rsqrt()


def prefix_facts(prefixes: Matryoshka | None) -> dict[str, Fact]:
    """What all ranks must agree on."""
    code = -1 if prefixes is None else crc32(repr((prefixes.ends, prefixes.weights)).encode())
    return {"matryoshka": Fact(code, lambda code: "not given" if code < 0 else f"widths and weights {code:08x}")}
