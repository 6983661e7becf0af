"""What ranks send each other, as it is, or as operators of a graph that torch.compile makes.

An operator hides the communication and names the group. The ranks of a group must send in one order; what a compiler
may do with operators that need nothing of each other, it may do in another order where a rank has other sizes. So they
have an ordered effect: they stay in the order of the program, in forward and in backward, and none is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op

from . import communication
from .group import STRATEGIES, WORLD, Ranks

LIB = torch.library.Library("contrastile", "FRAGMENT")
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe)
RANKS = "str group, int strategy, bool replicated_negatives"  # in a schema
HANDLE = 3  # arguments of it
NAMES: list[str] = []  # of all operators that are registered here


def handle(ranks: Ranks) -> tuple[str, int, bool]:
    """Ranks as operators take them. The default group has no name: it is that of the time of a call."""
    group = ranks.process_group
    return "" if group is None else group.group_name, STRATEGIES.index(ranks.strategy), ranks.replicated_negatives


def ranks_of(group: str, strategy: int, replicated_negatives: bool) -> Ranks:
    named: Any = dist.distributed_c10d  # torch's own functional collectives look up names there
    found = named._resolve_process_group(group) if group else WORLD
    return Ranks(found, STRATEGIES[strategy], replicated_negatives)


def register(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """An operator that stays in its place among those that communicate."""
    LIB.define(f"{name}{schema}", tags=TAGS)
    LIB.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)
    _register_effectful_op(getattr(torch.ops.contrastile, name).default, _EffectType.ORDERED)
    NAMES.append(name)


def run(name: str, ranks: Ranks, *others: Any) -> Any:
    return getattr(torch.ops.contrastile, name).default(*handle(ranks), *others)


def all_reduce(ranks: Ranks, x: Tensor) -> Tensor:
    """The sum over ranks."""
    if torch.compiler.is_compiling():
        return run("ranks_sum", ranks, x)  # type: ignore[no-any-return]
    return communication.all_reduce(ranks, x.clone(memory_format=torch.contiguous_format))


def all_gather(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    if torch.compiler.is_compiling():
        return run("ranks_gather", ranks, x, list(sizes))  # type: ignore[no-any-return]
    return communication.all_gather(ranks, x, sizes)


def reduce_scatter(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    if torch.compiler.is_compiling():
        return run("ranks_scatter", ranks, x, list(sizes))  # type: ignore[no-any-return]
    return communication.reduce_scatter(ranks, x, sizes)


def of_ranks(function: Callable[..., Any]) -> Callable[..., Any]:
    """What an operator runs."""
    return lambda *given: function(ranks_of(*given[:HANDLE]), *given[HANDLE:])


def fake_sum(ranks: Ranks, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def fake_gather(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    return x.new_empty(sum(sizes), *x.shape[1:])


def fake_scatter(ranks: Ranks, x: Tensor, sizes: Sequence[int]) -> Tensor:
    return x.new_empty(sizes[ranks.rank], *x.shape[1:])


for name, more, implementation, fake in (
    ("ranks_sum", "Tensor x", all_reduce, fake_sum),
    ("ranks_gather", "Tensor x, SymInt[] sizes", all_gather, fake_gather),
    ("ranks_scatter", "Tensor x, SymInt[] sizes", reduce_scatter, fake_scatter),
):
    register(name, f"({RANKS}, {more}) -> Tensor", of_ranks(implementation), of_ranks(fake))
