"""The losses of GradCache (luyug/GradCache, 906f038), for `GradCache(loss_fn=..)`. The package is not needed.

L_i = log sum_j e^<x_i, y_j> - <x_i, y_target(i)>,      target_i = (n_hard_negatives + 1) i
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions
from ..ranks import Ranks
from .groups import contrast
from .ranks import ranks_of


class SimpleContrastiveLoss:
    """Cross-entropy of each row of x over all rows of y.

    n_hard_negatives: y has that many rows more for each row of x, after its own. memory_budget, backend: as in
    contrastile.pair_reduce.
    """

    ranks: Ranks | None = None  # whose rows take part

    def __init__(
        self, n_hard_negatives: int = 0, *, memory_budget: int | None = None, backend: BackendName = "auto"
    ) -> None:
        EngineOptions.of(memory_budget, backend)
        self.target_per_qry: int | None = n_hard_negatives + 1
        self.memory_budget = memory_budget
        self.backend = backend

    def __call__(self, x: Tensor, y: Tensor, target: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """x: (N, D), y: (M, D). target: (N,), the row of y that belongs to each row of x, in the place of the first of
        each group. reduction: "mean" | "sum" | "none": (N,). float32 (float64 for float64 features)."""
        return contrast(
            x, y, target, reduction=reduction, memory_budget=self.memory_budget, backend=self.backend, group=self.ranks,
            names=("x", "y"), size=self.target_per_qry, jointly=True,
        )  # fmt: skip


class DistributedContrastiveLoss(SimpleContrastiveLoss):
    """The loss of the rows of all processes on each of them, with the gradient of its own rows.

    target: of the rows of all processes, among the rows of y of all. Not with reduction="none", which would want the
    rows of all processes on each.
    """

    def __init__(
        self, n_hard_negatives: int = 0, *, memory_budget: int | None = None, backend: BackendName = "auto"
    ) -> None:
        if not torch.distributed.is_initialized():
            raise RuntimeError("DistributedContrastiveLoss needs torch.distributed.init_process_group")
        super().__init__(n_hard_negatives, memory_budget=memory_budget, backend=backend)
        self.ranks = ranks_of()


class ContrastiveLossWithQueryClosure(SimpleContrastiveLoss):
    """SimpleContrastiveLoss of (x, y), or of y alone where query_closure() gives x."""

    def __call__(  # type: ignore[override]  # the package's arguments
        self,
        *reps: Tensor,
        query_closure: Callable[[], Tensor] | None = None,
        target: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        if len(reps) not in (1, 2):
            raise ValueError(f"one or two tensors are expected, got {len(reps)}")
        if (len(reps) == 1) != (query_closure is not None):
            raise ValueError("query_closure must be given with one tensor, and only with one")
        both: tuple[Any, ...] = reps if query_closure is None else (query_closure(), *reps)
        return super().__call__(both[0], both[1], target, reduction)
