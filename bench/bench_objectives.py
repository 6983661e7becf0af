"""Objectives made of the engine's parts, over one call of `clip_loss` on features of the same shape.

CPU time of one thread, forward and backward, both in turn. Goals: 1.2 for several positives, mixtures and prototypes;
1.6 for five prefixes of the features, of which each is normalised; 1.05 for a report of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import contrastile
import lines
from bench_small import in_turn, one_thread, unit_rows  # noqa: F401
from contrastile.metrics import InBatch

N, D, TEMPERATURE = 4096, 512, 0.05
GOALS = {
    "multi_positive": 1.2, "mixup_info_nce": 1.2, "prototype_loss": 1.2, "matryoshka": 1.6, "report": 1.05
}  # fmt: skip
WIDTHS = (32, 64, 128, 256, 512)


def objective(name: str, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    clip, loss = partial(contrastile.clip_loss, x, y, 1 / TEMPERATURE), getattr(contrastile, name, None)
    if name == "matryoshka":
        return partial(clip, matryoshka=WIDTHS, normalize=True)
    if name == "report":
        return partial(clip, report=InBatch())
    if loss is None:
        pytest.skip(f"there is no {name}")
    labels = torch.arange(N) // 4
    given = {
        "multi_positive": (x, y, labels, labels),
        "mixup_info_nce": (x, y, torch.randperm(N), torch.rand(N)),
        "prototype_loss": (x, y, torch.randperm(N)),
    }[name]
    return partial(loss, *given, temperature=TEMPERATURE)


@pytest.mark.parametrize("name", GOALS)
def bench_objectives(benchmark, settings, one_thread, name: str) -> None:  # noqa: F811
    x, y = (unit_rows(N, D, dtype=torch.float32) for _ in range(2))
    # of prefixes, as of whole features, the rows are normalised
    clip = partial(contrastile.clip_loss, x, y, 1 / TEMPERATURE, normalize=name == "matryoshka")
    ours, goal = objective(name, x, y), GOALS[name]
    one, other = in_turn(ours, clip, [x, y], rounds=10, repeats=1)
    figures = dict(ours=round(one), clip_loss=round(other), ratio=round(one / other, 3), goal=goal)
    lines.append(settings.out, "objectives", objective=name, n=N, d=D, dtype="float32", **figures)
    print(f"{name:<16}{one / 1e3:>9.1f}{other / 1e3:>9.1f} ms of clip_loss  {one / other:.2f} (goal {goal})")
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
