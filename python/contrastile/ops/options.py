"""How a call is computed: checked once, where it enters the package, and handed down as one record."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..literals import BackendName
from ..ranks import Group, Ranks, resolve
from . import check


@dataclass(slots=True)  # not frozen, which would cost 2 us a call
class EngineOptions:
    """Options of the engine that change no formula. A record belongs to one call, which may set the last
    two."""

    memory_budget: int | None = None
    backend: BackendName = "auto"
    ranks: Ranks | None = None  # None: this process alone
    compute_dtype: torch.dtype | None = None  # None: the features' own; see pair_reduce
    exact_stats: bool = False  # pair_stats returns float64: at z = -1e4 a float32 has three digits behind the point

    @staticmethod
    def of(
        memory_budget: int | None, backend: BackendName, group: Group = None, compute_dtype: torch.dtype | None = None
    ) -> EngineOptions:
        """From the arguments of a public call."""
        check.backend(backend)
        return EngineOptions(check.budget(memory_budget), backend, resolve(group), compute_dtype)
