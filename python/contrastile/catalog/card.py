"""What is known of a loss, and inputs to try it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from .. import losses, reference


@dataclass(frozen=True)
class Case:
    """Arguments of one call. `magnitude`: the largest |logit|, which sets the size of float32 rounding.
    `views`: the first argument is (k, N, D), not (N, D). `derived`: what is multiplied is computed from the features,
    so half precision rounds once more. `frozen`: places and names of what the loss takes as constant. `shared`: of what
    every rank has as a whole."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    magnitude: float = 1.0
    views: bool = False
    derived: bool = False
    frozen: tuple[int | str, ...] = ()
    shared: tuple[int | str, ...] = ()
    versions: int = 1  # rows of each item

    def constant(self, argument: int | str) -> bool:
        """Whether an argument, by place or name, gets no gradient."""
        return argument in self.frozen or argument in CONSTANTS

    @property
    def n(self) -> int:
        """The size of the batch."""
        return int(self.args[0].shape[1 if self.views else 0]) // self.versions


# arguments that are numbers without a gradient
CONSTANTS = ("weights", "key_weights", "key_log_prob", "negative_log_prob", "share")
PARTS = 3  # of each item, in losses of items and their parts


CaseMaker = Callable[[int, int, Generator, torch.dtype], Case]


@dataclass(frozen=True)
class LossCard:
    """A loss of the package."""

    name: str
    task: str  # what one would use it for
    paper: str
    equation: str
    gemm: int  # forward + backward cost is gemm * N^2 * D FLOP (N: rows the loss works on), 0 = no pairs
    variants: dict[str, CaseMaker]
    times: str = ""  # what multiplies that, for k modalities or views, or L parts of each item
    pairs: str = "N²"  # how many pairs there are, where they are not those of the batch
    stacked: bool = False  # all k views are rows of one matrix: k N rows for a batch of N
    forward: int = 0  # of gemm; 0: a third where scores serve the gradients at once, else a quarter
    words: str = ""  # the cost, where it is not gemm that says it
    copies: float = 3.0  # of 16-dimensional features: no more bytes than these are held for backward

    @property
    def function(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(losses, self.name))

    @property
    def reference(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(reference, self.name))

    @property
    def cost(self) -> str:
        """Forward and backward, in words."""
        if not self.gemm:
            return self.words or "no pairs"
        return " ".join(filter(None, (str(self.gemm), self.times, f"{self.pairs}D")))

    def flop(self, n: int, d: int, k: int, backward: bool = True) -> float:
        """Of the products over all pairs, for k tensors of features (N, D) each."""
        times = {"": 1, "k": k, "(k-1)": k - 1, "(1+(k-1)²)": 1 + (k - 1) ** 2, "L": PARTS}[self.times]
        # backward: both gradients, and once more the scores where they were not differentiated on the way
        forward = self.forward or self.gemm / (3 if self.gemm == 6 else 4)
        gemm = self.gemm if backward else forward
        return float(gemm * times * (n * k if self.stacked else n) ** 2 * d)

    @property
    def module(self) -> type[nn.Module]:
        return next(
            cls
            for cls in vars(losses).values()
            if isinstance(cls, type) and getattr(cls, "function", None) is self.function
        )
