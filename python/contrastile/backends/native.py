"""Loads the compiled modules; a missing one is a reason to report, never an import error of the package."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch  # noqa: F401  loaded first, so that the modules share torch's OpenMP runtime

import_errors: dict[str, str] = {}


def _load(name: str) -> ModuleType | None:
    try:  # not `from . import`: that reports a missing module as a circular import
        return import_module(f"contrastile.{name}")
    except ImportError as error:
        import_errors[name] = str(error)
        return None


cpu = _load("_cpu")
cuda = _load("_cuda")
