"""Loads the native module of a wheel into this Python, without torch, and compares its matrix products.

python packaging/check_module.py WHEEL
"""

import ctypes
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

FLOAT32 = 0
M, N, K = 37, 41, 19


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("contrastile._cpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(path: Path) -> None:
    module = load(path)
    a, b = ([random.uniform(-1, 1) for _ in range(size * K)] for size in (M, N))
    x, y, c = (ctypes.c_float * (M * K))(*a), (ctypes.c_float * (N * K))(*b), (ctypes.c_float * (M * N))()
    module.gemm(ctypes.addressof(x), K, 1, ctypes.addressof(y), K, 1, ctypes.addressof(c), N, M, N, K, FLOAT32, 2)
    for i in range(M):
        for j in range(N):
            true = sum(a[i * K + k] * b[j * K + k] for k in range(K))
            assert abs(c[i * N + j] - true) < 1e-5, (i, j, c[i * N + j], true)
    print(f"{path.name}: products are right on {module.isa()}, Python {sys.version.split()[0]}", flush=True)


def main() -> None:
    wheel = Path(sys.argv[1])
    if wheel.suffix != ".whl":
        return check(wheel)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (module,) = Path(folder).glob("contrastile/_cpu*.so")
        for isa in load(module).supported_isas():
            environment = os.environ | {"CONTRASTILE_CPU_ISA": isa}
            subprocess.run([sys.executable, __file__, module], check=True, env=environment)


if __name__ == "__main__":
    main()
