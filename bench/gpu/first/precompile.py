"""Compiles the kernels that the stages want, in processes of their own, into Triton's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from . import plan
from .look import Look

ROWS = 64  # and features: multiples of 16, as the kernels are specialised for; sizes are not part of a kernel
Job = tuple[str, Callable[[Look], None]]


def jobs(tiny: bool) -> list[Job]:
    """The most wanted first. A loss at once and in steps joins partial results in two ways."""
    found: list[Job] = []
    for dtype in plan.DTYPES:
        for work in plan.WORKLOADS:
            for at_once in (False, True):
                run = lambda look, w=work, t=dtype, once=at_once: compile_loss(w, t, once)  # noqa: E731
                found.append((f"{work.name} {dtype} {'at once' if at_once else 'in steps'}", run))
    first = plan.WORKLOADS[0]
    found.insert(8, (f"{first.name} bfloat16 kept", lambda look: compile_loss(first, "bfloat16", False, kept=True)))
    levers: list[Job] = []
    for name in ("stats", "score_grad"):
        levers.append((f"levers {name}", lambda look, n=name: compile_levers(look, n)))
    return found[:1] if tiny else found[:9] + levers + found[9:]


def share(look: Look, part: int, parts: int) -> None:
    """Every job with this part's number. Nothing is launched, GPU or not."""
    from contrastile.benchmark import ahead

    torch.set_num_threads(1)
    kernels = ahead.install(ahead.Device(look.capability))
    for name, run in jobs(look.tiny)[part::parts]:
        kernels.clear()
        begun, spent = time.monotonic(), cpu_seconds()

        def compiled(run: Callable[[Look], None] = run, begun: float = begun, spent: float = spent) -> dict[str, Any]:
            run(look)
            usage = [[x.name, *x.usage()] for x in kernels]  # name, registers, bytes spilled
            seconds, cpu = time.monotonic() - begun, cpu_seconds() - spent
            return {"kernels": usage, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}

        look.attempt(compiled, job=name)


def cpu_seconds() -> float:
    """Of this process and the assemblers that it started."""
    return sum(os.times()[:4])


def compile_loss(work: plan.Workload, dtype: str, at_once: bool, kept: bool = False) -> None:
    from contrastile.backends import base
    from contrastile.benchmark.problem import Problem, stepper

    before, base.SMALL_PAIRS = base.SMALL_PAIRS, base.SMALL_PAIRS if at_once else -1
    try:
        problem = Problem(work.name, ROWS, ROWS, getattr(torch, dtype), variant=work.variant)
        loss = problem.candidates["contrastile triton"].make(problem)
        loss = partial(loss, memory_budget=plan.KEPT_BUDGET) if kept else loss
        stepper(loss, [problem.case(0)], backward=True)(0)
    finally:
        base.SMALL_PAIRS = before


def compile_levers(look: Look, name: str) -> None:
    from . import block

    chunk = block.clip(replace(look, dry=True))
    for tile in block.TILES[name].values():
        with block.tiled(tile):
            block.kernel(name, chunk)()
    with block.general():
        block.kernel(name, chunk)()
