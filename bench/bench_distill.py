"""Losses with a teacher: over the matrix products of their own operations, over dense code, and their peak memory.

CPU time of one thread, forward and backward, two sides in turn. Products: the scores of student and teacher, and one
more for each operand with a gradient, 2 N M D operations each.
Goals: 1.3 of the products; with a long queue 1 / 1.6 of the dense official code and 150 MB; the drop-in 1 of open_clip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import contrastile
import eager
import lines
import packages
from bench_products import Products
from bench_small import DTYPES, compared_in, one_thread, unit_rows  # noqa: F401
from contrastile.benchmark.memory import Usage, in_fresh_process, resident_peak
from contrastile.benchmark.suite import Skip
from contrastile.compat import open_clip

N, QUEUE, D = 1024, 65536, 256
OF_PRODUCTS, OF_DENSE, OF_OPEN_CLIP, PEAK_MB = 1.3, 1 / 1.6, 1.0, 150


compared = partial(compared_in, "distill")


# ---- momentum encoders and a queue


class Queued:
    """A step of ALBEF in one direction; momentum features have no gradient."""

    def __init__(self, n: int, queue: int) -> None:
        self.query, self.tau = unit_rows(n, D, dtype=torch.float32), torch.tensor(0.07, requires_grad=True)
        self.taught, self.key, self.queue = (unit_rows(m, D, dtype=torch.float32).detach() for m in (n, n, queue))
        self.leaves = [self.query, self.tau]

    def ours(self) -> Tensor:
        return contrastile.distill_info_nce(
            self.query, self.key, self.taught, negatives=self.queue, temperature=self.tau, alpha=0.4
        )

    def dense(self) -> Callable[[], Tensor]:
        return partial(eager.albef, self.query, self.key, self.taught, self.queue.T.contiguous(), self.tau, 0.4)

    def products(self) -> Products:
        """Of whole matrices: in blocks of 128 rows they take a fifth longer."""
        query, candidates = self.query.detach(), torch.cat([self.key, self.queue])
        grad = query @ candidates.T
        return Products(lambda: (query @ candidates.T, self.taught @ candidates.T, grad @ candidates))


def queue_peak() -> Usage:
    """In a fresh process."""
    torch.set_num_threads(1)
    small, step = Queued(64, 128), Queued(N, QUEUE)
    small.ours().backward()
    return resident_peak(lambda: step.ours().backward())


def bench_queue(benchmark, settings, one_thread) -> None:  # noqa: F811
    step, problem = Queued(N, QUEUE), dict(loss="distill_info_nce", n=N, d=D, queue=QUEUE, dtype="float32")
    compared(settings, "dense", step.ours, step.dense(), step.leaves, OF_DENSE, 4, **problem)
    compared(settings, "products", step.ours, step.products(), step.leaves, OF_PRODUCTS, 4, **problem)
    peak = round(in_fresh_process(queue_peak).peak_bytes / 1e6)
    lines.append(settings.out, "distill", **problem, peak_mb=peak, goal=PEAK_MB)
    print(f"peak {peak} MB (goal {PEAK_MB})")
    benchmark.pedantic(lambda: step.ours().backward(), rounds=1)


# ---- two directions


def clip_distill_products(student: list[Tensor], teacher: list[Tensor]) -> Products:
    (x, y), (u, v) = ([a.detach() for a in pair] for pair in (student, teacher))
    trained = [[x, y], *([[u, v]] if teacher[0].requires_grad else [])]
    grad = x @ y.T

    def multiply() -> None:
        x @ y.T, u @ v.T
        for rows, columns in trained:
            grad @ columns, grad.T @ rows

    return Products(multiply)


@pytest.mark.parametrize("teacher", ["frozen", "trained"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def bench_clip_distill(benchmark, settings, one_thread, dtype: torch.dtype, teacher: str) -> None:  # noqa: F811
    n, d, trained = 2048, 512, teacher == "trained"
    student, taught = ([unit_rows(n, d, dtype=dtype) for _ in range(2)] for _ in range(2))
    if not trained:
        taught = [x.detach() for x in taught]
    ours = partial(contrastile.clip_distill_loss, *student, *taught, 20.0, detach_targets=not trained)
    problem = dict(loss="clip_distill_loss", n=n, d=d, dtype=str(dtype)[6:], teacher=teacher)
    products = clip_distill_products(student, taught)
    compared(settings, "products", ours, products, [*student, *taught], OF_PRODUCTS, 8, **problem)
    benchmark.pedantic(lambda: ours().backward(), rounds=1)


# ---- the drop-in


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def bench_open_clip(benchmark, settings, one_thread, dtype: torch.dtype) -> None:  # noqa: F811
    try:
        package = packages.open_clip()
    except Skip as error:
        pytest.skip(str(error))
    n, d, scale = 1024, 512, torch.tensor(20.0, dtype=dtype, requires_grad=True)
    student = [unit_rows(n, d, dtype=dtype) for _ in range(2)]
    taught = [unit_rows(n, d, dtype=dtype).detach() for _ in range(2)]

    def step(module: Any) -> Callable[[], Tensor]:
        loss = module.DistillClipLoss()
        return lambda: sum(loss(*student, scale, *taught, torch.tensor(20.0, dtype=dtype)))

    problem = dict(loss="DistillClipLoss", n=n, d=d, dtype=str(dtype)[6:], teacher="frozen")
    ours = step(open_clip)
    compared(settings, "open_clip", ours, step(package), [*student, scale], OF_OPEN_CLIP, 8, **problem)
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
