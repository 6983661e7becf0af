"""Small batches: `triton` against eager torch, launched one by one and as a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch

import eager
from contrastile.benchmark.problem import Problem, stepper
from contrastile.benchmark.suite import Loss

from . import plan
from .look import Look, graphed, milliseconds

LOSSES = ("clip_loss", "siglip_loss", "nt_xent")
REPEATS = 5


def run(look: Look) -> None:
    look.warm_up()
    for n in look.some(plan.SMALL):
        for name in look.some(LOSSES):
            batch = n // 2 if name == "nt_xent" else n  # two views of each
            problem = Problem(name, look.rows(batch), look.rows(768), torch.bfloat16, device=look.device)
            for candidate in ("triton", "eager"):
                for way in ("plain", "graph"):
                    names = {"loss": name, "n": n, "candidate": candidate, "way": way}
                    look.attempt(lambda p=problem, c=candidate, w=way: timed(look, p, c, w), **names)


def timed(look: Look, problem: Problem, candidate: str, way: str) -> dict[str, Any]:
    step = stepper(loss_of(problem, candidate), [problem.case(0)], backward=True)
    step(0)
    call = graphed(lambda: step(0)) if way == "graph" else lambda: step(0)
    return {"us": 1e3 * milliseconds(call, 1 if look.dry else REPEATS)}


def loss_of(problem: Problem, candidate: str) -> Loss:
    if candidate == "eager":
        return eager.FASTER[problem.loss, "default"]
    return problem.candidates[f"contrastile {candidate}"].make(problem)
