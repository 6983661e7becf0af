"""What ranks tell each other before they compute: how many rows each has, what must be equal, whether one has failed.

One all-gather of a few hundred bytes. A rank whose arguments are refused says so in the place of its numbers, so that
the others raise at once instead of waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast
from zlib import crc32

import torch
from torch import Tensor

from . import wire
from .group import Ranks, resolve
from .wire import RankError

FACTS, SIZES, TEXT = 32, 8, 40  # int64 places of a message: what must be equal, counts, text of a refusal
REFUSED = 1
F = TypeVar("F", bound=Callable[..., Any])
KNOWN = "known_to_ranks"  # attribute of errors that the other ranks are not to be told of


def agree(ranks: Ranks, facts: Mapping[str, int], sizes: Sequence[int]) -> list[list[int]]:
    """The sizes of every rank, in the order of ranks; raises on every rank where a fact differs or a rank failed."""
    if len(sizes) > SIZES:
        raise ValueError(f"b must hold at most {SIZES - 1} column blocks with group, got {len(sizes) - 1}")
    message = torch.zeros(2 + FACTS + SIZES + TEXT, dtype=torch.int64)
    message[1] = crc32("|".join(facts).encode())
    message[2 : 2 + len(facts)] = torch.tensor(list(facts.values()), dtype=torch.int64)
    message[2 + FACTS : 2 + FACTS + len(sizes)] = torch.tensor(list(sizes), dtype=torch.int64)
    said = exchange(ranks, message)
    refuse_failed(said)
    refuse_different(said, facts)
    return [row[2 + FACTS : 2 + FACTS + len(sizes)] for row in said]


def exchange(ranks: Ranks, message: Tensor) -> list[list[int]]:
    return wire.all_gather(ranks, message.to(ranks.control_device()).unsqueeze(0)).tolist()


def refuse_failed(said: list[list[int]]) -> None:
    for rank, row in enumerate(said):
        if row[0] == REFUSED:
            raw = torch.tensor(row[2 + FACTS + SIZES :]).view(torch.uint8).tolist()
            raise RankError(
                f"rank {rank} refused its arguments: {bytes(raw).rstrip(bytes(1)).decode(errors='replace')}"
            )


def refuse_different(said: list[list[int]], facts: Mapping[str, int]) -> None:
    if len({row[1] for row in said}) > 1:
        raise known(ValueError("all ranks must make the same call, got different ones"))
    for place, name in enumerate(facts):
        values = [row[2 + place] for row in said]
        if len(set(values)) > 1:
            listed = ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values))
            raise known(ValueError(f"all ranks must give the same {name}, got {listed}"))


def known(error: Exception) -> Exception:
    setattr(error, KNOWN, True)
    return error


def announce(ranks: Ranks, error: Exception) -> None:
    """Tells the other ranks, at their next agreement, why this one does not take part."""
    text = f"{type(error).__name__}: {error}".encode()[: 8 * TEXT].ljust(8 * TEXT, bytes(1))
    message = torch.zeros(2 + FACTS + SIZES + TEXT, dtype=torch.int64)
    message[0] = REFUSED
    message[2 + FACTS + SIZES :] = torch.tensor(list(text.ljust(8 * TEXT, bytes(1))), dtype=torch.uint8).view(
        torch.int64
    )
    exchange(ranks, message)


@contextmanager
def under_way() -> Iterator[None]:
    """Around work in which ranks wait for each other's results, not for an agreement: a failure cannot be announced,
    the others learn of it by the timeout of the group."""
    try:
        yield
    except Exception as error:
        known(error)
        raise


def announced(function: F) -> F:
    """A function with a `group` argument that tells the ranks of the group if it fails before it meets them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("group") is None:
            return function(*args, **kwargs)
        ranks = resolve(kwargs["group"])
        assert ranks is not None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not getattr(error, KNOWN, False):
                announce(ranks, known(error))
            raise

    return cast(F, call)
