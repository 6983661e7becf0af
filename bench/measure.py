"""Timing that survives a noisy machine: candidates run in turn inside one process, medians are compared as ratios."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).parent
CHUNK = 768  # rows of the products whose rate is the limit, as in contrastile.driver.MAX_CHUNK


def unit(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(n, d), dim=1).to(dtype).requires_grad_()


def step(loss: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return run


def interleaved(candidates: Sequence[Callable[[], object]], rounds: int, warm_up: bool = True) -> list[float]:
    """Median seconds of each candidate, run in turn so that a slow moment of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in candidates]
    for candidate in candidates if warm_up else ():
        candidate()
    for _ in range(rounds):
        for index, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            times[index].append(time.perf_counter() - start)
    return [statistics.median(x) for x in times]


def products(m: int, d: int, dtype: torch.dtype) -> Callable[[], None]:
    """The three products of one chunk (scores, dA, dB) as torch computes them: 6 CHUNK m d FLOP."""
    rows = min(CHUNK, m)
    a, b, g = (torch.randn(*shape).to(dtype) for shape in ((rows, d), (m, d), (rows, m)))

    def run() -> None:
        a @ b.T
        g @ b
        g.T @ a

    return run


def limit_seconds(products_seconds: float, n: int, m: int, gemms: int) -> float:
    """Time of gemms * n * m * d FLOP at the rate of `products` (which cost 6 min(CHUNK, m) m d FLOP)."""
    return products_seconds * gemms * n / (6 * min(CHUNK, m))


def peak_extra_bytes(loss: str, n: int, d: int, dtype: str) -> int:
    """Peak resident memory of one forward and backward beyond the inputs, in a fresh process."""
    command = [sys.executable, str(HERE / "peak.py"), loss, str(n), str(d), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["peak_extra_bytes"])


def in_fresh_process(function: Callable[..., int], *arguments: object, preload: Sequence[str] = ()) -> int:
    """Its result from a process of its own, forked from one that imported `preload` once and ran nothing: seconds less
    than a new interpreter for each measurement."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()
