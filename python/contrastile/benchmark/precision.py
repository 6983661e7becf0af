"""The switch for float32 products on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """float32 products at reduced precision, or not, inside."""
    switch = torch.backends.cuda.matmul
    name, value = (
        ("fp32_precision", "tf32" if allowed else "ieee")
        if hasattr(switch, "fp32_precision")
        else ("allow_tf32", allowed)
    )
    before = getattr(switch, name)
    setattr(switch, name, value)
    try:
        yield
    finally:
        setattr(switch, name, before)
