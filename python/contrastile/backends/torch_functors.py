"""Per-pair mathematics of the reduces in plain torch, each value beside its derivative; as csrc/common/functors.h."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import Reduce

Elementwise = Callable[[Tensor], Tensor]


class Functor(NamedTuple):
    term: Elementwise | None  # what one kept pair adds to a sum of terms; None: the statistic is no such sum
    slope: Elementwise | None  # its derivative
    positive_term: Elementwise  # what one positive pair adds to the sum over positives
    positive_slope: Elementwise | None  # its derivative; None: 1


def identity(z: Tensor) -> Tensor:
    return z


def softplus(z: Tensor) -> Tensor:
    return F.softplus(z, threshold=40.0)  # linear above it, to the last digit of float64; the default of 20 is not


def relu_slope(z: Tensor) -> Tensor:
    return torch.where(z > 0, 1.0, torch.where(z <= 0, 0.0, z))  # NaN stays NaN


FUNCTORS = {
    Reduce.LSE: Functor(None, None, identity, None),
    Reduce.SOFTPLUS: Functor(softplus, torch.sigmoid, lambda z: softplus(-z), lambda z: -torch.sigmoid(-z)),
    Reduce.RELU: Functor(F.relu, relu_slope, identity, None),
    Reduce.MAX: Functor(None, None, identity, None),
}
