"""lightly's losses and ours, also where torchvision is missing, which they do not use (standins.py stands in)."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from .standins import enter_shell, forgotten_afterwards, torchvision_stand_in


@contextmanager
def lightly_importable() -> Iterator[None]:
    """lightly's loss modules and the drop-in can be imported inside; skips the running test without lightly."""
    if find_spec("lightly") is None:
        pytest.skip("lightly is missing: pip install --no-deps -r requirements-peers.txt")
    stand_ins = torchvision_stand_in() if find_spec("torchvision") is None else {}
    with forgotten_afterwards("lightly", "contrastile.compat.lightly", *stand_ins):
        sys.modules.update(stand_ins)
        if stand_ins:  # these packages' __init__ need more of torchvision than stands in
            for shell in ("lightly.loss", "lightly.models", "lightly.models.modules"):
                enter_shell(shell)
        yield


def lightly_losses(*names: str) -> dict[str, type]:
    """lightly's own classes; only inside lightly_importable."""
    modules = [importlib.import_module(f"lightly.loss.{name}_loss") for name in ("ntx_ent", "dcl")]
    return {name: getattr(module, name) for module in modules for name in names if hasattr(module, name)}
