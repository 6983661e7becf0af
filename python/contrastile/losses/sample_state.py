"""What a loss remembers of every sample of a data set: moving averages in logs, temperatures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ops import check
from ..ranks import GlobalBatch
from .kept import KeptTensors


@dataclass(frozen=True)
class Visits:
    """Which samples the joint batch of all ranks holds, in ascending order. Ranks that hold the same state and the same
    visits compute the same bits: all is elementwise, nothing is added up in an order that a device chooses."""

    index: Tensor  # (B,) of samples, ascending
    order: Tensor  # (B,) places in the batch
    last: Tensor  # (B,) where the run of this item's sample ends
    count: Tensor  # (B,) visits of this item's sample

    @staticmethod
    def of(index: Tensor) -> Visits:
        order = index.argsort(stable=True)
        index = index[order]
        last = torch.searchsorted(index, index, right=True) - 1
        return Visits(index, order, last, last + 1 - torch.searchsorted(index, index))

    def mean(self, values: Tensor) -> Tensor:
        """Values (.., B) in the order of the batch, meant over the visits of each sample."""
        return self.scanned(values, torch.add, 0.0) / self.count

    def log_mean(self, logs: Tensor) -> Tensor:
        """The same of numbers given by their logs."""
        return self.scanned(logs, torch.logaddexp, -math.inf) - self.count.to(logs.dtype).log()

    def scanned(self, values: Tensor, join: Join, neutral: float) -> Tensor:
        """The visits of a sample joined, by doubling the reach of each item within its run."""
        x, reach = values[..., self.order], 1
        while reach < self.index.shape[0]:
            same = self.index[reach:] == self.index[:-reach]
            before = torch.where(same, x[..., :-reach], neutral)
            x = torch.cat([x[..., :reach], join(x[..., reach:], before)], -1)
            reach *= 2
        return x[..., self.last]


class Join(Protocol):
    def __call__(self, x: Tensor, y: Tensor, /) -> Tensor: ...


class SampleState(KeptTensors):
    """Numbers of every sample, (sides, samples) float32 each, equal on all ranks: every rank hears of the visits of all
    ranks and makes the same of them. So any rank's state_dict is complete, and serves any number of ranks."""

    def __init__(self, samples: int, sides: int, **start: float) -> None:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be an int >= 1, got {samples!r}")
        self.samples = samples
        tensors = {name: torch.full((sides, samples), value) for name, value in start.items()}
        super().__init__(**tensors, epoch=torch.zeros((), dtype=torch.int64))

    @property
    def device(self) -> torch.device:
        return self["log_mean"].device

    def checked(self, index: Tensor, like: Tensor) -> Tensor:
        """(N,) int64 on the state's device. Numbers on a GPU are not read: one that is out of range fails where the
        state is read first, before anything is written."""
        found = check.ids("index", index, like.shape[0], index.device if isinstance(index, Tensor) else like.device)
        moved = found.to(self.device)
        seen = moved if moved.device.type == "cpu" else found  # either may be there
        if seen.device.type == "cpu" and check.plain(seen):
            outside = (seen < 0) | (seen >= self.samples)
            if bool(outside.any()):
                place = int(outside.int().argmax())
                wrong = int(seen[place])
                raise ValueError(
                    f"index must be from 0 to {self.samples - 1}, one of samples, got {wrong} at place {place}"
                )
        return torch.where(moved < 0, self.samples, moved)

    def of(self, name: str, index: Tensor, like: Tensor) -> Tensor:
        """Numbers of some samples, (sides, N), in like's type and on its device."""
        return self[name][:, index].to(like)

    def visits(self, index: Tensor, values: Tensor, batch: GlobalBatch) -> tuple[Visits, Tensor]:
        """Of all ranks, with their values (K, N) as (K, B) in the order of the batch. No gradient."""
        if batch.ranks is not None:
            index = batch.gather(index.to(values.device))
            values = batch.gather(values.T.contiguous()).T
        return Visits.of(index.to(self.device)), values.to(self.device)

    def write(self, name: str, visits: Visits, values: Tensor) -> None:
        """Values of visited samples, (sides, B); those of one sample are equal. What is not finite is not kept."""
        old = self[name][:, visits.index]
        new = values.to(old.dtype)
        self[name][:, visits.index] = torch.where(new.isfinite(), new, old)


def mixed(log_old: Tensor, log_new: Tensor, gamma: float, warm_start: bool) -> Tensor:
    """log((1 - gamma) old + gamma new); a sample that was never visited has old = 0, and with warm_start is new."""
    if gamma >= 1.0:
        return log_new
    mean = torch.logaddexp(log_old + math.log1p(-gamma), log_new + math.log(gamma))
    return torch.where(log_old == -math.inf, log_new, mean) if warm_start else mean
