"""What ranks tell each other before they compute: how many rows each has, what must be equal, whether one has failed.

One all-gather of a few hundred bytes. A rank whose arguments are refused says so in the place of its numbers, so that
the others raise at once instead of waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast
from zlib import crc32

import torch
from torch import Tensor, nn

from ..replay import recorded_call
from . import communication, sharded
from .communication import RankError
from .facts import Fact, fact, listed
from .group import Ranks, resolve
from .sharded import OwnRows

FACTS, SIZES, TEXT = 48, 8, 40  # int64 places of a message: what must be equal, counts, text of a refusal
REFUSED = 1
F = TypeVar("F", bound=Callable[..., Any])
OUTSIDE = (
    "contrastile: with group= the ranks compare sizes first, which no graph can hold; Ranks(sizes=...) promises them"
)
KNOWN = "known_to_ranks"  # attribute of errors that the other ranks are not to be told of


@dataclass(frozen=True)
class Call:
    """What the user called, for messages in the user's words."""

    name: str = ""
    options: str = ""  # name=word of every argument that is a word: all ranks must give the same
    differentiable: str = ""  # names of the arguments that require gradients

    @staticmethod
    def of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Call:
        wanted = [name for key, value in arguments.items() for name in differentiable(key, value)]
        words = [f"{k}={v}" for k, v in arguments.items() if isinstance(v, str) and k not in ("group", "backend")]
        return Call(function.__qualname__, " ".join(words), listed(wanted if torch.is_grad_enabled() else []))

    def text(self) -> str:
        return "|".join((self.name, self.options, self.differentiable))


OUTERMOST: ContextVar[Call | None] = ContextVar("call", default=None)


def differentiable(name: str, value: Any) -> list[str]:
    """The name of an argument, or the names of its parts, that require gradients."""
    if isinstance(value, Tensor):
        return [name] if value.requires_grad else []
    if isinstance(value, nn.Module):
        return [part for part, parameter in value.named_parameters() if parameter.requires_grad]
    if isinstance(value, (tuple, list)):
        return [part for index, x in enumerate(value) for part in differentiable(f"{name}[{index}]", x)]
    return []


def agree(ranks: Ranks, asked: Callable[[], Mapping[str, Fact | int]], sizes: Sequence[int]) -> list[list[int]]:
    """The sizes of every rank, in the order of ranks; raises on every rank where a fact differs or a rank failed.
    asked: the facts, for which nobody asks where sizes are promised."""
    if ranks.sizes is not None:
        return ranks.promised(sizes)
    if len(sizes) > SIZES:
        raise ValueError(f"b must hold at most {SIZES - 1} column blocks with group, got {len(sizes) - 1}")
    facts = asked()
    call, known_facts = OUTERMOST.get() or Call(), {name: fact(value) for name, value in facts.items()}
    message = torch.zeros(2 + FACTS + SIZES + TEXT, dtype=torch.int64)
    message[1] = crc32("|".join((call.name, *facts)).encode())
    message[2 : 2 + len(facts)] = torch.tensor([x.code for x in known_facts.values()], dtype=torch.int64)
    message[2 + FACTS : 2 + FACTS + len(sizes)] = torch.tensor(list(sizes), dtype=torch.int64)
    message[2 + FACTS + SIZES :] = packed(call.text())
    said = exchange(ranks, message)
    refuse_failed(said)
    refuse_different(said, known_facts)
    return [row[2 + FACTS : 2 + FACTS + len(sizes)] for row in said]


def packed(text: str) -> Tensor:
    raw = text.encode()[: 8 * TEXT].ljust(8 * TEXT, bytes(1))
    return torch.tensor(list(raw), dtype=torch.uint8).view(torch.int64)


def unpacked(row: list[int]) -> str:
    raw = torch.tensor(row[2 + FACTS + SIZES :]).view(torch.uint8).tolist()
    return bytes(raw).rstrip(bytes(1)).decode(errors="replace")


def exchange(ranks: Ranks, message: Tensor) -> list[list[int]]:
    return communication.all_gather(ranks, message.to(ranks.control_device()).unsqueeze(0)).tolist()


def refuse_failed(said: list[list[int]]) -> None:
    for rank, row in enumerate(said):
        if row[0] == REFUSED:
            raise RankError(f"rank {rank} refused its arguments: {unpacked(row)}")


def refuse_different(said: list[list[int]], facts: Mapping[str, Fact]) -> None:
    calls = [Call(*unpacked(row).split("|", 2)) for row in said]
    if len({row[1] for row in said}) > 1:
        names = [call.name for call in calls]
        got = by_rank(names) if len(set(names)) > 1 else "different ones"
        raise known(ValueError(f"all ranks must make the same call, got {got}"))
    for words in zip(*(call.options.split() for call in calls), strict=True):
        if len(set(words)) > 1:
            name = words[0].partition("=")[0]
            got = by_rank([repr(word.partition("=")[2]) for word in words])
            raise known(ValueError(f"all ranks must give the same {name}, got {got}"))
    for place, (name, expected) in enumerate(facts.items()):
        codes = [row[2 + place] for row in said]
        if len(set(codes)) > 1:
            wanted = [call.differentiable for call in calls]
            in_users_words = expected.of_arguments and len(set(wanted)) > 1
            got = by_rank(wanted if in_users_words else [expected.show(code) for code in codes])
            raise known(ValueError(f"all ranks must give the same {name}, got {got}"))


def by_rank(values: Sequence[str]) -> str:
    return ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values))


def known(error: Exception) -> Exception:
    setattr(error, KNOWN, True)
    return error


def report_failure(ranks: Ranks, error: Exception) -> None:
    """Tells the other ranks, at their next agreement, why this one does not take part."""
    message = torch.zeros(2 + FACTS + SIZES + TEXT, dtype=torch.int64)
    message[0] = REFUSED
    message[2 + FACTS + SIZES :] = packed(f"{type(error).__name__}: {error}")
    exchange(ranks, message)


@contextmanager
def under_way() -> Iterator[None]:
    """Around work in which ranks wait for each other's results, not for an agreement: a failure cannot be collective,
    the others learn of it by the timeout of the group."""
    try:
        yield
    except Exception as error:
        known(error)
        raise


def collective(function: F) -> F:
    """A function with a `group` argument that tells the ranks of the group if it fails before it meets them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or kwargs.get("group") is not None:
            return with_ranks(*args, **kwargs)
        return recorded_call(function, with_ranks, args, kwargs)

    def with_ranks(*args: Any, **kwargs: Any) -> Any:
        run: Callable[..., Any] = function
        if sharded.among(args, kwargs):
            of_rows = OwnRows(function)  # not kept beside the function: torch.export would have to hold it in a graph
            run, kwargs["group"] = of_rows, of_rows.group(args, kwargs)
        group = kwargs.get("group")
        if group is None:
            return run(*args, **kwargs)
        if torch.compiler.is_compiling() and not (isinstance(group, Ranks) and group.sizes):
            torch._dynamo.graph_break(msg=OUTSIDE)
            return torch._dynamo.disable(with_ranks)(*args, **kwargs)
        ranks = resolve(group)
        assert ranks is not None
        if ranks.sizes is not None:  # nobody waits to be told
            return run(*args, **kwargs)
        try:
            with outermost(function, args, kwargs):
                return run(*args, **kwargs)
        except Exception as error:
            if not getattr(error, KNOWN, False):
                report_failure(ranks, known(error))
            raise

    return cast(F, call)


@contextmanager
def outermost(function: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[None]:
    """Names the call in messages, unless it is one that a named call makes."""
    if OUTERMOST.get() is not None:
        yield
        return
    bound = signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    token = OUTERMOST.set(Call.of(function, bound.arguments))
    try:
        yield
    finally:
        OUTERMOST.reset(token)
