"""A small problem at once, from its tensors straight to the launches: on small batches what the host does is what a
loss costs. What calls of one kind have in common is worked out once and kept, as a Plan."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .base import SmallLoss, SmallWeights, named
from .small import NO_EXTRAS, given_names, taken
from .triton_device import precision
from .triton_given import Setting
from .triton_plan import Plan

KINDS = 256  # of calls, whose plans are kept


class SmallCall(SmallLoss):
    """Calls that differ in numbers, addresses, and torch's switch for TF32 alone. kind: the type features are
    multiplied in."""

    def __init__(self, args: Any, kind: torch.dtype, weights: SmallWeights, needs: Sequence[bool]) -> None:
        self.names = given_names(args, weights)
        _, self.ways = taken(args, kind, self.names, weights)
        self.as_given = not any(self.ways)
        self.numbers = [None if x is None or isinstance(x, Tensor) else float(x) for x in weights]
        self.setting = Setting.of(args, weights, needs, self.names)
        shapes = [named(args, weights, NO_EXTRAS, name).shape for name in self.names]
        self.plans = plans(self.setting, kind, args.a.device, *shapes)

    def of_tensors(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if not self.as_given:
            given = [x if way is None else way(x) for x, way in zip(given, self.ways, strict=True)]
        places = [x.data_ptr() for x in given]
        # what a compiled kernel takes for granted
        alike = (precision(given[0]), *[place % 16 == 0 for place in places])
        plan = self.plans.get(alike)
        if plan is None:
            plan = self.plans[alike] = Plan(self.setting, self.setting.given(given, self.numbers))
        return plan(given, places, self.numbers)


@lru_cache(KINDS)
def plans(*kind: Hashable) -> dict[tuple[Any, ...], Plan]:
    """The plans of a kind of call, once they are made."""
    return {}
