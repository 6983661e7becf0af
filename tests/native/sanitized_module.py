"""A plugin of pytest: the native CPU module of the file CONTRASTILE_SANITIZED stands for the installed one."""

import importlib.util
import os
import sys

import torch  # noqa: F401  loaded first, as in backends/native.py

spec = importlib.util.spec_from_file_location("contrastile._cpu", os.environ["CONTRASTILE_SANITIZED"])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["contrastile._cpu"] = module


def pytest_report_header() -> str:
    from contrastile.backends import native

    assert native.cpu is module
    return f"sanitized: {module.__file__}"
