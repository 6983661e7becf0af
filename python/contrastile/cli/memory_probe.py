"""Peak extra memory of one CLIP loss, forward and backward, in a process of its own."""

import torch

from contrastile.backends import select
from contrastile.benchmark.measure import probe
from contrastile.benchmark.memory import ProbeError
from contrastile.benchmark.problem import Problem
from contrastile.benchmark.suite import DENSE

__all__ = ["FEATURES", "ProbeError", "Series", "measure"]

Series = dict[int, int]  # rows -> peak extra bytes

FEATURES = 64


def measure(implementation: str, rows: int) -> int:
    """Peak bytes beyond the inputs that ``implementation``, "dense" or "contrastile", needs for ``rows`` pairs.

    Raises:
        ProbeError: the process failed or saw no rise; the message says which.
    """
    backend = select("auto", torch.device("cpu"), torch.float32, rows**2).name
    name = {"dense": DENSE, "contrastile": f"contrastile {backend}"}[implementation]
    problem = Problem("clip_loss", rows, FEATURES, torch.float32)
    return probe(problem, problem.candidates[name]).peak_bytes
