"""What moves between ranks, on torch.distributed. Tensors are (rows, ...); ranks may have different numbers of rows.

Every failure of the transport is raised as RankError with what was under way and, where it can be found out, who is
gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .group import Ranks


class RankError(RuntimeError):
    """Another rank failed, is gone, or did not come."""

    known_to_ranks = True


@contextmanager
def failing_as(ranks: Ranks, doing: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        lost = unreachable(ranks)
        who = f"ranks {lost} cannot be reached any more" if lost else "another rank failed or did not come in time"
        raise RankError(f"rank {ranks.rank} of {ranks.size}, {doing}: {who} ({error})") from error


def unreachable(ranks: Ranks) -> list[int]:
    """Ranks whose connection is broken, as far as gloo can tell: a few bytes sent to each."""
    if ranks.control_device().type != "cpu":
        return []
    lost = []
    for rank in range(ranks.size):
        if rank != ranks.rank:
            try:
                work = dist.isend(torch.zeros(1), group=ranks.process_group, group_dst=rank, tag=9)
                if work is not None:
                    work.wait()
            except RuntimeError:
                lost.append(rank)
    return lost


# torch 2.13 deprecates the long names, 2.11 has only those
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)


def all_gather(ranks: Ranks, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """The rows of all ranks, in the order of ranks. sizes: rows of each, where they differ."""
    most = x.shape[0] if sizes is None else max(sizes)
    out = x.new_empty(ranks.size * most, *x.shape[1:])
    if out.numel():
        with failing_as(ranks, "gathering"):
            _all_gather(out, padded(x, most).contiguous(), group=ranks.process_group)
    if sizes is None or min(sizes) == most:
        return out
    return torch.cat([part[:size] for part, size in zip(out.split(most), sizes, strict=True)])


def reduce_scatter(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum over ranks of this rank's part of x, (rows of all ranks, ...)."""
    most, own = max(sizes), sizes[ranks.rank]
    out = x.new_empty(most, *x.shape[1:])
    if out.numel():
        even = x if min(sizes) == most else torch.cat([padded(part, most) for part in x.split(list(sizes))])
        with failing_as(ranks, "adding up gradients"):
            _reduce_scatter(out, even.contiguous(), group=ranks.process_group)
    return out[:own]


def all_reduce(ranks: Ranks, x: Tensor, largest: bool = False) -> Tensor:
    """The sum (or the maximum) over ranks, in place."""
    if x.numel():
        with failing_as(ranks, "reducing"):
            dist.all_reduce(x, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=ranks.process_group)
    return x


def padded(x: Tensor, rows: int) -> Tensor:
    return x if x.shape[0] == rows else torch.cat([x, x.new_zeros(rows - x.shape[0], *x.shape[1:])])


@dataclass
class Transfer:
    """Tensors under way; what is sent is kept until it has left."""

    ranks: Ranks
    works: list[dist.Work]
    sent: list[Tensor]
    received: list[Tensor]

    def wait(self) -> list[Tensor]:
        with failing_as(self.ranks, "passing columns on"):
            for work in self.works:
                work.wait()
        self.sent = []
        return self.received


def shift(ranks: Ranks, tensors: Sequence[Tensor], rows: int, by: int, tag: int) -> Transfer:
    """Starts to send tensors to rank + by and to receive as many, of `rows` rows, from rank - by."""
    sent = [x.contiguous() for x in tensors]
    received = [x.new_empty(rows, *x.shape[1:]) for x in sent]
    to, source = (ranks.rank + by) % ranks.size, (ranks.rank - by) % ranks.size
    group = ranks.process_group
    operations = [dist.P2POp(dist.isend, x, group=group, group_peer=to, tag=tag) for x in sent if x.numel()]
    operations += [dist.P2POp(dist.irecv, x, group=group, group_peer=source, tag=tag) for x in received if x.numel()]
    with failing_as(ranks, "passing columns on"):
        works = dist.batch_isend_irecv(operations) if operations else []
    return Transfer(ranks, works, sent, received)
