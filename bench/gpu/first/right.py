"""Right or wrong: losses, backends and types against the references in float64, value and every gradient."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
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
            n, d = (DRY_ROWS[size], DRY_FEATURES) if look.dry else work.checked[size]
            for dtype in look.some(plan.DTYPES[::-1]):
                for backend in BACKENDS:
                    names = {"loss": work.name, "backend": backend, "dtype": dtype, "n": n, "d": d}
                    look.attempt(lambda names=names, work=work: checked(look.device, work.variant, **names), **names)


def checked(device: str, variant: str, loss: str, backend: str, dtype: str, n: int, d: int) -> dict[str, Any]:
    from contrastile.testing import compare

    card, case, truth = expected(device, variant, loss, dtype, n, d)
    found = compare(card, case, truth, backend=backend)
    return {"outcome": "ok" if found.ok else "wrong", "of_budget": round(found.worst, 4), "detail": found.detail}


@lru_cache(maxsize=1)  # for one backend after the other
def expected(device: str, variant: str, loss: str, dtype: str, n: int, d: int) -> tuple[Any, Any, Any]:
    """The loss, its arguments on the device, what the references give for them."""
    from contrastile.catalog import CATALOG
    from contrastile.testing import references

    card = next(card for card in CATALOG if card.name == loss)
    case = card.variants[variant](n, d, torch.Generator().manual_seed(n), getattr(torch, dtype))

    def moved(x: Any) -> Any:
        return x.to(device) if isinstance(x, Tensor) else x

    kwargs = {name: moved(x) for name, x in case.kwargs.items()}
    case = replace(case, args=tuple(map(moved, case.args)), kwargs=kwargs)
    return card, case, references(card, case)
