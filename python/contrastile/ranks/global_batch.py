"""The global batch of all ranks, as a loss sees it: how many rows there are, and sums over all of them.

Without a group everything here is that of one process. With one, a loss returns
W times its share of the global loss (for "mean" and equal batches: the mean over its own rows), so that the mean over
ranks is the global loss; and gradients of features are summed over ranks. So the mean over ranks of the gradients of
parameters, as data parallelism takes it, is the gradient of the global loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..literals import Reduction
from ..monoid import stat_dtype
from . import in_graph
from .agreement import agree
from .facts import Fact
from .group import Group, Ranks, resolve


@dataclass(frozen=True)
class GlobalBatch:
    """N items in all; this rank has `n` of them, the first with the number `offset`."""

    ranks: Ranks | None
    sizes: tuple[int, ...]
    extra: int = 0  # columns beside the items' that every row meets, of all ranks

    @staticmethod
    def of(group: Group, n: int, extra: int = 0, facts: Callable[[], Mapping[str, Fact | int]] = dict) -> GlobalBatch:
        """n, extra: of this rank. facts: what else all ranks must agree on, asked for only where there are ranks."""
        ranks = None if group is None else resolve(group)
        if ranks is None:
            return GlobalBatch(None, (n,), extra)
        ranks.check_items(n)
        sizes = agree(ranks, facts, [n, extra])
        everywhere = extra if ranks.replicated_negatives else sum(own[1] for own in sizes)
        return GlobalBatch(ranks, tuple(own[0] for own in sizes), everywhere)

    @staticmethod
    def several(
        group: Group, counts: Sequence[int], facts: Callable[[], Mapping[str, Fact | int]] = dict,
        items: int | None = None,
    ) -> list[GlobalBatch]:  # fmt: skip
        """One for each of several kinds of items, of as many as `counts` says on this rank. items: how many of this
        rank's `Ranks.sizes` counts."""
        ranks = resolve(group)
        if ranks is not None and items is not None:
            ranks.check_items(items)
        everywhere = [counts] if ranks is None else agree(ranks, facts, counts)
        return list(map(partial(GlobalBatch, ranks), zip(*everywhere, strict=True)))

    @property
    def rank(self) -> int:
        return 0 if self.ranks is None else self.ranks.rank

    @property
    def n(self) -> int:
        return self.sizes[self.rank]

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def offset(self) -> int:
        return sum(self.sizes[: self.rank])

    def index(self, device: torch.device) -> Tensor:
        """Numbers of this rank's items in the global batch."""
        return torch.arange(self.offset, self.offset + self.n, device=device)

    def weight(self, reduction: Reduction, views: int = 1) -> float:
        """The weight of a row in a scalar reduction; views: rows of each item."""
        return len(self.sizes) / (self.total * views) if reduction == "mean" else float(len(self.sizes))

    def reduced(self, rows: Tensor, reduction: Reduction) -> Tensor:
        """Rows of this rank, as many for each item, reduced over the global batch."""
        if reduction == "none":
            return rows
        if self.ranks is None:
            return rows.mean() if reduction == "mean" else rows.sum()
        return rows.sum() * self.weight(reduction, max(rows.shape[0] // max(self.n, 1), 1))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks of tensors of one shape."""
        return x if self.ranks is None else sum_over_ranks(self.ranks, x)

    def column_sum(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """The sum of all items' rows, and of the extra columns, (D,), in the type of the statistics."""
        kind = stat_dtype(x.dtype)
        total = x.to(kind).sum(0)
        if extra is None:
            return self.sum(total)
        more = extra.to(kind).sum(0)
        replicated = self.ranks is not None and self.ranks.replicated_negatives
        return self.sum(total) + more if replicated else self.sum(total + more)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of all items' rows, (D,), without gradient."""
        return self.column_sum(x.detach().contiguous()) / max(self.total, 1)

    def logsumexp(self, rows: Tensor) -> Tensor:
        """Over the rows of all ranks, (rows,) each."""
        if self.ranks is None:
            return torch.logsumexp(rows, 0)
        own = torch.logsumexp(rows, 0) if rows.shape[0] else rows.sum() - torch.inf
        return torch.logsumexp(rows_of_all_ranks(self.ranks, own.unsqueeze(0), [1] * len(self.sizes)), 0)

    def gather(self, x: Tensor) -> Tensor:
        """The rows (n, ...) of all ranks."""
        return x if self.ranks is None else rows_of_all_ranks(self.ranks, x, self.sizes)

    def gather_negatives(self, x: Tensor) -> Tensor:
        """The rows of all ranks of further columns, of which a rank may have all."""
        return x if self.ranks is not None and self.ranks.replicated_negatives else self.gather(x)

    def from_first(self, x: Tensor) -> Tensor:
        """What the first rank has; all others bring a tensor of that shape."""
        if self.ranks is None:
            return x
        return in_graph.all_reduce(self.ranks, x if self.rank == 0 else torch.zeros_like(x))


class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, x: Tensor) -> Tensor:
        ctx.ranks = ranks
        return in_graph.all_reduce(ranks, x)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[None, Tensor]:
        return None, in_graph.all_reduce(ctx.ranks, gout)


class Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, sizes: Sequence[int], x: Tensor) -> Tensor:
        ctx.ranks, ctx.sizes = ranks, sizes
        return in_graph.all_gather(ranks, x, sizes)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[None, None, Tensor]:
        return None, None, in_graph.reduce_scatter(ctx.ranks, gout, ctx.sizes)


def sum_over_ranks(ranks: Ranks, x: Tensor) -> Tensor:
    """Every rank gets the sum; its gradient is the sum of all ranks' gradients."""
    value: Tensor = Sum.apply(ranks, x)  # type: ignore[no-untyped-call]
    return value


def rows_of_all_ranks(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Every rank gets all rows; a row's gradient is the sum of all ranks' gradients of it."""
    value: Tensor = Rows.apply(ranks, sizes, x)  # type: ignore[no-untyped-call]
    return value
