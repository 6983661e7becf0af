"""memeff's Distributed classes: the losses of the global batch of all ranks of `group`.

As in the package, forward returns this rank's partial loss: the sum over its own rows, divided by the rows of all. The
sum over ranks is the global loss, and features get that sum's gradient. Where gradients of parameters are averaged over
W ranks, as DistributedDataParallel does, they are 1/W of those of the global loss.
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from torch import Tensor, distributed

from ...ranks import GlobalBatch, Group, collective
from ..ranks import ranks_of
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
    """Comes before a class of this package: adds `group` (None: the default group) after its positional arguments."""

    group: distributed.ProcessGroup | None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Ranks not in cls.__bases__:  # of a user's, below one of the classes here
            return
        own = signature(cls.__bases__[1])
        given = list(own.parameters.values())
        last = sum(p.kind == Parameter.POSITIONAL_OR_KEYWORD for p in given)
        group = Parameter("group", Parameter.POSITIONAL_OR_KEYWORD, default=None)
        cls.__signature__ = own.replace(parameters=[*given[:last], group, *given[last:]])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = signature(type(self)).bind(*args, **kwargs).arguments
        group = given.pop("group", None)
        super().__init__(**given)
        self.group = group

    def pair(self, *features: Any) -> tuple[Tensor, Tensor]:
        return self.told_pair(*features, group=ranks_of(self.group))

    @collective
    def told_pair(self, *features: Any, group: Group) -> tuple[Tensor, Tensor]:
        """`pair`, whose errors the other ranks learn of."""
        return super().pair(*features)

    def batch(self, n: int) -> GlobalBatch:
        return GlobalBatch.of(ranks_of(self.group), n)


class DistributedMemoryEfficientCLIPLoss(Ranks, MemoryEfficientCLIPLoss):
    """MemoryEfficientCLIPLoss of all ranks."""


class DistributedMemoryEfficientLiTLoss(Ranks, MemoryEfficientLiTLoss):
    """MemoryEfficientLiTLoss of all ranks."""


class DistributedMemoryEfficientQwen3Loss(Ranks, MemoryEfficientQwen3Loss):
    """MemoryEfficientQwen3Loss of all ranks."""


class DistributedMemoryEfficientLiTQwen3Loss(Ranks, MemoryEfficientLiTQwen3Loss):
    """MemoryEfficientLiTQwen3Loss of all ranks."""


class DistributedMemoryEfficientMatryoshkaCLIPLoss(Ranks, MemoryEfficientMatryoshkaCLIPLoss):
    """MemoryEfficientMatryoshkaCLIPLoss of all ranks."""


class DistributedMemoryEfficientMatryoshkaLiTLoss(Ranks, MemoryEfficientMatryoshkaLiTLoss):
    """MemoryEfficientMatryoshkaLiTLoss of all ranks."""


class DistributedMemoryEfficientMatryoshkaQwen3Loss(Ranks, MemoryEfficientMatryoshkaQwen3Loss):
    """MemoryEfficientMatryoshkaQwen3Loss of all ranks."""


class DistributedMemoryEfficientMatryoshkaLiTQwen3Loss(Ranks, MemoryEfficientMatryoshkaLiTQwen3Loss):
    """MemoryEfficientMatryoshkaLiTQwen3Loss of all ranks."""
