"""A loss of the catalog computed by all ranks together, as a function of the whole batch.

Every rank takes its rows of the case, calls the loss with `group`, and the mean over ranks is taken of the value and
of every gradient, as data parallelism does. So the result is comparable with the reference of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from contrastile.catalog import Case, LossCard
from contrastile.distributed import Ranks

# of 11 items (2 ranks: 11, 3: 11, 4: 13): uneven, one rank with none, one with one
SIZES = {1: [11], 2: [7, 4], 3: [6, 0, 5], 4: [1, 5, 0, 7]}
OF_NEGATIVES = ("negatives", "negative_ids", "negative_groups", "negative_log_prob", "teacher_negatives")
SHARED = ("permutations",)  # given to every rank as a whole


def span(sizes: Sequence[int], rank: int) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


class Averaged(torch.autograd.Function):
    """The identity, whose gradient is divided by `share` after it has been summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None]:
        total = gout.contiguous().clone()
        dist.all_reduce(total)
        return total / ctx.share, None


class Everywhere(torch.autograd.Function):
    """The sum over ranks divided by `share`; its gradient goes to every rank as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / share

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None]:
        return gout, None


def jointly(
    card: LossCard, case: Case, ranks: Ranks, *, sizes: Sequence[int] | None = None, **options: Any
) -> Callable[..., Tensor]:
    """The loss of a card, as a function of the case's whole arguments. sizes: items of every rank."""
    world, rank = dist.get_world_size(), dist.get_rank()
    sizes = SIZES[world] if sizes is None else sizes
    none = options.get("reduction") == "none"
    share = 1.0 if none else float(world)

    def mine(name: int | str, x: Any, views: bool) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = Averaged.apply(x, share) if x.is_floating_point() else x
        if x.dim() == 0 or name in (*SHARED, *case.shared):
            return x
        if case.versions > 1:  # block by block
            blocks = x.unflatten(0, (case.versions, sum(sizes)))
            return blocks[:, span(sizes, rank)].flatten(0, 1)
        if name in OF_NEGATIVES or not (views or len(x) == sum(sizes)):  # further columns
            cuts = [len(x) * r // world for r in range(world + 1)]
            return x if ranks.replicated_negatives else x[cuts[rank] : cuts[rank + 1]]
        return x[:, span(sizes, rank)] if views else x[span(sizes, rank)]

    def loss(*args: Any, **kwargs: Any) -> Tensor:
        own = [mine(index, x, case.views and x.dim() == 3) for index, x in enumerate(args)]
        named = {
            name: mine(name, x, case.views and name == "present" and x.dim() > 1)
            for name, x in kwargs.items()
            if name != "reduction"
        }
        value = card.function(*own, **named, **options, group=ranks)
        return Everywhere.apply(placed(value, sizes, rank) if none else value, share)

    return loss


def placed(rows: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """This rank's rows among all, one or two (first all of the first view) or more of each item, or (k, N) of k views;
    0 elsewhere."""
    total, n = sum(sizes), sizes[rank]
    if rows.dim() > 1:
        out = rows.new_zeros(rows.shape[0], total)
        out[:, span(sizes, rank)] = rows
        return out
    views = torch.tensor(rows.numel() // n if n else 0)
    dist.all_reduce(views, dist.ReduceOp.MAX)
    out = rows.new_zeros(int(views), total)
    out[:, span(sizes, rank)] = rows.view(int(views), n)
    return out.flatten()
