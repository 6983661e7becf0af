"""Which backend takes a problem, why, and in what blocks; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, NoReturn

import torch

from contrastile import backends
from contrastile.backends import Backend, measured, native, reason, select
from contrastile.benchmark.problem import Problem, leaves
from contrastile.spec import PairBlock


def auto(device: torch.device, dtype: torch.dtype, pairs: int) -> tuple[str, str]:
    """(the backend that "auto" takes for so many pairs, why)."""
    chosen = select("auto", device, dtype, pairs).name
    fastest = measured.fastest_backend(device, dtype, pairs) if device.type == "cuda" else None
    if chosen == fastest:
        return chosen, "the fastest for so many pairs on this GPU, as `contrastile tune` measured"
    order = [x.name for x in backends.BACKENDS]
    skipped = backends.BACKENDS[: order.index(chosen)]
    reasons = [f"{x.name}: {reason(x, device, dtype)}" for x in skipped]
    why = f"the first of {', '.join(order)} that can run"
    return chosen, f"{why} ({'; '.join(reasons)})" if reasons else why


def tiles(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Of the kernels, in words; "" for a backend whose kernels are torch's."""
    if backend == "cpu" and native.cpu is not None:
        return f"{native.cpu.isa()}, panels of {native.cpu.column_padding()} columns"
    if backend == "triton":
        from contrastile.backends.triton_device import kind_of, tile_for
        from contrastile.triton_kernels.config import weight_of

        kind = kind_of(torch.empty(0, dtype=dtype, device=device))
        found = [tile_for(device, kind, weight_of(x, False, False, lean=True)) for x in (False, True)]
        shapes = [f"{x.rows} x {x.cols} x {x.depth}" for x in found]
        return f"statistics {shapes[0]}, gradients {shapes[1]} (rows x columns x features)"
    return ""


class Begins(Exception):
    """What a backend was asked first."""


def blocks(problem: Problem, backend: str) -> str:
    """The pairs that the loss, run on this backend, has in hand first: no later block is larger."""
    case = problem.case(0)
    args, kwargs = leaves(case) if problem.backward else (case.args, case.kwargs)
    before, backends.BACKENDS = backends.BACKENDS, tuple(map(watched, backends.BACKENDS))
    try:
        problem.workload.function(*args, **kwargs, backend=backend)
    except Begins as found:
        return str(found)
    finally:
        backends.BACKENDS = before
    return "no pairs"


def watched(backend: Backend) -> Backend:
    """The backend, which tells of its first block instead of computing it."""
    found = copy(backend)

    def block(x: PairBlock, *_: Any) -> NoReturn:
        raise Begins(f"{len(x.row):,} x {len(x.col):,}")

    def small(*args: Any) -> None:
        if backend.small_loss(*args) is not None:
            raise Begins("all pairs at once")

    def segments() -> Any:
        if backend.segments() is not None:
            raise Begins("documents of tokens")

    instead: dict[str, Callable[..., Any]] = {
        "stats": block,
        "score_grad": block,
        "slice_stats": lambda x, *_: block(x[0]),
        "slice_score_grad": lambda x, *_: block(x[0]),
        "small_loss": small,
        "segments": segments,
        "prepare": lambda features: None,
        "bases": lambda vectors: None,
    }
    for name, function in instead.items():
        setattr(found, name, function)
    return found
