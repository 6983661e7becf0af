"""Which modules encoders call, seen while the pieces are encoded for the first time: however they are reached."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..ranks import RankError
from .exchange import compare, tell_failure
from .saved_state import Buffers
from .synchronising import Synchronising, synchronising

__all__ = ["Observed"]


class Observed:
    """The modules that synchronise gradients, quiet until `stack` is left, and the buffers of all modules.

    sizes: how many pieces each encoder gets on this rank.
    """

    def __init__(self, sizes: Sequence[int], stack: ExitStack) -> None:
        self.sizes = list(sizes)
        self.stack = stack
        self.buffers = Buffers()
        self.modules: list[Synchronising] = []
        self.met: set[nn.Module] = set()
        self.held: set[nn.Module] = set()  # their buffers are copied
        self.covered: set[nn.Module] = set()  # parts of modules that synchronise
        self.lockstep: set[str] = set()  # groups whose ranks must encode as many pieces, and have said so
        self.refused = False  # by all ranks together

    @contextmanager
    def watching(self, encoders: Sequence[Callable[..., Any]]) -> Iterator[None]:
        """Around the first encoding, which ends on all ranks or on none."""
        handle = register_module_forward_pre_hook(lambda module, _: self.called(module))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global hooks")
                for module in filter(compiled, modules_of(encoders)):
                    self.meet(module)
                yield
        except Exception as error:
            if not self.refused:
                self.tell_failure(error)
            raise
        finally:
            handle.remove()
        self.buffers.end()
        self.compare_modules()

    def called(self, module: nn.Module) -> None:
        if not torch.compiler.is_compiling() and module not in self.met:
            self.meet(module)

    def meet(self, module: nn.Module) -> None:
        self.met.add(module)
        # the wrapper of torch.compile has the names of what it holds, which is met for itself
        wrapper = hasattr(module, "_orig_mod")
        found = None if wrapper or module in self.covered else synchronising(module, self.stack)
        if found is not None:
            self.modules.append(found)
            self.covered.update(found.module.modules())
            self.held.difference_update(found.module.modules())  # their buffers may just have come from another rank
            if found.lockstep:
                self.compare_sizes(found.groups, "fully_shard gathers parameters")
        if isinstance(module, nn.SyncBatchNorm) and module.training and dist.is_initialized():
            group: Any = module.process_group or dist.group.WORLD
            self.compare_sizes([group], "SyncBatchNorm gathers statistics")
        if module not in self.held:
            self.hold(module)

    def hold(self, module: nn.Module) -> None:
        for part in module.modules():
            if part not in self.held:
                self.held.add(part)
                self.buffers.hold(part)
            if compiled(part):  # hooks do not see calls inside of it: all of it counts as called
                for inner in part.modules():
                    if inner not in self.met:
                        self.meet(inner)

    # ---- what ranks tell each other ----

    def groups(self) -> list[dist.ProcessGroup]:
        """Of more than one rank, in an order that is the same on all."""
        found = {group.group_name: group for module in self.modules for group in module.groups if group.size() > 1}
        return [found[name] for name in sorted(found)]

    def compare_sizes(self, groups: Sequence[dist.ProcessGroup], reason: str) -> None:
        for group in groups:
            if group.size() > 1 and group.group_name not in self.lockstep:
                self.lockstep.add(group.group_name)
                key = f"encode the same number of pieces, since {reason} for each (one of 0 rows counts)"
                self.compare([group], [{key: self.sizes}])

    def compare_modules(self) -> None:
        groups, facts = self.groups(), []
        for group in groups:
            members = [m for m in self.modules if group in m.groups]
            facts.append(
                {
                    "encode with the same modules that average gradients, in the same order": [
                        m.description() for m in members
                    ],
                    "average gradients, or none (no_sync, set_requires_gradient_sync)": [m.averages for m in members],
                }
            )
        self.compare(groups, facts)

    def compare(self, groups: Sequence[dist.ProcessGroup], facts: Sequence[dict[str, Any]]) -> None:
        try:
            compare(groups, facts)
        except (ValueError, RuntimeError):
            self.refused = True
            raise

    def tell_failure(self, error: Exception) -> None:
        """Where ranks wait for each other within a forward pass, nobody would listen."""
        with suppress(RankError):
            tell_failure([group for group in self.groups() if group.group_name not in self.lockstep], error)


def compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def modules_of(encoders: Iterable[Any]) -> Iterator[nn.Module]:
    """Modules that are encoders, or are named in functions that are."""
    for encoder in encoders:
        if isinstance(encoder, nn.Module):
            yield encoder
        elif isinstance(encoder, functools.partial):
            yield from modules_of([encoder.func, *encoder.args, *encoder.keywords.values()])
        elif inspect.ismethod(encoder):
            yield from modules_of([encoder.__self__])
        elif inspect.isfunction(encoder):
            used = inspect.getclosurevars(encoder)
            named = (*used.nonlocals.values(), *used.globals.values())
            yield from (value for value in named if isinstance(value, nn.Module))
