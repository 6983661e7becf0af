"""What is missing from an installation, and what to do about it."""

from __future__ import annotations

import os
import shlex
import shutil

import torch

from contrastile.backends import available_backends, native
from contrastile.backends.triton_device import missing_triton

_AGAIN = "pip install -v --force-reinstall --no-deps SOURCE"
_COMPILER = "Debian, Ubuntu: apt install g++; macOS: xcode-select --install; conda: conda install cxx-compiler"


def advice() -> dict[str, str]:
    """By name of the backend that cannot run; only what can be helped on this machine. SOURCE is what was given to pip
    before: a folder, an archive or the name."""
    missing = {name: why for name, why in available_backends().items() if why is not None}
    found = {"cpu": _cpu(), "triton": _triton(), "cuda": _cuda()}
    return {name: text for name, text in found.items() if name in missing and text is not None}


def _cpu() -> str | None:
    error = native.import_errors.get("_cpu", "")
    if not error.startswith("No module named"):
        return _unloadable(error)
    compiler = _compiler()
    if compiler is None:
        return f"install a C++17 compiler ({_COMPILER}), then the package again: {_AGAIN}"
    there = f"it was left out of this installation, though {compiler} is here now; install the package again"
    return f"{there}: CONTRASTILE_CPU=1 {_AGAIN} (1: stop and say what is wrong where it cannot be built)"


def _compiler() -> str | None:
    names = shlex.split(os.environ.get("CXX", ""))[:1] or ["g++", "c++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def _unloadable(error: str) -> str:
    if "libgomp" in error:
        return "install the OpenMP runtime (Debian, Ubuntu: apt install libgomp1)"
    return f"it was built for another Python or system; install the package again: {_AGAIN}"


def _cuda() -> str | None:
    if torch.version.cuda is None or native.cuda is not None:
        return None  # a torch without CUDA has no tensors on a GPU
    error = native.import_errors["_cuda"]
    if not error.startswith("No module named"):
        return _unloadable(error)
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    first = "" if nvcc else "install the CUDA toolkit and set CUDA_HOME or PATH, so that nvcc is found, then "
    return f"{first}build it: CONTRASTILE_CUDA=1 {_AGAIN} --no-build-isolation"


def _triton() -> str | None:
    if not torch.cuda.is_available() or missing_triton() is None:
        return None
    return "pip install -U 'triton>=3.4'"
