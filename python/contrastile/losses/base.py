"""What the modules of losses/modules.py have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from inspect import signature
from typing import ClassVar, Final, TypeVar

import torch
from torch import Tensor, nn

from ..ops import check
from ..ranks import group_text
from .common import upcast


class Own(Enum):
    """The default of what forward takes in place of an option for one call: the module's own is meant."""

    OWN = "own"

    def __repr__(self) -> str:
        return self.name


OWN: Final = Own.OWN
T = TypeVar("T")


class LossModule(nn.Module):
    """A loss with its options as attributes, some of whose factors are learned.

    A learned factor is a parameter in log space, `log_<name>`, so that it stays positive; its own attribute is None.
    Without it the module has no parameters and an empty state_dict.
    """

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self) -> None:
        super().__init__()
        self.learns: dict[str, str] = {}  # what is learned, and the name of its parameter

    def learn(self, name: str, start: float) -> None:
        """From now on the factor is learned, and begins at `start`."""
        value = check.scalar(name, start, positive=True)
        self.learns[name] = f"log_{name}"
        self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))

    def learn_offset(self, name: str, start: float) -> None:
        """The same for a number of any sign: a parameter of its name."""
        value = check.scalar(name, start)
        self.learns[name] = name
        self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def learned(self) -> dict[str, Tensor]:
        """The values of what is learned, by name."""
        return {name: self.value(name) for name in self.learns}

    def value(self, name: str) -> Tensor:
        parameter: Tensor = getattr(self, self.learns[name])
        return parameter if self.learns[name] == name else upcast(parameter).exp()

    def factor(self, name: str, given: float | Tensor | Own | None) -> float | Tensor | None:
        """For one call: what is learned, else what is given, else what the module has."""
        if name in self.learns:
            if given is not OWN:
                raise ValueError(f"{name} must not be given: the module learns it")
            return self.value(name)
        own: float | None = getattr(self, name)
        return own if given is OWN else given

    def needed(self, name: str, given: float | Tensor | Own) -> float | Tensor:
        """`factor`, of what the function cannot do without."""
        found = self.factor(name, given)
        if found is None:
            raise self.missing(name)
        return found

    def required(self, name: str, given: T | Own) -> T:
        """For one call, an option that has no default: what is given, else what the module has."""
        found: T | None = getattr(self, name) if given is OWN else given
        if found is None:
            raise self.missing(name)
        return found

    def missing(self, name: str) -> TypeError:
        return TypeError(f"{name} must be given: to forward, or to the constructor of {type(self).__name__}")

    def extra_repr(self) -> str:
        shown = [f"learned {name}={float(value.detach()):.4g}" for name, value in self.learned().items()]
        kept = vars(self)  # by the function's names: a subclass may have another constructor
        for name in signature(type(self).function).parameters:
            if name == "group" and name in kept:
                shown.append(f"group={group_text(kept[name])}")
            elif kept.get(name) is not None:
                shown.append(f"{name}={kept[name]!r}")
        return ", ".join(shown)
