"""Right or wrong: losses, backends and types against the references in float64, value and every gradient."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import plan
from .look import Look

BACKENDS = ("triton", "cuda", "torch")
DRY_ROWS, DRY_FEATURES = (20, 37), 16  # for Triton's interpreter, which is slow


def before_import(dry: bool) -> None:
    """Here numbers matter: without a GPU the kernels are interpreted."""
    if dry:
        os.environ["TRITON_INTERPRET"] = "1"


def run(look: Look) -> None:
    for size in look.some((0, 1)):
        for work in plan.WORKLOADS:
            n, d = (DRY_ROWS[size], DRY_FEATURES) if look.dry else (work.checked[size], work.d)
            for backend in BACKENDS:
                for dtype in look.some(plan.DTYPES[::-1]):
                    names = {"loss": work.name, "backend": backend, "dtype": dtype, "n": n, "d": d}
                    look.attempt(lambda names=names, work=work: checked(look, work.variant, **names), **names)


def checked(look: Look, variant: str, loss: str, backend: str, dtype: str, n: int, d: int) -> dict[str, Any]:
    from contrastile.catalog import CATALOG
    from contrastile.testing import compare

    card = next(card for card in CATALOG if card.name == loss)
    case = card.variants[variant](n, d, torch.Generator().manual_seed(n), getattr(torch, dtype))

    def moved(x: Any) -> Any:
        return x.to(look.device) if isinstance(x, Tensor) else x

    kwargs = {name: moved(x) for name, x in case.kwargs.items()}
    found = compare(card, replace(case, args=tuple(map(moved, case.args)), kwargs=kwargs), backend=backend)
    return {"outcome": "ok" if found.ok else "wrong", "of_budget": round(found.worst, 4), "detail": found.detail}
