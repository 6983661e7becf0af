"""Import of the loss files of other packages without the rest of those packages.

Only loss files are compared, and they import little more than torch. What stands between is the __init__ of their
packages, which imports models, image transforms and with them torchvision, timm and hub clients. So a package can be
replaced by a shell, and torchvision by a stand-in, only during the import and only where it is missing: nobody else
finds them. The loss code itself is the installed package's, unchanged.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest
from torch import nn


@cache
def load(module: str, shells: tuple[str, ...] = ()) -> ModuleType:
    """A module of another package; skips the running test where the package is missing.

    shells: packages on the way to the module, and of those it imports, whose __init__ must not run.
    """
    package = module.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install --no-deps -r requirements-peers.txt")
    with forgotten_afterwards(package, "torchvision"):
        enter_shells(shells)
        if find_spec("torchvision") is None:
            sys.modules |= torchvision_stand_in()
        return importlib.import_module(module)


@contextmanager
def forgotten_afterwards(*packages: str) -> Iterator[None]:
    """Removes from sys.modules what was added for these packages, so that a later import runs in full."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in packages:
                del sys.modules[name]


def enter_shells(names: Sequence[str]) -> None:
    """Packages that know where their files are but whose __init__ has not run; parents first."""
    for name in names:
        if name not in sys.modules:
            spec = find_spec(name)
            assert spec is not None, f"{name} is not where it used to be"
            sys.modules[name] = module_from_spec(spec)


def torchvision_stand_in() -> dict[str, ModuleType]:
    """The names that the imported files take from torchvision; no loss uses them."""
    modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops")}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None, is_package=True)
    modules["torchvision"].ops = modules["torchvision.ops"]
    modules["torchvision.ops"].StochasticDepth = nn.Identity
    return modules
