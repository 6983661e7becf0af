"""Modules that average gradients over ranks: kept quiet while pieces are sent through, then synchronised once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["DataParallel", "FullyShard", "Synchronising", "synchronising"]


class Synchronising:
    """A module that averages gradients over `groups`.

    lockstep: its forward pass waits for the other ranks, so that all must encode as many pieces.
    averages: whether the caller wants gradients averaged now; not within no_sync() and the like.
    """

    lockstep: bool

    def __init__(self, module: Any, stack: ExitStack) -> None:
        self.module = module
        self.averages = self.quiet(stack)

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        raise NotImplementedError

    def quiet(self, stack: ExitStack) -> bool:
        """Adds up gradients on this rank alone until the stack is left; returns `averages`."""
        raise NotImplementedError

    def synchronise(self) -> None:
        """Averages the gradients that have been added up."""
        raise NotImplementedError

    def description(self) -> str:
        parameters = list(self.module.parameters())
        name = f"{type(self).__name__}({type(getattr(self.module, 'module', self.module)).__name__})"
        return f"{name} of {len(parameters)} parameters, {sum(p.numel() for p in parameters)} numbers"


def synchronising(module: nn.Module, stack: ExitStack) -> Synchronising | None:
    """The module as one that synchronises gradients, quiet from now on; None if it does not do such a thing."""
    if isinstance(module, DistributedDataParallel):
        check_settings(module)
        check_parameters(module)
        return DataParallel(module, stack)
    if hasattr(module, "_get_fsdp_state"):
        return FullyShard(forward_root(module), stack)
    if hasattr(module, "no_sync") or hasattr(module, "set_requires_gradient_sync"):
        raise TypeError(
            f"cached_backward synchronises gradients of DistributedDataParallel and fully_shard, got a "
            f"{type(module).__module__}.{type(module).__name__}"
        )
    return None


# ---- DistributedDataParallel -----------------------------------------------------------------------------------------


class DataParallel(Synchronising):
    lockstep = False

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        return [self.module.process_group]

    def quiet(self, stack: ExitStack) -> bool:
        averages = bool(self.module.require_backward_grad_sync)
        if self.module._check_sync_bufs_pre_fwd():  # as its forward pass does, but once, before buffers are copied
            self.module._sync_buffers()
            self.module.require_forward_param_sync = False
        stack.enter_context(self.module.no_sync())
        return averages

    @torch.enable_grad()
    def synchronise(self) -> None:
        """A backward pass that reaches every parameter and adds nothing: the reducer then averages what it finds in
        .grad, with everything that was set for it (hooks, views of buckets, unused parameters)."""
        held = self.module.module
        learning = [p for p in held.parameters() if p.requires_grad]
        if self.module.find_unused_parameters:  # what is not reached here counts as unused
            learning = [p for p in learning if p.grad is not None] or learning
        self.module._modules["module"] = Touch(learning)
        try:
            DistributedDataParallel.forward(self.module).backward()
        finally:
            self.module._modules["module"] = held


class Touch(nn.Module):
    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.touched = parameters  # in a list: they stay parameters of the other module

    def forward(self) -> Tensor:
        value: Tensor = Touched.apply(*self.touched)  # type: ignore[no-untyped-call]
        return value


class Touched(torch.autograd.Function):
    """0, whose backward pass runs the hooks of the given leaves without a gradient: .grad stays as it is, also None."""

    @staticmethod
    def forward(ctx: Any, *leaves: Tensor) -> Tensor:
        ctx.count = len(leaves)
        return leaves[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        return (None,) * ctx.count


def check_settings(module: Any) -> None:
    refused = {
        "static_graph=True": module.static_graph,
        "mixed_precision": getattr(module, "mixed_precision", None) is not None,
        "delay_all_reduce_named_params": bool(getattr(module, "_delay_all_reduce_params", ())),
        "join()": module._join_config.enable,
        "torch._dynamo.config.optimize_ddp = 'python_reducer'": getattr(module, "_use_python_reducer", False),
    }
    for setting, used in refused.items():
        if used:
            raise ValueError(
                f"cached_backward cannot average gradients of a DistributedDataParallel with {setting}: it expects one "
                "backward pass for each forward pass; build it without"
            )


PREPARED: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()  # for which parameters reducers were built


def check_parameters(module: Any) -> None:
    """DistributedDataParallel averages the parameters that needed gradients when it was made."""
    if module not in PREPARED:
        PREPARED[module] = [p for bucket in module.reducer._get_zeros_like_grad_buckets() for p in bucket.parameters()]
    prepared = {id(p) for p in PREPARED[module]}
    for name, parameter in module.module.named_parameters():
        if parameter.requires_grad and id(parameter) not in prepared and name not in module.parameters_to_ignore:
            raise ValueError(
                f"{name} did not require gradients when DistributedDataParallel was made, so that they would not be "
                "averaged; make it anew after unfreezing parameters"
            )
        if not parameter.requires_grad and id(parameter) in prepared and not module.find_unused_parameters:
            raise ValueError(
                f"{name} required gradients when DistributedDataParallel was made, which now waits for them; make it "
                "anew after freezing parameters, or with find_unused_parameters=True"
            )


# ---- fully_shard -----------------------------------------------------------------------------------------------------


class FullyShard(Synchronising):
    lockstep = True

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        found = {}
        for shards in parameter_groups(self.module):
            for name in ("shard_process_group", "replicate_process_group"):
                group = getattr(shards.mesh_info, name, None)
                if group is not None:
                    found[group.group_name] = group
        return list(found.values())

    def quiet(self, stack: ExitStack) -> bool:
        averages = False
        for shards in parameter_groups(self.module):
            averages |= shards.reduce_grads
            stack.callback(setattr, shards, "reduce_grads", shards.reduce_grads)
            stack.callback(setattr, shards, "all_reduce_grads", shards.all_reduce_grads)
        self.module.set_requires_gradient_sync(False)
        return averages

    @torch.enable_grad()
    def synchronise(self) -> None:
        """A backward pass of the module without its inside: at its end every group of parameters reduces what it has
        added up."""
        state = self.module._get_fsdp_state()
        state._pre_forward(self.module, (), {})
        nothing = torch.zeros((), device=state._device, requires_grad=True)
        state._post_forward(self.module, (), nothing.clone()).backward()


def parameter_groups(module: nn.Module) -> Iterator[Any]:
    below: Any
    for below in module.modules():
        if hasattr(below, "_get_fsdp_state"):
            state = below._get_fsdp_state()
            # before torch 2.12 there is at most one
            yield from getattr(state, "_fsdp_param_groups", None) or filter(None, [state._fsdp_param_group])


def forward_root(module: Any) -> Any:
    """Within the forward pass of an outer module that is sharded, that one: it reduces all gradients at its end."""
    root = module._get_fsdp_state()._state_ctx.iter_forward_root
    return module if root is None else root._modules[0]
