"""What the modules of losses/modules.py have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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
        self.max_scale: float | None = None

    def learn(self, name: str, start: float) -> None:
        """From now on the factor is learned, and begins at `start`."""
        value = float(check.scalar(name, start, positive=True))
        if self.max_scale is not None and as_scale(name, value) > self.max_scale * (1.0 + 1e-6):
            raise ValueError(f"{name} must start within max_scale={self.max_scale:g}, got {start}")
        self.learns[name] = f"log_{name}"
        self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))

    def bound(self, max_scale: float | None, **learns: bool) -> None:
        """Keeps the scale (the inverse of a temperature) that will be learned at or below max_scale, if it is learned;
        learns: the constructor's switch."""
        if max_scale is None:
            return
        value = float(check.scalar("max_scale", max_scale, positive=True))
        ((switch, on),) = learns.items()
        if not on:
            raise ValueError(f"max_scale must not be given without {switch}=True: it would have no effect")
        self.max_scale = value

    @torch.no_grad()
    def clamp(self, name: str) -> None:
        """Brings a log-parameter back within max_scale, as CLIP's loop does after a step. A clamp of the value alone
        would leave it outside, without a gradient to come back by."""
        if self.max_scale is not None and self.learns[name] != name:
            limit, parameter = math.log(self.max_scale), getattr(self, self.learns[name])
            parameter.clamp_(min=-limit) if name == "temperature" else parameter.clamp_(max=limit)

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
            self.clamp(name)
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
        # by the function's names: a subclass may have another constructor
        return self.shown([*signature(type(self).function).parameters, "max_scale"])

    def shown(self, names: Iterable[str]) -> str:
        """What is learned, and those options by name that are not None."""
        shown = [f"learned {name}={float(value.detach()):.4g}" for name, value in self.learned().items()]
        kept = vars(self)
        for name in names:
            if name == "group" and name in kept:
                shown.append(f"group={group_text(kept[name])}")
            elif kept.get(name) is not None:
                shown.append(f"{name}={kept[name]!r}")
        return ", ".join(shown)


def as_scale(name: str, value: float) -> float:
    """What multiplies scores, of a factor by its name."""
    return 1.0 / value if name == "temperature" else value
