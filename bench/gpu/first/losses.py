"""The losses at full size: milliseconds, share of the operations' rate, peak memory, and where `triton` spends it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from contrastile.benchmark.clock import Step
from contrastile.benchmark.problem import Problem, stepper
from model import blocks, counts, cycles

from . import plan
from .look import Look, milliseconds, peak_megabytes
from .plan import Workload

KERNELS = 12  # listed, the longest first


def run(look: Look) -> None:
    look.warm_up()
    for backend, repeats in (("triton", 5), ("cuda", 1), ("torch", 1)):
        for work in look.some(plan.WORKLOADS):
            look.attempt(lambda work=work, b=backend, r=repeats: timed(look, work, b, r), **names_of(work, backend))
        if backend == "triton":
            work = plan.WORKLOADS[0]
            look.attempt(
                lambda work=work: timed(look, work, "triton", 5, kept=True), kept=True, **names_of(work, backend)
            )


def names_of(work: Workload, backend: str) -> dict[str, Any]:
    return {"loss": work.name, "backend": backend, "n": work.n, "d": work.d, "dtype": "bfloat16"}


def problem(look: Look, work: Workload) -> Problem:
    n, d = look.rows(work.n), look.rows(work.d)
    return Problem(work.name, n, d, torch.bfloat16, variant=work.variant, device=look.device)


def timed(look: Look, work: Workload, backend: str, repeats: int, kept: bool = False) -> dict[str, Any]:
    """kept: with room for all exponentials."""
    asked = problem(look, work)
    loss = asked.candidates[f"contrastile {backend}"].make(asked)
    if kept:
        loss = partial(loss, memory_budget=plan.KEPT_BUDGET)
    step = stepper(loss, asked.sets(), backward=True)
    ms = milliseconds(lambda: step(0), repeats)
    fresh = stepper(loss, [asked.case(0)], backward=True)  # without the gradients of the steps before
    found = {"ms": ms, "tflops": asked.flop / ms / 1e9, "megabytes": peak_megabytes(lambda: fresh(0))}
    if backend == "triton":
        found |= {"kernels": kernels(look, step), "predicted": predicted(look, work, kept)}
    return found


def predicted(look: Look, work: Workload, kept: bool) -> dict[str, Any]:
    """Milliseconds, from least to most, of a step and of its parts: what the model of bench/gpu/model says."""
    rows = work.n * (2 if work.name == "nt_xent" else 1)  # of both views
    asked = blocks.Problem(work.name, rows, work.d, 3 if work.variant == "four" else 1)
    device = cycles.device_of(look.results.device)
    found = cycles.predict(asked, device, counts.stored(), kept)
    parts = {"total": found.total, **found._asdict()}
    return {"device": device.name} | {name: [round(1e3 * x, 2) for x in seconds] for name, seconds in parts.items()}


def kernels(look: Look, step: Step) -> list[dict[str, Any]]:
    """Of one step, with the time that the device spent in each."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CPU if look.dry else ProfilerActivity.CUDA
    with profile(activities=[kind]) as profiler:
        step(1)
        torch.cuda.synchronize()
    times: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        spent = event.self_cpu_time_total if look.dry else event.self_device_time_total
        # operations of the host carry the time of their kernels once more
        if event.device_type == (DeviceType.CPU if look.dry else DeviceType.CUDA) and spent > 0:
            times.setdefault(event.key[:80], [0, 0.0])
            times[event.key[:80]][0] += event.count
            times[event.key[:80]][1] += spent / 1e3
    longest = sorted(times.items(), key=lambda item: -item[1][1])[:KERNELS]
    return [{"name": name, "calls": calls, "ms": round(ms, 4)} for name, (calls, ms) in longest]
