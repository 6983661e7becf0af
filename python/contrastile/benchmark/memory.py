"""Peak memory of one step beyond its inputs: resident memory of a fresh process on a CPU, the allocator's on a GPU.

A process reports the highest memory of its whole life, so every figure of a CPU needs a fresh one. It is forked from a
server that imported torch and the candidates once and ran nothing, which takes a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .clock import host_clock

Run = Callable[[], object]
# glibc: each freed block goes back at once, none hides in the base
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


class ProbeError(RuntimeError):
    """The measuring process gave no figure, for instance for lack of memory."""


@dataclass(frozen=True)
class Usage:
    """Of one step that ran once before at a small size."""

    peak_bytes: int
    seconds: float


def allocator_peak(run: Run) -> int:
    """Bytes that torch's CUDA allocator gave out at most beyond what lay there before."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def resident_peak(run: Run) -> Usage:
    """In this process; call it once in a fresh one, when the inputs are there.

    Raises: ProbeError: the peak did not rise above the memory held before.
    """
    _forget_peak()
    now = host_clock()
    before, start = _peak_bytes(), now()
    run()
    usage = Usage(_peak_bytes() - before, now() - start)
    if usage.peak_bytes <= 0:
        raise ProbeError("the peak did not rise above the memory held before")
    return usage


def in_fresh_process(function: Callable[..., Usage], *arguments: Any, preload: Sequence[str] = ()) -> Usage:
    """What a function that a module has by name returns in a process of its own.

    Raises: ProbeError: it failed or was killed; the message says why.
    """
    path = os.pathsep.join(x for x in sys.path if x)  # before Python 3.12.4 the server does not take it over
    with _environment(_GIVE_BACK | {"PYTHONPATH": path}):
        context = _context(preload)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool as error:
                raise ProbeError("the process was killed, as for lack of memory") from error
            except Exception as error:
                raise ProbeError(f"{type(error).__name__}: {error}") from error


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["contrastile", *preload])  # of no effect once the server runs
    multiprocessing.forkserver.ensure_running()
    return context


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def available_bytes() -> int | None:
    """Memory that a process can still take; None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE) if meminfo.exists() else None
    return int(match[1]) * 1024 if match else None


def _forget_peak() -> None:
    """Start from the memory held now (Linux; elsewhere the peak so far stays the base)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: on Linux its maximum survives exec, so it includes the parent's memory
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match[1]) * 1024
    try:
        import resource
    except ImportError as error:  # Windows
        raise ProbeError("this system does not report a process's peak memory") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
