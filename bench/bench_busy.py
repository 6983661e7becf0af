"""Step time with a neighbour: a process that keeps one core busy, as a data loader's worker does.

Wall-clock time on as many threads as cores: ours, the torch backend and plain torch in turn. A library that splits its
work into one equal share per thread waits for the thread whose core is taken; `busy` over `quiet` shows it. The goal:
beside the neighbour not slower than plain torch.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lines
from contrastile import clip_loss
from eager import clip

STEPS = {"ours": clip_loss, "torch backend": partial(clip_loss, backend="torch"), "plain torch": clip}
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
ROUNDS = 16
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")


@contextmanager
def neighbour() -> Iterator[None]:
    """Keeps the first core that this process may use busy."""
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


def step(loss: Callable[..., Tensor], x: Tensor, y: Tensor, scale: Tensor) -> None:
    x.grad = y.grad = scale.grad = None
    loss(x, y, scale).backward()


def medians(*steps: Callable[[], None]) -> list[float]:
    """Milliseconds of each, measured in turn, so that what the machine does meanwhile meets all of them."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(ROUNDS):
        for function, own in zip(steps, times, strict=True):
            begin = time.perf_counter()
            function()
            own.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(own[1:]) for own in times]


@needs_affinity
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda x: str(x).removeprefix("torch."))
def bench_with_a_neighbour(benchmark, settings, all_threads, dtype: torch.dtype) -> None:
    x, y = (F.normalize(torch.randn(1024, 512), dim=1).to(dtype).requires_grad_() for _ in range(2))
    scale = torch.tensor(20.0, requires_grad=True)
    steps = [partial(step, loss, x, y, scale) for loss in STEPS.values()]
    quiet = medians(*steps)
    with neighbour():
        busy = medians(*steps)
        benchmark.pedantic(steps[0], rounds=1)
    for name, alone, beside in zip(STEPS, quiet, busy, strict=True):
        figures = {
            "quiet": round(alone, 1), "busy": round(beside, 1), "slowdown": round(beside / alone, 2),
            "over_plain": round(beside / busy[-1], 2),
        }  # fmt: skip
        lines.append(settings.out, "busy", loss="clip", candidate=name, n=1024, d=512, dtype=str(dtype)[6:], **figures)
        print(f"{name:<14}{str(dtype)[6:]:<9} {figures}")
