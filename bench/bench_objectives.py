"""Softmax objectives of the papers over `clip_loss` of the same features.

CPU time of one thread, forward and backward, two sides in turn. Goals: 1.2 of several positives, mixtures and
prototypes, 1.15 of a state for every sample, 1.6 of five prefixes of the features, 1.05 of a report of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import contrastile as c
from bench_small import compared_in, one_thread, unit_rows  # noqa: F401
from contrastile.metrics import InBatch

N, D, SCALE = 4096, 512, 14.3
PREFIXES = (32, 64, 128, 256, 512)
PLAIN, STATE, NESTED, REPORTED = 1.2, 1.15, 1.6, 1.05

Step = Callable[[Tensor, Tensor], Tensor]
INDEX = torch.arange(N)
IDS, ORDER, SHARE = INDEX // 2, INDEX.roll(7), torch.linspace(0.0, 1.0, N)
OBJECTIVES: dict[str, tuple[Step, float]] = {
    "multi_positive": (partial(c.multi_positive, query_ids=IDS, temperature=1 / SCALE), PLAIN),
    "multi_positive, in": (partial(c.multi_positive, query_ids=IDS, temperature=1 / SCALE, form="in"), PLAIN),
    "mixup_info_nce": (partial(c.mixup_info_nce, partner=ORDER, share=SHARE, temperature=1 / SCALE), PLAIN),
    "prototype_loss": (partial(c.prototype_loss, labels=ORDER, temperature=1 / SCALE), PLAIN),
    "SogCLR": (partial(c.SogCLR(N, temperature=1 / SCALE), index=INDEX), STATE),
    "ISogCLR": (partial(c.ISogCLR(N, temperature=1 / SCALE), index=INDEX), STATE),
    "FastCLIP, v2": (partial(c.FastCLIP(N, "v2", temperature=1 / SCALE), index=INDEX), STATE),
    "clip_loss, scale of each pair": (partial(c.clip_loss, logit_scale=torch.linspace(10.0, 20.0, N)), STATE),
    "clip_loss, matryoshka": (partial(c.clip_loss, logit_scale=SCALE, matryoshka=PREFIXES, normalize=True), NESTED),
    "clip_loss, report": (partial(c.clip_loss, logit_scale=SCALE, report=InBatch()), REPORTED),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def bench_objective(benchmark, settings, one_thread, name: str) -> None:  # noqa: F811
    step, goal = OBJECTIVES[name]
    features = [unit_rows(N, D, dtype=torch.float32) for _ in range(2)]
    ours, plain = partial(step, *features), partial(c.clip_loss, *features, SCALE)
    problem = dict(loss=name, n=N, d=D, dtype="float32")
    compared_in("objectives", settings, "clip_loss", ours, plain, features, goal, 8, **problem)
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
