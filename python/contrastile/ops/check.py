"""Argument checks: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..backends import backend_names
from ..monoid import stat_dtype
from ..ranks.sharded import is_distributed
from ..replay import as_one_step

FEATURE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PLAIN = (Tensor, torch.nn.Parameter)
TRACE_WITH = "use torch.export or torch.compile, or trace contrastile.reference for one batch size"
ID_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(name: str, value: Any, expected: str = "a torch.Tensor") -> Tensor:
    """A dense tensor. Subclasses that are no other layout count as dense: parameters, fake and functional tensors."""
    if not isinstance(value, Tensor):
        raise wrong_type(name, expected, value)
    if value.layout is not torch.strided or value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got {layout(value)}")
    if type(value) not in PLAIN and is_distributed(value):
        raise TypeError(
            f"{name} must be an ordinary tensor here, got a DTensor: pass a parameter, or what all ranks have as a "
            "whole, as x.full_tensor(grad_placements=[Partial('avg')]), stacked views as a list"
        )
    return value


def plain(x: Tensor) -> bool:
    """An ordinary tensor with nobody watching operators: its values are there to be looked at."""
    watched = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    return not watched and type(x) in PLAIN and not x.is_meta


def plain_gradients(like: Tensor, gradients: Iterable[Tensor | None]) -> bool:
    """`plain` in a backward pass, of an input and of what came from upstream, which may be batched: that an operator
    alone sees and refuses."""
    if not plain(like) or transformed():
        return False
    batched = torch._C._functorch.is_legacy_batchedtensor
    return all(x is None or (type(x) in PLAIN and not batched(x)) for x in gradients)


def wrong_type(name: str, expected: str, value: Any) -> Exception:
    if isinstance(value, torch.fx.Proxy):
        return RuntimeError(f"contrastile: torch.fx.symbolic_trace is not supported; {TRACE_WITH}")
    return TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def layout(x: Tensor) -> str:
    """What to call a tensor that is not dense, and what is."""
    if x.is_nested:
        return f"a nested one (layout {x.layout}); pad it, or concatenate its parts"
    return f"layout {x.layout}; x.to_dense() is dense"


def features(name: str, value: Any, *, ndim: int = 2) -> Tensor:
    """Every function of the package takes features, so the tracer that sees neither the operators' results nor their
    gradients is refused here."""
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(f"contrastile: torch.jit.trace is not supported; {TRACE_WITH}")
    usual = type(value) in PLAIN and value.layout is torch.strided and not value.is_nested
    x: Tensor = value if usual else tensor(name, value)
    if x.dim() != ndim:
        shape = {2: "(N, D)", 3: "(N, K, D)", 4: "(N, K, L, D)"}[ndim]
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
    if x.dtype not in FEATURE_DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {x.dtype}")
    return x


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), which costs a microsecond also where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def is_vector(name: str, x: Any, size: int) -> bool:
    """Whether x, a number or one per row, is one per row."""
    return isinstance(x, Tensor) and tensor(name, x).dim() == 1 and x.shape[0] == size != 1


def same_width(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape[-1] != other.shape[-1]:
        raise ValueError(f"{name} must have the width of {other_name}, {other.shape[-1]}, got {x.shape[-1]}")


def same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other_name}, {tuple(other.shape)}, got {tuple(x.shape)}")


def same_device(name: str, x: Tensor, device: torch.device) -> None:
    if x.device != device:
        raise ValueError(f"{name} must be on {device} like the features, got {x.device}")


def vector(name: str, value: Any, size: int, device: torch.device) -> Tensor:
    x = tensor(name, value)
    if x.dim() != 1 or x.shape[0] != size:
        raise ValueError(f"{name} must have shape ({size},), got {tuple(x.shape)}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    same_device(name, x, device)
    return x


def ids(name: str, value: Any, size: int, device: torch.device) -> Tensor:
    x = tensor(name, value)
    if x.dtype not in ID_DTYPES:
        raise TypeError(f"{name} must be int64, int32, int16, int8 or uint8, got {x.dtype}")
    if x.dim() != 1 or x.shape[0] != size:
        raise ValueError(f"{name} must have shape ({size},), got {tuple(x.shape)}")
    same_device(name, x, device)
    return x.to(torch.int64).contiguous()


def label_sets(name: str, value: Any, size: int, device: torch.device) -> Tensor:
    x = tensor(name, value)
    if x.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {x.dtype}")
    if x.dim() != 2 or x.shape[0] != size:
        raise ValueError(f"{name} must have shape ({size}, number of labels), got {tuple(x.shape)}")
    same_device(name, x, device)
    return x


def bool_mask(name: str, value: Any, shape: tuple[int | None, ...], device: torch.device) -> Tensor:
    """shape: None for any size."""
    x = tensor(name, value)
    if x.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor (True = keep), got {x.dtype}")
    if x.dim() != len(shape) or any(want not in (None, got) for want, got in zip(shape, x.shape, strict=True)):
        wanted = str(tuple("any" if size is None else size for size in shape)).replace("'", "")
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")
    same_device(name, x, device)
    return x


def condition(message: str | Callable[..., str], holds: Tensor, *shown: Tensor) -> None:
    """Refuses values, where looking at them waits for no device and breaks no graph. A message that names a size is
    made only then: it would bind a graph to that size. One that shows numbers is made of the tensors `shown`: it must
    not remember those of a recorded call."""
    if holds.device.type == "cpu" and plain(holds):
        as_one_step(partial(refuse_unless, message), holds, *shown)


def refuse_unless(message: str | Callable[..., str], holds: Tensor, *shown: Tensor) -> None:
    if not bool(holds.all()):
        raise ValueError(message if isinstance(message, str) else message(*shown))


def scalar(name: str, x: Any, *, positive: bool = False, device: torch.device | None = None) -> float | Tensor:
    """A finite Python number, or a 0-dim floating tensor (its value is not read: that would stop the device)."""
    if isinstance(x, Tensor):
        if tensor(name, x).dim() != 0 and tuple(x.shape) != (1,):
            raise ValueError(f"{name} must be a number or a tensor with one element, got shape {tuple(x.shape)}")
        if not x.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        here = x if device is None else beside(name, x, device)
        return here.reshape(()) if here.dim() else here
    if type(x) is not float and isinstance(x, (torch.SymInt, torch.SymFloat)):
        # a size in a graph of any size: not read either
        return cast(float, torch.sym_float(x))
    # numbers.Real: NumPy's scalars; asked last, because torch.compile cannot trace it
    if type(x) is not float and (
        isinstance(x, bool) or not (isinstance(x, (int, float)) or isinstance(x, numbers.Real))
    ):
        raise wrong_type(name, "a number or a 0-dim tensor", x)
    value = float(x)
    if not -math.inf < value < math.inf or (positive and value <= 0):  # torch.compile cannot trace math.isfinite
        raise ValueError(f"{name} must be finite{' and > 0' if positive else ''}, got {x}")
    return value


def share(name: str, x: float | Tensor) -> None:
    """A checked number, or numbers, of the interval [0, 1], without gradient."""
    message = f"{name} must be between 0 and 1"
    if not isinstance(x, Tensor):
        if not 0.0 <= x <= 1.0:
            raise ValueError(f"{message}, got {x}")
        return
    if x.requires_grad:
        raise ValueError(f"{name} must not require grad")
    condition(message, (x >= 0) & (x <= 1))


def beside(name: str, x: Tensor, device: torch.device) -> Tensor:
    """x on the features' device. As everywhere in torch, a 0-dim tensor may be on the CPU: it is copied, which a CUDA
    graph cannot hold."""
    if x.dim() == 0 and x.device.type == "cpu" and device.type != "cpu":
        return x.to(device, non_blocking=True)
    same_device(name, x, device)
    return x


def as_tensor(name: str, x: float | Tensor, like: Tensor) -> Tensor:
    """A number as a 0-dim tensor of the statistic's type; tensors pass unchanged, with their gradient."""
    if isinstance(x, Tensor):
        return beside(name, x, like.device)
    dtype = stat_dtype(like.dtype)
    return torch.full((), x, dtype=dtype, device=like.device)  # torch.tensor would copy from the host and wait


def choice(name: str, x: Any, allowed: tuple[str, ...]) -> str:
    if x not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {x!r}")
    return str(x)


def backend(x: Any) -> None:
    """Any registered backend, whether or not literals.BackendName has it."""
    if x != "auto":
        choice("backend", x, ("auto", *backend_names()))


def budget(x: Any) -> int | None:
    if x is None:
        return None
    if isinstance(x, bool) or not isinstance(x, (int, torch.SymInt)):
        raise TypeError(f"memory_budget must be an int (bytes) or None, got {type(x).__name__}")
    if x < 0:
        raise ValueError(f"memory_budget must be >= 0 bytes, got {x}")
    return min(x, torch.iinfo(torch.int64).max) if isinstance(x, int) else cast(int, x)


def transformed() -> bool:
    """Within a transform of torch.func, or with forward-mode AD on."""
    active = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return active and not torch.compiler.is_compiling()


def no_transforms() -> None:
    if transformed():
        raise RuntimeError(
            "contrastile: torch.func transforms and forward-mode AD are not supported by the fused operators; "
            "contrastile.reference has the same losses in plain torch"
        )


def statistics_in_float64(dtype: torch.dtype | None) -> bool:
    if dtype not in (None, torch.float64):
        raise ValueError(f"stat_dtype must be None or torch.float64, got {dtype}")
    return dtype is not None
