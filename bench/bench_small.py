"""Small batches on a CPU: the CPU time of one thread of a step, ours over plain torch, forward and backward.

CPU time, because a step of a tenth of a millisecond is at the mercy of whatever else runs; both in turn in one process.
Ratios are printed after the run. Goals: 1.1 up to N = 64, 1.0 from N = 256.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
import eager
import lines

SIZES = [(32, 128), (64, 128), (32, 512), (64, 512), (256, 128), (256, 512)]
DTYPES = [torch.float32, torch.bfloat16]
LOSSES = [
    "clip", "info_nce", "queue", "private", "ids", "siglip", "nt_xent", "sup_con", "dcl", "mv_infonce", "gram",
]  # fmt: skip
ROUNDS, REPEATS = 20, 10  # short turns: both sides see the same machine


def unit_rows(*shape: int, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1).to(dtype).requires_grad_()


def steps(
    loss: str, a: Tensor, b: Tensor, c: Tensor, hard: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and plain torch, of the same tensors."""
    (n, d), dtype = a.shape, a.dtype
    ids = torch.arange(n) // 2
    if loss in ("queue", "private", "ids"):
        option, given = {
            "queue": ("negatives", unit_rows(4 * n, d, dtype=dtype).detach()),
            "private": ("hard_negatives", hard),
            "ids": ("query_ids", ids),
        }[loss]
        name = {"negatives": "queue", "hard_negatives": "hard", "query_ids": "ids"}[option]
        return (
            partial(contrastile.info_nce, a, b, temperature=0.07, **{option: given}),
            partial(eager.info_nce_of, a, b, **{name: given}),
        )
    scale, bias, seven = torch.tensor(10.0), torch.tensor(-10.0), torch.tensor(0.07)
    return {
        "clip": (partial(contrastile.clip_loss, a, b, 10.0), partial(eager.clip, a, b, scale)),
        "info_nce": (partial(contrastile.info_nce, a, b), partial(eager.info_nce_of, a, b)),
        "siglip": (partial(contrastile.siglip_loss, a, b, 10.0, -10.0), partial(eager.siglip, a, b, scale, bias)),
        "nt_xent": (partial(contrastile.nt_xent, a, b), partial(eager.nt_xent, a, b, temperature=torch.tensor(0.5))),
        "sup_con": (
            lambda: contrastile.sup_con([a, b], ids),
            lambda: eager.sup_con(torch.cat([a, b]), torch.cat([ids, ids])),
        ),
        "dcl": (partial(contrastile.dcl, a, b), partial(eager.dcl, a, b)),
        "mv_infonce": (partial(contrastile.mv_infonce, [a, b, c]), partial(eager.mv_infonce, [a, b, c])),
        "gram": (partial(contrastile.gram_loss, a, b, c), partial(eager.gram, a, b, c, temperature=seven)),
    }[loss]  # fmt: skip


def cpu_time(step: Callable[[], Any], leaves: list[Tensor], repeats: int) -> float:
    """Of one step, microseconds."""
    start = time.process_time_ns()
    for _ in range(repeats):
        for x in leaves:
            x.grad = None
        step().backward()
    return (time.process_time_ns() - start) / repeats / 1e3


def in_turn(
    ours: Callable[[], Any],
    plain: Callable[[], Any],
    leaves: list[Tensor],
    rounds: int = ROUNDS,
    repeats: int = REPEATS,
) -> tuple[float, float]:
    """Microseconds of each: the mean of the faster half of the rounds."""
    times = [(cpu_time(ours, leaves, repeats), cpu_time(plain, leaves, repeats)) for _ in range(rounds + 1)][1:]
    one, other = (mean(sorted(x)[: rounds // 2]) for x in zip(*times, strict=True))
    return one, other


def compared_in(
    folder: str, settings: Any, other: str, ours: Callable[[], Any], plain: Callable[[], Any], leaves: list[Tensor],
    goal: float, rounds: int, **problem: Any,
) -> None:  # fmt: skip
    """Two steps in turn, as a line of this folder."""
    one, two = in_turn(ours, plain, leaves, rounds=rounds, repeats=1)
    figures = {"ours": round(one), other: round(two), "ratio": round(one / two, 3), "goal": round(goal, 3)}
    lines.append(settings.out, folder, **problem, **figures)
    print(f"{problem}  {one / 1e3:.1f} over {two / 1e3:.1f} ms of {other}: {one / two:.2f} (goal {goal:.2f})")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n, d", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def bench_small(benchmark, settings, one_thread, loss: str, n: int, d: int, dtype: torch.dtype) -> None:
    leaves = [unit_rows(*shape, dtype=dtype) for shape in ((n, d), (n, d), (n, d), (n, 4, d))]
    ours, plain = steps(loss, *leaves)
    one, other = in_turn(ours, plain, leaves)
    goal = 1.1 if n <= 64 else 1.0
    benchmark.group = f"{loss} {n} {d} {dtype}"
    figures = dict(ours=round(one), eager=round(other), ratio=round(one / other, 2), goal=goal)  # microseconds
    benchmark.extra_info.update(figures)
    lines.append(settings.out, "small", loss=loss, n=n, d=d, dtype=str(dtype)[6:], **figures)
    print(f"{loss:<12}{n:>5}{d:>5} {str(dtype)[6:]:<9}{one:>9.0f}{other:>9.0f} us  {one / other:.2f} (goal {goal})")
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
