"""The matrix products whose rate is the limit: a large square, and the shapes that a block of pairs has."""

from __future__ import annotations

import torch
from torch import Tensor

from .clock import Step
from .problem import Problem

SQUARE = {"cpu": 1024, "cuda": 8192}
CHUNK = {"cpu": 768, "cuda": 4096}  # rows of a block


def products(problem: Problem) -> dict[str, tuple[Step, float]]:
    """name: (step, FLOP). "chunk gemm" is the three products of a block: scores and both gradients."""
    side, columns, d = SQUARE[problem.device], problem.rows, problem.d
    rows = min(CHUNK[problem.device], columns)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=problem.device).to(problem.dtype)

    a, b, g, x, y = random(rows, d), random(columns, d), random(rows, columns), random(side, side), random(side, side)

    def chunk(_: int) -> None:
        torch.mm(a, b.T)
        torch.mm(g, b)
        torch.mm(g.T, a)

    return {
        "gemm": (lambda _: torch.mm(x, y), 2.0 * side**3),
        "chunk gemm": (chunk, 6.0 * rows * columns * d),
    }
