"""Rows that come as a DTensor: this rank's own, and the group of its mesh.

A DTensor sharded by Shard(0) along a mesh of one dimension stands for the rows that this rank holds. Its gradient comes
back as a DTensor of the same placement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import CO_VARARGS
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from .group import Group, group_of, resolve

MODULE = "torch.distributed.tensor"  # not imported where nobody has made a DTensor
# what every rank has as a whole: no rows
WHOLE = {"bias", "center", "codebook", "permutations", "prototypes", "teacher_prototypes", "weight"}
ADVICE = "x.redistribute(placements=[Shard(0)]) gives every rank its rows"


def is_distributed(x: Any) -> bool:
    """Whether x is a DTensor."""
    return isinstance(x, Tensor) and MODULE in sys.modules and isinstance(x, sys.modules[MODULE].DTensor)


def among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether there is a DTensor in the arguments of a call, or in a list there. Asked at every call, so in a loop."""
    module = sys.modules.get(MODULE)
    if module is None:
        return False
    for value in (*args, *kwargs.values()):
        for x in value if type(value) in (list, tuple) else (value,):
            if isinstance(x, module.DTensor):
                return True
    return False


def each(value: Any) -> Sequence[Any]:
    return value if type(value) in (list, tuple) else (value,)


class OwnRows:
    """A function of features and `group`, called with the local rows in the place of DTensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        code = function.__code__
        self.names = code.co_varnames[: code.co_argcount]
        further = code.co_varnames[code.co_argcount + code.co_kwonlyargcount :]
        self.rest = further[0] if code.co_flags & CO_VARARGS else ""  # the name of *args
        stacked = (name for name, hint in function.__annotations__.items() if "Views" in str(hint))
        self.stacked = {"views", *stacked}  # a tensor (k, N, D) has views first, not rows

    def group(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Group:
        """That of the mesh, or the given one, which must have the same ranks."""
        rows = [x for name, value in self.named(args, kwargs) for x in each(value) if self.is_rows(name, x)]
        given: Group = kwargs.get("group")
        return group_of_all(given, [x.device_mesh for x in rows]) if rows else given

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        rest = [self.rest] * (len(args) - len(self.names))
        yield from zip([*self.names, *rest], args, strict=False)
        yield from kwargs.items()

    def is_rows(self, name: str, x: Any) -> bool:
        """Parameters, numbers and stacked views are none; a DTensor of these is refused where tensors are checked."""
        if not is_distributed(x) or isinstance(x, nn.Parameter) or x.numel() == 1 or name in WHOLE:
            return False
        return not (name in self.stacked and x.dim() > 2)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = [self.local(name, value) for name, value in self.named(args, kwargs)]
        return self.function(*own[: len(args)], **dict(zip(kwargs, own[len(args) :], strict=True)))

    def local(self, name: str, value: Any) -> Any:
        if type(value) in (list, tuple):
            return [self.local(name, x) for x in value]
        return local_rows(name, value) if self.is_rows(name, value) else value


def group_of_all(given: Group, meshes: Sequence[Any]) -> Group:
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError("features must be on one DeviceMesh, got DTensors of several")
    own = group_of(meshes[0])
    ranks = resolve(own if given is None else given)
    assert ranks is not None
    there, here = (dist.get_process_group_ranks(x) for x in (own, ranks.process_group or dist.group.WORLD))
    if there != here:
        raise ValueError(f"group must have the ranks of the features' DeviceMesh, {there}, got {here}")
    return own if given is None else given


def local_rows(name: str, x: Any) -> Tensor:
    (placement,) = x.placements
    if not placement.is_shard(0):
        raise TypeError(f"{name} must be sharded by rows, Shard(0), got a DTensor with {placement!r}: {ADVICE}")
    rows: Tensor = x.to_local(grad_placements=[placement])
    return rows
