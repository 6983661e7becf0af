"""Imports the loss files of other packages without the rest of those packages.

The loss files themselves need little more than torch. But the __init__ of their packages imports
models and image transforms, and with them torchvision, timm and hub clients. So these packages are
entered as shells, and torchvision has a stand-in where it is missing: both only during the import,
nobody else finds them. The loss code is the installed package's own, unchanged.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest
from torch import nn


@cache
def load(module: str, shells: tuple[str, ...] = ()) -> ModuleType:
    """A module of another package; skips the running test where that package is missing.

    shells: the packages whose __init__ must not run, parents first.
    """
    package = module.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is missing: pip install --no-deps -r requirements-peers.txt")
    stand_ins = torchvision_stand_in() if find_spec("torchvision") is None else {}
    with forgotten_afterwards(package, *stand_ins):
        sys.modules.update(stand_ins)
        for name in shells:
            enter_shell(name)
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as missing:
            if missing.name == "triton":  # packages of kernels for GPUs
                pytest.skip(f"{package} needs triton")
            raise


@contextmanager
def forgotten_afterwards(*names: str) -> Iterator[None]:
    """Removes what was added to sys.modules under these names, so that later imports start anew."""
    before = set(sys.modules)
    inside = tuple(f"{name}." for name in names)
    try:
        yield
    finally:
        for added in set(sys.modules) - before:
            if added in names or added.startswith(inside):
                del sys.modules[added]


def enter_shell(name: str) -> None:
    """Makes a package known that can find its submodules but whose __init__ has not run."""
    if name not in sys.modules:
        spec = find_spec(name)
        assert spec is not None, f"{name} is not where it used to be"
        sys.modules[name] = module_from_spec(spec)


def torchvision_stand_in() -> dict[str, ModuleType]:
    """What lightly's memory bank takes from torchvision, by way of lightly.models.utils.

    No loss uses it.
    """
    ops = ModuleType("torchvision.ops")
    ops.StochasticDepth = nn.Identity
    return {"torchvision": ModuleType("torchvision"), "torchvision.ops": ops}
