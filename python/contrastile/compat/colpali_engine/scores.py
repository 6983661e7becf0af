"""MaxSim scores in the place of colpali_engine.utils.maxsim, where the package's own losses find them."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from ..instance import InstancePatch
from ..token_scores import of_all, of_own

BACKENDS = ("auto", "torch")


def maxsim_inbatch(query: Tensor, doc: Tensor) -> Tensor:
    """Every query (B, T, D) with all documents (C, U, D): (B, C). Padding must be zeros: it scores 0 like any token."""
    check_switch()
    return of_all(query, doc)


def maxsim_kd(query: Tensor, doc: Tensor) -> Tensor:
    """Every query (B, T, D) with documents of its own, (B, N, U, D): (B, N)."""
    check_switch()
    return of_own(query, doc)


def check_switch() -> None:
    """COLPALI_SCORES_BACKEND, which the package reads at every call."""
    name = os.environ.get("COLPALI_SCORES_BACKEND", "auto").lower()
    if name not in BACKENDS:
        raise ValueError(
            f"COLPALI_SCORES_BACKEND must be one of {BACKENDS} with these scores, got {name!r}: take the package's own"
        )


def patch(module: Any) -> InstancePatch:
    """Gives colpali_engine.loss.late_interaction_losses these scores; undo() of what is returned takes them back."""
    return InstancePatch(module, {"maxsim_inbatch": maxsim_inbatch, "maxsim_kd": maxsim_kd}, replace=True)
