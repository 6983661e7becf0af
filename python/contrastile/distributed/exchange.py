"""What ranks that encode together tell each other before a gradient is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist

from ..ranks import RankError

__all__ = ["compare", "tell_failure"]

Said = Sequence[tuple[str | None, Mapping[str, Any]]]  # of every rank: why it failed, or what must be equal


def exchange(group: dist.ProcessGroup, failure: str | None, facts: Mapping[str, Any]) -> Said:
    said: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(said, (failure, facts), group=group)
    except RuntimeError as error:
        raise RankError(f"cached_backward lost the other ranks: {error}") from error
    return said


def compare(groups: Sequence[dist.ProcessGroup], facts: Sequence[Mapping[str, Any]]) -> None:
    """Raises on every rank of a group where a rank has failed or a fact differs. The keys of facts say what every rank
    must do."""
    # every exchange is done before any is judged: a rank that failed takes part in all of them
    for said in [exchange(group, None, own) for group, own in zip(groups, facts, strict=True)]:
        for rank, (failure, _) in enumerate(said):
            if failure is not None:
                raise RankError(f"rank {rank} failed in cached_backward: {failure}")
        for name in said[0][1]:
            found = [facts[name] for _, facts in said]
            if any(value != found[0] for value in found):
                listed = ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(found))
                raise ValueError(f"every rank must {name}, got {listed}")


def tell_failure(groups: Sequence[dist.ProcessGroup], error: Exception) -> None:
    for group in groups:
        exchange(group, f"{type(error).__name__}: {error}", {})
