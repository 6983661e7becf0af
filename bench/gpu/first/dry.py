"""Stand-ins for a GPU: kernels are compiled for it and not launched, and torch.cuda answers for one that is none.

So a machine without a GPU runs the same lines as one that has it, and a wrong name or path shows. Numbers are noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: Event) -> float:
        return max(1e3 * (later.at - self.at), 1e-3)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class Graph:
    def replay(self) -> None:
        pass


@contextmanager
def inside(_: Any) -> Iterator[None]:
    yield


CUDA = {
    "Event": Event,
    "Stream": Stream,
    "CUDAGraph": Graph,
    "current_stream": Stream,
    "stream": inside,
    "graph": inside,
    "synchronize": lambda: None,
    "memory_allocated": lambda: 0,
    "max_memory_allocated": lambda: 0,
    "reset_peak_memory_stats": lambda: None,
    "get_device_name": lambda: "dry",
    "get_device_capability": lambda: (9, 0),
    "get_device_properties": lambda _=0: SimpleNamespace(
        name="dry", total_memory=0, multi_processor_count=132, L2_cache_size=0
    ),
}


def install_cuda() -> None:
    for name, value in CUDA.items():
        assert hasattr(torch.cuda, name), name
        setattr(torch.cuda, name, value)


def install() -> None:
    from contrastile.benchmark import ahead

    install_cuda()
    ahead.install(ahead.Device())
