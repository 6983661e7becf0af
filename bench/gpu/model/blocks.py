"""The blocks that the backends cut calls into, as the driver itself cuts them, and how well their output products fill
a device. Features lie on torch's meta device: no memory, and the multiprocessors of an H100."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from contrastile import backends
from contrastile.backends.base import SMALL_ITEMS, SMALL_PAIRS, Backend
from contrastile.backends.waves import Product, fill
from contrastile.driver import Plan
from contrastile.driver.plan import Step
from contrastile.spec import PairCall, PairSpec, Reduce, Score, Side

PROCESSORS = 132


@dataclass(frozen=True)
class Problem:
    """A loss of n rows (of nt_xent: of both views together) and n columns. directions: of a column."""

    loss: str
    n: int
    d: int
    directions: int = 1

    @property
    def square(self) -> bool:
        return self.loss == "nt_xent"

    def spec(self) -> PairSpec:
        reduce = Reduce.SOFTPLUS if self.loss == "siglip_loss" else Reduce.LSE
        score = Score.DOT if self.directions == 1 else Score.SQUARED_DISTANCE
        return PairSpec(reduce, cols=self.loss in ("clip_loss", "gram_loss"), square=self.square, score=score)

    def call(self, dtype: torch.dtype = torch.bfloat16) -> PairCall:
        rows = torch.empty(self.n, self.d, dtype=dtype, device="meta")
        cols = rows if self.directions == 1 else rows.expand(self.directions, -1, -1)
        return PairCall(self.spec(), Side(rows), [Side(cols)])


def backend(name: str) -> Backend:
    return next(x for x in backends.BACKENDS if x.name == name)


def steps(problem: Problem, name: str = "triton") -> list[Step]:
    """Those of a call with gradients. A small call is done at once."""
    n, at_once = problem.n, problem.directions * problem.n**2 <= SMALL_PAIRS and 2 * problem.n <= SMALL_ITEMS
    if at_once and name != "torch":
        return [Step(0, n, 0, 0, n)]
    return list(Plan(problem.call(), backend(name)).steps())


def row_products(problem: Problem, found: list[Step]) -> Iterator[Product]:
    """dA = G B of every block."""
    for step in found:
        yield Product(step.stop - step.start, problem.d, step.last - step.first, problem.directions)


def col_products(problem: Problem, found: list[Step]) -> Iterator[Product]:
    """dB = G^T A."""
    for step in found:
        yield Product(step.last - step.first, problem.d, step.stop - step.start, problem.directions)


@dataclass(frozen=True)
class Fill:
    """Rows and columns of the largest block; what share of the device the products of rows and of columns keep busy."""

    rows: int
    cols: int
    of_rows: float
    of_cols: float


def filled(problem: Problem, name: str = "triton") -> Fill:
    found = steps(problem, name)
    rows, cols = (max(sizes) for sizes in zip(*((x.stop - x.start, x.last - x.first) for x in found), strict=True))
    return Fill(
        rows, cols, fill(row_products(problem, found), PROCESSORS), fill(col_products(problem, found), PROCESSORS)
    )  # fmt: skip
