"""Compiles what `tune` is about to time, side by side in processes of their own, and says which tiles spill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from contrastile.backends import base, measured
from contrastile.benchmark import ahead
from contrastile.benchmark.precision import tf32

ROWS = 768  # as many as features, which a problem does not exceed
SPILLS = {"ieee": 32}  # bytes a thread that the compiler spills with registers to spare, for more warps at a time
PROCESSES, SPARED = 16, 2  # cores are left to the process that launches and times meanwhile


@dataclass(frozen=True)
class Task:
    """A problem of `tune` under an entry of the table of measurements, whose kernels are wanted."""

    kind: str
    dtype: torch.dtype
    weight: int
    features: int
    entry: dict[str, Any]


class Ahead:
    """Tasks by key, compiled in the order in which they are asked for, until `limit` (seconds of time.monotonic)."""

    def __init__(self, device: ahead.Device, limit: float, run: Callable[[Task], int] | None = None) -> None:
        self.limit, self.run = limit, run or compile_task
        self.pool = ProcessPoolExecutor(
            processes(os.cpu_count() or 1), get_context("spawn"), initializer=prepare, initargs=(device,)
        )
        self.found: dict[Any, Future[int]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, key: Any, task: Task) -> None:
        self.found[key] = self.pool.submit(self.run, task)

    def fault(self, key: Any, kind: str) -> str | None:
        """Why the task's kernels should not be timed; waits for them."""
        try:
            spilled = self.found[key].result(max(self.limit - time.monotonic(), 0.0))
        except NotYet:
            return "not compiled in time"
        except BrokenProcessPool:
            return None  # compiled when it is timed, then
        except Exception as error:  # too much shared memory, or the compiler gives up: Triton has no common base
            return type(error).__name__
        return f"spills {spilled} bytes" if spilled > SPILLS.get(kind, 0) else None


def processes(cores: int) -> int:
    return max(1, min(cores - SPARED, PROCESSES))


def here(device: torch.device) -> ahead.Device:
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", ahead.Device.shared)
    return ahead.Device((properties.major, properties.minor), properties.multi_processor_count, int(shared))


# ---- in a process of its own

_kernels: list[ahead.Kernel] = []


def prepare(device: ahead.Device) -> None:
    global _kernels
    torch.set_num_threads(1)
    base.SMALL_PAIRS = -1  # in steps, like the large problems that are timed
    _kernels = ahead.install(device)


def compile_task(task: Task) -> int:
    """The most bytes that a kernel spills."""
    from .tune import problem

    cpu = torch.device("cpu")
    measured.table()[measured.device_name(cpu)] = {"triton": measured.triton_version()} | task.entry
    _kernels.clear()
    with tf32(task.kind == "tf32"):
        problem(ROWS, task.dtype, cpu, "triton", task.weight, task.features)()
    return max((kernel.usage()[1] for kernel in _kernels), default=0)
