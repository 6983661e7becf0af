"""Matryoshka forms: the sum of a loss over prefixes of the features, each normalised anew.

The package's four fused classes want prefixes that are multiples of 64 and end with the whole width; here any will do.
They make one pass per prefix: time grows with the sum of the widths, memory does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ...literals import BackendName
from .losses import (
    MemoryEfficientCLIPLoss,
    MemoryEfficientLiTLoss,
    MemoryEfficientLiTQwen3Loss,
    MemoryEfficientQwen3Loss,
)


def checked_dims(dims: Iterable[int], weights: Iterable[float] | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    widths = tuple(int(m) for m in dims)
    if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
        raise ValueError(f"dims must be positive and strictly increasing, got {widths}")
    shares = (1.0,) * len(widths) if weights is None else tuple(float(w) for w in weights)
    if len(shares) != len(widths):
        raise ValueError(f"weights must be {len(widths)} numbers, one for each of dims, got {len(shares)}")
    return widths, shares


class Prefixes(nn.Module):
    """Sums a loss over prefixes of its features."""

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    def cuts(self, *features: Any) -> Iterator[tuple[float, list[Any]]]:
        """Each weight with the features cut to its width; what is no tensor stays."""
        width = features[0].shape[-1]
        if self.dims[-1] > width:
            raise ValueError(f"dims must be at most the width of the features, {width}, got {self.dims[-1]}")
        for m, weight in zip(self.dims, self.weights, strict=True):
            yield weight, [x[..., :m] if isinstance(x, Tensor) else x for x in features]


class MatryoshkaLoss(Prefixes):
    """Any loss of this module, or another that normalises its features, over prefixes.

    forward(*features, **kwargs): features are cut in their last dimension, keyword arguments are passed on.
    """

    def __init__(self, base_loss: nn.Module, dims: Iterable[int], weights: Iterable[float] | None = None) -> None:
        super().__init__()
        if getattr(base_loss, "normalized_inputs", False):
            raise ValueError("base_loss must have normalized_inputs=False: a prefix of a unit row is none")
        self.base_loss = base_loss
        self.dims, self.weights = checked_dims(dims, weights)

    def forward(self, *features: Any, **kwargs: Any) -> Tensor:
        return sum_of([weight * self.base_loss(*cut, **kwargs) for weight, cut in self.cuts(*features)])

    def extra_repr(self) -> str:
        return f"dims={self.dims}, weights={self.weights}"


def sum_of(losses: list[Tensor]) -> Tensor:
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


class MemoryEfficientMatryoshkaCLIPLoss(Prefixes, MemoryEfficientCLIPLoss):
    """MemoryEfficientCLIPLoss over prefixes; weights default to 1 each."""

    renormalize = True

    def __init__(
        self,
        dims: Iterable[int],
        weights: Iterable[float] | None = None,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        MemoryEfficientCLIPLoss.__init__(
            self, temperature, normalized_inputs, stable, tau_plus, label_smoothing, memory_budget=memory_budget,
            backend=backend,
        )  # fmt: skip
        self.dims, self.weights = checked_dims(dims, weights)

    def forward(self, image_features: Tensor, text_features: Tensor, tau_plus: float | Tensor | None = None) -> Tensor:
        one = super().forward
        return sum_of([w * one(cut[0], cut[1], tau_plus) for w, cut in self.cuts(image_features, text_features)])

    def extra_repr(self) -> str:
        return f"dims={self.dims}, weights={self.weights}, {super().extra_repr()}"


class MemoryEfficientMatryoshkaLiTLoss(MemoryEfficientMatryoshkaCLIPLoss, MemoryEfficientLiTLoss):
    """MemoryEfficientLiTLoss over prefixes. forward(text_features, image_features)."""

    def forward(  # type: ignore[override]  # the package's names and order
        self, text_features: Tensor, image_features: Tensor, tau_plus: float | Tensor | None = None
    ) -> Tensor:
        return super().forward(text_features, image_features, tau_plus)


class MemoryEfficientMatryoshkaQwen3Loss(Prefixes, MemoryEfficientQwen3Loss):
    """MemoryEfficientQwen3Loss over prefixes; every prefix drops negatives by its own similarities."""

    renormalize = True

    def __init__(
        self,
        dims: Iterable[int],
        weights: Iterable[float] | None = None,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        use_dd_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        MemoryEfficientQwen3Loss.__init__(
            self, temperature, margin, use_qq_negatives, use_dd_negatives, normalized_inputs, stable, tau_plus,
            label_smoothing, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.dims, self.weights = checked_dims(dims, weights)

    def forward(
        self,
        query_features: Tensor,
        doc_features: Tensor,
        hard_negative_features: Tensor | None = None,
        tau_plus: float | Tensor | None = None,
    ) -> Tensor:
        one, features = super().forward, (query_features, doc_features, hard_negative_features)
        return sum_of([w * one(cut[0], cut[1], cut[2], tau_plus) for w, cut in self.cuts(*features)])

    def extra_repr(self) -> str:
        return f"dims={self.dims}, weights={self.weights}, {super().extra_repr()}"


class MemoryEfficientMatryoshkaLiTQwen3Loss(MemoryEfficientMatryoshkaQwen3Loss, MemoryEfficientLiTQwen3Loss):
    """MemoryEfficientLiTQwen3Loss over prefixes."""

    def __init__(
        self,
        dims: Iterable[int],
        weights: Iterable[float] | None = None,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            dims, weights, temperature, margin, use_qq_negatives, False, normalized_inputs, stable, tau_plus,
            label_smoothing, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
