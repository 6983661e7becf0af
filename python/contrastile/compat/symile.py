"""symile's Symile and MIPSimilarity: the same calls, values and random draws, no N x N logits (`symile` 0.1.0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from ..literals import BackendName
from ..losses.symile import Sampling, mip_similarity, symile_loss


class Symile:
    """Symile()(representations, logit_scale): the mean over modalities of the loss with that one as the anchor.

    Like the package's class it is no nn.Module and holds no tensors. "n" draws its permutations from torch's global
    generator of the CPU, anchor by anchor, so that equal seeds give equal negatives, on any device.

    Args:
        negative_sampling: "n": N - 1 shuffled tuples per anchor row; "n_squared": all other tuples of the batch.
        memory_budget, backend: As in contrastile.symile_loss.
    """

    def __init__(
        self, negative_sampling: Sampling = "n", *, memory_budget: int | None = None, backend: BackendName = "auto"
    ) -> None:
        self.negative_sampling = negative_sampling
        self.memory_budget = memory_budget
        self.backend = backend
        self._negatives()

    def _negatives(self) -> Sampling:
        """Checked at every call, as in the package: the attribute may have been set since."""
        if self.negative_sampling not in get_args(Sampling):
            raise ValueError(f"negative_sampling must be 'n' or 'n_squared', got {self.negative_sampling!r}")
        return self.negative_sampling

    def forward(self, representations: Sequence[Tensor], logit_scale: float | Tensor) -> Tensor:
        """representations: a list of two or more (N, D) batches. Returns a scalar, float32 (float64 for float64)."""
        if isinstance(representations, Tensor):
            raise TypeError("representations must be a list of tensors, one per modality, got a torch.Tensor")
        negatives = self._negatives()
        # the package calls torch.randperm without a device, whatever device the features are on
        generator = torch.default_generator if negatives == "n" else None
        return symile_loss(
            *representations, logit_scale=logit_scale, negatives=negatives, generator=generator,
            memory_budget=self.memory_budget, backend=self.backend,
        )  # fmt: skip

    def __call__(self, representations: Sequence[Tensor], logit_scale: float | Tensor) -> Tensor:
        return self.forward(representations, logit_scale)

    def __repr__(self) -> str:
        return f"Symile(negative_sampling={self.negative_sampling!r})"


class MIPSimilarity:
    """MIPSimilarity()(candidates, query_reps): multilinear inner products, (queries, candidates). Dense, as theirs."""

    def forward(self, candidates: Tensor, query_reps: Sequence[Tensor]) -> Tensor:
        """candidates (M, D); query_reps a list of (N, D) or (D,). Returns (N, M), float32 (float64 for float64)."""
        return mip_similarity(candidates, query_reps)

    def __call__(self, candidates: Tensor, query_reps: Sequence[Tensor]) -> Tensor:
        return self.forward(candidates, query_reps)

    def __repr__(self) -> str:
        return "MIPSimilarity()"
