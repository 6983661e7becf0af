"""The CUDA kernels without a device: their sources compiled by the C++ compiler, run by loops over blocks and threads
(csrc/cuda/host_executor.h), behind the backend's own Python code on tensors of the CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pybind11
import pytest
import torch
from torch import Tensor

from contrastile.backends.cuda import CudaBackend
from contrastile.spec import PairBlock
from support.blocks import agree, numbers
from support.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("stats", "score_grad", "small_call", "basis", "segments")
SOURCES = (*(f"cuda/{name}.cu" for name in KERNELS), "cuda/bind.cpp")
LARGEST_GRID = 65535  # blocks along the second axis
FLAGS = "-std=c++17 -O1 -fPIC -fvisibility=hidden -Wall -Werror -fno-strict-aliasing".split()
# they stop the process where 16-byte access is misaligned or an array is left; all of them under `make sanitize`
SANITIZED = os.environ.get("CONTRASTILE_SANITIZE") == "1"
TRAPS = ["-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"]
FLAGS += load_script("setup.py").SANITIZERS if SANITIZED else TRAPS


class HostBackend(CudaBackend):
    """The cuda backend with the executor in place of a device."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def launched(self) -> int:
        """How many kernels ran so far."""
        return ctypes.c_int64.in_dll(ctypes.CDLL(self.module.__file__), "host_launches").value

    def unavailable(self) -> str | None:
        return None

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return super().why_not(torch.device("cuda"), dtype) if device.type == "cpu" else "the executor needs cpu"

    def other_architecture(self, device: torch.device) -> str | None:
        return None

    def place(self, device: torch.device) -> tuple[int, int]:
        return 0, 0


def compiler() -> str | None:
    return shutil.which("g++") if sys.platform.startswith("linux") else None


def build(folder: Path, edit: tuple[str, str, str] | None = None, objects: dict[str, Path] | None = None) -> ModuleType:
    """The module from csrc, or with one edit (file, old text, new text) of it. What is given, or in the folder already,
    is not made again."""
    tree = ROOT / "csrc"
    if edit is not None:
        tree = edited(folder, edit)
    include = includes(tree)
    made = {name: folder / f"{Path(name).stem}.o" for name in (*SOURCES, "host_device.cpp")}
    made |= objects or {}

    def compile_one(name: str) -> None:
        source = ROOT / "tests/native" / name if name == "host_device.cpp" else tree / name
        command = [str(compiler()), *FLAGS, *include, '-DCONTRASTILE_CUDA_ARCHS="host"', "-x", "c++"]
        if edit is not None or name == "cuda/bind.cpp" or (SANITIZED and name == "cuda/basis.cu"):
            command.append("-O0")  # compiled once, run little
        execute([*command, "-c", str(source), "-o", str(made[name])])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, [name for name, path in made.items() if not path.exists()]))
    library = folder / "_cuda.so"
    if not library.exists():
        execute([str(compiler()), *FLAGS, "-shared", *map(str, made.values()), "-o", str(library)])
    return loaded(library)


def edited(folder: Path, edit: tuple[str, str, str]) -> Path:
    """A copy of csrc with one edit (file, old text, new text)."""
    name, old, new = edit
    tree = shutil.copytree(ROOT / "csrc", folder / "csrc")
    text = (tree / name).read_text()
    assert text.count(old) == 1, f"{name}: {text.count(old)} places with {old!r}"
    (tree / name).write_text(text.replace(old, new))
    return tree


def includes(tree: Path) -> list[str]:
    return [f"-I{path}" for path in (tree, pybind11.get_include(), sysconfig.get_paths()["include"])]


def loaded(library: Path) -> ModuleType:
    """pybind11 gives one name one module, so the folder is a part of it."""
    spec = importlib.util.spec_from_file_location(f"{library.parent.name}.{library.stem}", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rebuild(folder: Path, edit: tuple[str, str, str], built: Path, touched: list[str]) -> ModuleType:
    """The module with one edit, from the objects in `built` but for the sources that the edit touches."""
    every = (*SOURCES, "host_device.cpp")
    return build(folder, edit, {name: built / f"{Path(name).stem}.o" for name in every if name not in touched})


def mutated(edit: tuple[str, str, str], built: Path, folder: Path) -> HostBackend:
    """The backend with an edit of what works on pairs."""
    stats, score_grad, small_call = (f"cuda/{name}.cu" for name in ("stats", "score_grad", "small_call"))
    touched = {
        score_grad: [score_grad],
        small_call: [small_call],
        "common/finish.h": [small_call],
        stats: [stats],
        "cuda/partial_stats.h": [stats],
    }
    return HostBackend(rebuild(folder, edit, built, touched.get(edit[0], [stats, score_grad])))


def execute(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def memory_for_scores(planes: int, n: int, m: int, layout: int) -> Tensor:
    """Rows at multiples of 16 bytes; rows without padding; a first element that is not aligned."""
    width = -(-m // 8) * 8 if layout != 1 else m
    return torch.empty(planes * n * width + 1)[layout == 2 :][: planes * n * width].view(planes, n, width)


def check_tiles(host: HostBackend, monkeypatch: pytest.MonkeyPatch, block: PairBlock, layout: int) -> None:
    """Statistics and score gradients against tiles in torch, apart from and in place of scores."""
    scores = memory_for_scores(len(block.operands), len(block.row), len(block.col), layout)
    kept = replace(block, scores=scores)
    found = numbers(host, kept)
    agree(found, block)
    monkeypatch.setenv("CONTRASTILE_HOST_ORDER", "reverse")
    for again in (numbers(host, kept), numbers(host, block)):
        for name, x in again.items():  # the order of threads and blocks, and alignment, change no bit
            assert torch.equal(x.nan_to_num(7.0), found[name].nan_to_num(7.0)), name
    monkeypatch.delenv("CONTRASTILE_HOST_ORDER")
