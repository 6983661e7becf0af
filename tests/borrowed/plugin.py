"""Runs under another package's pytest (-p borrowed.plugin): puts the drop-ins in place, and writes how each test ended.

A test counts as one of a drop-in's if it called one.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import random
import sys
from abc import ABCMeta
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from .packages import PACKAGES, Package


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("borrowed")
    group.addoption("--package", help="a key of PACKAGES")
    group.addoption("--replace", action="store_true", help="put the drop-ins in place")
    group.addoption("--outcomes", help="a file: {test: {outcome, message, called}} as JSON")


def pytest_configure(config: pytest.Config) -> None:
    package = PACKAGES[config.getoption("--package")]
    if package.missing and find_spec("transformers") is not None:
        import_module("transformers")  # asks what there is, and must not see stand-ins
    sys.meta_path.append(StandIns(tuple(name for name in package.missing if find_spec(name) is None)))
    outcomes = Outcomes(config.getoption("--outcomes"))
    if config.getoption("--replace"):
        replace(package, outcomes)
    config.pluginmanager.register(outcomes)


class StandIns(MetaPathFinder, Loader):
    """Modules that are missing: every name is there, none is of use. A test that needs one fails with and without the
    drop-ins."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Shell(name, (torch.nn.Module,), {}) if name[0].isupper() else MagicMock(name=name)


class Shell(ABCMeta):
    """Of classes that may be extended, and have every name, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return MagicMock(name=name)


def replace(package: Package, outcomes: Outcomes) -> None:
    """Everywhere a module holds the original. A name that this version of the package lacks is left out."""
    pairs = []
    for name, module in package.names.items():
        owner, _, short = name.rpartition(".")
        theirs = getattr(import_module(owner), short, None)
        if theirs is not None:
            pairs.append((theirs, outcomes.counted(getattr(import_module(module), short))))
    for module in list(sys.modules.values()):
        if module.__name__.partition(".")[0] in ("contrastile", __name__.partition(".")[0]):
            continue  # a drop-in may extend the original
        for key, value in list(vars(module).items()):
            for theirs, ours in pairs:
                if value is theirs:
                    setattr(module, key, ours)


class Outcomes:
    """How every test ended, and whether it called a drop-in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tests: dict[str, dict[str, Any]] = {}
        self.called: set[str] = set()
        self.classes: set[type] = set()
        torch.nn.modules.module.register_module_forward_pre_hook(self.before)

    def counted(self, ours: Any) -> Any:
        """A function that notes its call; a class as it is, whose calls are noted by a hook."""
        if inspect.isclass(ours):
            self.classes.add(ours)
            return ours

        @functools.wraps(ours)
        def function(*args: Any, **kwargs: Any) -> Any:
            self.note()
            return ours(*args, **kwargs)

        return function

    def before(self, module: torch.nn.Module, args: object) -> None:
        if any(cls in self.classes for cls in type(module).__mro__):
            self.note()

    def note(self) -> None:
        self.called.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])

    def pytest_runtest_setup(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        seed: Callable[[int], None] = import_module("numpy").random.seed
        seed(0)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tests[report.nodeid] = {"outcome": "failed", "message": last_line(report)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of setup, call and teardown."""
        known = self.tests.setdefault(report.nodeid, {"outcome": "passed", "message": ""})
        if report.outcome != "passed" and known["outcome"] != "failed":
            known.update(outcome=report.outcome, message=last_line(report))

    def pytest_sessionfinish(self) -> None:
        for test, known in self.tests.items():
            known["called"] = test in self.called
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(self.tests, file)


def last_line(report: pytest.CollectReport | pytest.TestReport) -> str:
    """What went wrong, in one line."""
    lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")] or [report.longreprtext]
    return lines[0].removeprefix("E").strip()[:300]
