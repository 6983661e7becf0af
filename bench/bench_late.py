"""Late interaction over the same scores by einsum, with cross-entropy.

64 queries of 32 tokens, 64 documents of 180, D = 128. CPU time of one thread, forward and backward, two sides in turn.
Goals: half the time of einsum + max with the columns of maxima kept, 1 / 1.5 of it without, 1 / 1.8 of the einsum forms
of the soft reduces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from bench_small import compared_in, one_thread  # noqa: F401

ITEMS, TOKENS, LENGTH, D = 64, 32, 180, 128
TEMPERATURE, SHARPNESS = 0.05, 10.0


def soft_mean(z: Tensor) -> Tensor:
    return ((SHARPNESS * z).softmax(3) * z).sum(3)


# what the einsum's scores (queries, documents, tokens, tokens) become, options of ours, the goal
SCORES: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], float]] = {
    "max": (lambda z: z.max(3).values, {}, 1 / 2),
    "max, recomputed": (lambda z: z.max(3).values, {"keep_argmax": False}, 1 / 1.5),
    "lse": (
        lambda z: (SHARPNESS * z).logsumexp(3) / SHARPNESS,
        {"document_reduce": "lse", "sharpness": SHARPNESS},
        1 / 1.8,
    ),
    "softmax_mean": (soft_mean, {"document_reduce": "softmax_mean", "sharpness": SHARPNESS}, 1 / 1.8),
}


def unit_tokens(seed: int, length: int, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(ITEMS, length, D, generator=g), dim=2).to(dtype).requires_grad_()


def loss(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores / TEMPERATURE, torch.arange(ITEMS))


@pytest.mark.parametrize("name", SCORES)
def bench_late(benchmark, settings, one_thread, name: str) -> None:  # noqa: F811
    reduced, options, goal = SCORES[name]
    q, d = unit_tokens(0, TOKENS, torch.float32), unit_tokens(1, LENGTH, torch.float32)
    score = partial(contrastile.maxsim, q, d, **options)
    problem = dict(score=name, queries=ITEMS, documents=ITEMS, tokens=TOKENS, length=LENGTH, d=D, dtype="float32")

    def ours() -> Tensor:
        return loss(score())

    def einsum() -> Tensor:
        return loss(reduced(torch.einsum("ntd,mud->nmtu", q, d)).sum(2))

    compared_in("late", settings, "einsum", ours, einsum, [q, d], goal, 8, **problem)
    benchmark.pedantic(lambda: ours().backward(), rounds=1)
