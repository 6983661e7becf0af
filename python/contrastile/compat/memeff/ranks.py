"""memeff's Distributed classes. On one process they are their namesakes; several are not supported yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, distributed

from ..common import refuse_ranks
from .losses import (
    Loss,
    MemoryEfficientCLIPLoss,
    MemoryEfficientLiTLoss,
    MemoryEfficientLiTQwen3Loss,
    MemoryEfficientQwen3Loss,
)
from .matryoshka import (
    MemoryEfficientMatryoshkaCLIPLoss,
    MemoryEfficientMatryoshkaLiTLoss,
    MemoryEfficientMatryoshkaLiTQwen3Loss,
    MemoryEfficientMatryoshkaQwen3Loss,
)


class Ranks(Loss):
    """Refuses a group of several processes where every forward begins, so that forward keeps its signature."""

    group: distributed.ProcessGroup | None

    def pair(self, *features: Any) -> tuple[Tensor, Tensor]:
        alone = not (distributed.is_available() and distributed.is_initialized())
        refuse_ranks("group", 1 if alone else distributed.get_world_size(self.group))
        return super().pair(*features)


class DistributedMemoryEfficientCLIPLoss(Ranks, MemoryEfficientCLIPLoss):
    """MemoryEfficientCLIPLoss for one process."""

    def __init__(
        self,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature, normalized_inputs, stable, tau_plus, label_smoothing, memory_budget=memory_budget,
            backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientLiTLoss(Ranks, MemoryEfficientLiTLoss):
    """MemoryEfficientLiTLoss for one process."""

    def __init__(
        self,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature, normalized_inputs, stable, tau_plus, label_smoothing, memory_budget=memory_budget,
            backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientQwen3Loss(Ranks, MemoryEfficientQwen3Loss):
    """MemoryEfficientQwen3Loss for one process."""

    def __init__(
        self,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        use_dd_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature, margin, use_qq_negatives, use_dd_negatives, normalized_inputs, stable, tau_plus,
            label_smoothing, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientLiTQwen3Loss(Ranks, MemoryEfficientLiTQwen3Loss):
    """MemoryEfficientLiTQwen3Loss for one process."""

    def __init__(
        self,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature, margin, use_qq_negatives, normalized_inputs, stable, tau_plus, label_smoothing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientMatryoshkaCLIPLoss(Ranks, MemoryEfficientMatryoshkaCLIPLoss):
    """MemoryEfficientMatryoshkaCLIPLoss for one process."""

    def __init__(
        self,
        dims: Iterable[int],
        weights: Iterable[float] | None = None,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dims, weights, temperature, normalized_inputs, stable, tau_plus, label_smoothing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientMatryoshkaLiTLoss(Ranks, MemoryEfficientMatryoshkaLiTLoss):
    """MemoryEfficientMatryoshkaLiTLoss for one process."""

    def __init__(
        self,
        dims: Iterable[int],
        weights: Iterable[float] | None = None,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dims, weights, temperature, normalized_inputs, stable, tau_plus, label_smoothing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientMatryoshkaQwen3Loss(Ranks, MemoryEfficientMatryoshkaQwen3Loss):
    """MemoryEfficientMatryoshkaQwen3Loss for one process."""

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
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dims, weights, temperature, margin, use_qq_negatives, use_dd_negatives, normalized_inputs, stable, tau_plus,
            label_smoothing, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group


class DistributedMemoryEfficientMatryoshkaLiTQwen3Loss(Ranks, MemoryEfficientMatryoshkaLiTQwen3Loss):
    """MemoryEfficientMatryoshkaLiTQwen3Loss for one process."""

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
        group: distributed.ProcessGroup | None = None,
        *,
        memory_budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dims, weights, temperature, margin, use_qq_negatives, normalized_inputs, stable, tau_plus, label_smoothing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.group = group
