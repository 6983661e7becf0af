"""A first-in first-out queue of features of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check
from ..ranks import GlobalBatch, Group, collective, given
from .base import OWN, Own
from .kept import KeptTensors


class FeatureQueue(KeptTensors):
    """The features of the last `size` samples, first in, first out: negatives that need no encoder.

    Enqueue after backward. `features` is the queue's own memory, not a copy, and enqueue writes into it. A loss that
    still needs it in backward then raises, as torch does for any tensor changed in place; a loss that has already
    formed its gradients (reduction "mean" or "sum") does not notice.

    Args:
        size: How many features it holds at most.
        dim: Their width.
        dtype: float32, bfloat16, float16, or float64: the type of the features it meets; otherwise a loss converts the
            whole queue at every step.
        ids: Keep an integer beside each feature.
        group: Enqueue the features of all ranks, in rank order, so that every rank holds the same queue: for losses
            with group=Ranks(group, replicated_negatives=True). Ranks may bring different numbers.

    State: in state_dict (features, ids, and how many were ever enqueued); there are no buffers, so
    DistributedDataParallel does not send them. The queue follows the module to a device and keeps its dtype.

    Example:
        >>> queue = FeatureQueue(64, 16)
        >>> query, key = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> info_nce(query, key, negatives=queue.features).backward()
        >>> queue.enqueue(key)
        >>> queue.features.shape
        torch.Size([8, 16])

    Source: He et al. 2020 (MoCo), https://arxiv.org/abs/1911.05722, algorithm 1.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        ids: bool = False,
        group: Group = None,
    ) -> None:
        for name, x in (("size", size), ("dim", dim)):
            if isinstance(x, bool) or not isinstance(x, int) or x < 1:
                raise ValueError(f"{name} must be an int >= 1, got {x!r}")
        if dtype not in check.FEATURE_DTYPES:
            raise TypeError(f"dtype must be float32, bfloat16, float16 or float64, got {dtype}")
        tensors = {"all_features": torch.zeros(size, dim, dtype=dtype)}
        if ids:
            tensors["all_ids"] = torch.zeros(size, dtype=torch.int64)
        super().__init__(**tensors, enqueued=torch.zeros((), dtype=torch.int64))
        self.size, self.dim, self.group = size, dim, group

    def __len__(self) -> int:
        """How many features it holds."""
        return min(int(self["enqueued"]), self.size)

    @property
    def features(self) -> Tensor:
        """(len, dim), no copy; in no order of age once the queue has been full."""
        return self["all_features"][: len(self)]

    @property
    def ids(self) -> Tensor:
        """(len,) int64, of the features."""
        if "all_ids" not in self.tensors:
            raise ValueError("ids are not kept: make the queue with ids=True")
        return self["all_ids"][: len(self)]

    def enqueue(self, features: Tensor, ids: Tensor | None = None, *, group: Group | Own = OWN) -> None:
        """Puts a batch in the place of the oldest features; of more than `size` the last stay.

        Args:
            features: (N, dim), of this rank. Their gradient, if any, is not followed.
            ids: (N,) integers, needed if and only if the queue keeps them.
        """
        push(self, features, ids, group=self.group if group is OWN else group)

    def extra_repr(self) -> str:
        ids = ", ids=True" if "all_ids" in self.tensors else ""
        return f"{self.size}, {self.dim}, dtype={self['all_features'].dtype}{ids}, holds {len(self)}"


@collective
@torch.no_grad()
def push(queue: FeatureQueue, features: Tensor, ids: Tensor | None, *, group: Group) -> None:
    own = queue["all_features"]
    x = check.features("features", features)
    if x.shape[1] != queue.dim:
        raise ValueError(f"features must have the width of the queue, {queue.dim}, got {x.shape[1]}")
    if x.device != own.device:
        raise ValueError(f"features must be on {own.device} like the queue, got {x.device}")
    if (ids is None) == ("all_ids" in queue.tensors):
        raise ValueError(f"ids must be {'given' if ids is None else 'None'}: the queue was made with ids={ids is None}")
    batches = {"all_features": x.to(own.dtype)}
    if ids is not None:
        batches["all_ids"] = check.ids("ids", ids, x.shape[0], x.device)
    start = int(queue["enqueued"])
    batch = GlobalBatch.of(
        group, x.shape[0], facts=lambda: dict(size=queue.size, dim=queue.dim, enqueued=start, ids=given(ids))
    )
    batches = {name: batch.gather(new) for name, new in batches.items()}
    for name, new in batches.items():
        write(queue[name], new, start)
    queue["enqueued"].add_(batch.total)


def write(ring: Tensor, new: Tensor, start: int) -> None:
    """Rows of new into the ring from the place `start` on, past its end to its beginning."""
    size, skipped = len(ring), max(len(new) - len(ring), 0)
    new, place = new[skipped:], (start + skipped) % size
    first = min(size - place, len(new))
    ring[place : place + first] = new[:first]
    ring[: len(new) - first] = new[first:]
