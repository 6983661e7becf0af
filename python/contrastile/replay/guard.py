"""The kind of a call: what a recording takes for granted, and all that the way of a call may depend on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad

PLAIN = (Tensor, torch.nn.Parameter)
CONSTANTS = frozenset({float, int, bool, str, torch.dtype})  # types whose values are part of the kind


def guarded(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Hashable, list[Any]] | None:
    """The kind of a call and the tensors, and generators, in its arguments; None: a call that is not recorded."""
    if observed():
        return None
    facts: list[Any] = [*kwargs, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()]
    inputs: list[Any] = []
    if not (described(args, facts, inputs) and described(kwargs.values(), facts, inputs)):
        return None
    if not inputs or len({*map(id, inputs)}) < len(inputs):  # one tensor in two places may go another way
        return None
    if torch._C._is_any_autocast_enabled():
        for kind in ("cpu", "cuda"):
            facts += [torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)]
    for x in inputs:
        if x.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():  # a recording's constants would lie in the graph's memory
                return None
            facts.append(torch._C._cuda_getCurrentRawStream(x.device.index))  # on which they were written
            break
    return tuple(facts), inputs


def described(values: Iterable[Any], facts: list[Any], inputs: list[Any]) -> bool:
    """Adds what is known of values to both lists. False: of an argument of another kind nothing is known."""
    for x in values:
        kind = type(x)
        if x is None:
            facts.append(None)
        elif kind in PLAIN:
            if x.is_nested or x.layout is not torch.strided or x.is_meta:
                return False
            facts += (x.shape, x.stride(), x.dtype, x.device, x.requires_grad)
            inputs.append(x)
        elif kind is Generator:
            facts += (kind, x.device)
            inputs.append(x)
        elif kind in CONSTANTS:
            facts += (kind, x)  # 1, 1.0 and True are equal
        elif kind is list or kind is tuple:
            facts += (kind, len(x))
            if not described(x, facts, inputs):
                return False
        else:
            return False
    return True


def observed() -> bool:
    """Whether something watches or changes what operators do: a tracer, a mode, a transform."""
    return bool(
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
