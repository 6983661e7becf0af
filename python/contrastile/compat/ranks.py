"""Drop-ins across processes: whose features a loss is asked for, and the factors of other packages' conventions.

With `group` a loss of ours is, on each of W ranks, W/N times the sum over its own rows of the N of all ranks, and the
gradients of features are summed over ranks. So the mean over ranks, which DistributedDataParallel takes of gradients,
is that of the global batch. Packages in which every rank computes the loss of the global batch have another value on a
rank, and other gradients of what all ranks share, a temperature say. The means are the same unless a page says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from ..ranks import Group, Ranks, Strategy, communication, resolve


def ranks_of(group: distributed.ProcessGroup | None = None) -> Ranks | None:
    """The ranks of a group (None: of the default one); None where this process is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    ranks = Ranks(group)
    return ranks if ranks.size > 1 else None


def stated_ranks(
    world_size: int, rank: int, group: distributed.ProcessGroup | None = None, strategy: Strategy = "auto"
) -> Ranks | None:
    """The same where a loss is told how many ranks there are and which this one is: both must be so."""
    if world_size <= 1:
        return None
    ranks = resolve(Ranks(group, strategy))
    assert ranks is not None
    if (ranks.size, ranks.rank) != (world_size, rank):
        raise ValueError(
            f"world_size and rank must be those of the process group, {ranks.size} and {ranks.rank}, "
            f"got {world_size} and {rank}"
        )
    return ranks


class MeanValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        return communication.all_reduce(ranks, value.clone()) / ranks.size

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None]:
        return gout, None


class JointGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks, factor: float) -> Tensor:
        ctx.ranks, ctx.factor = ranks, factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None, None]:
        total = communication.all_reduce(ctx.ranks, gout.clone(memory_format=torch.contiguous_format))
        return total * ctx.factor, None, None


def mean_value(value: Tensor, group: Group) -> Tensor:
    """The loss of the global batch, from that of each rank's rows. The gradient is this rank's own, as it was."""
    ranks = resolve(group)
    if ranks is None:
        return value
    mean: Tensor = MeanValue.apply(value, ranks)  # type: ignore[no-untyped-call]
    return mean


def joint_gradient(x: Any, ranks: Ranks | None, factor: float = 1.0) -> Any:
    """x itself, a number that all ranks have; its gradient is `factor` times the sum of all ranks'."""
    return JointGradient.apply(x, ranks, factor) if ranks is not None and isinstance(x, Tensor) else x  # type: ignore[no-untyped-call]
