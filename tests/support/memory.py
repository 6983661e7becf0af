"""What a computation holds: bytes that autograd saves, and the peak of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import contrastile
from contrastile.ops import library

needs_linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")


def saved_bytes(function: Callable[..., Tensor], *leaves: Tensor) -> int:
    """Bytes of all tensors a graph holds, each storage once; leaves and what they share are free."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = function(*leaves)
    assert value.requires_grad
    own = {x.untyped_storage().data_ptr() for x in leaves}
    return sum(size for pointer, size in storages.items() if pointer not in own)


class LiveBytes(TorchDispatchMode):
    """peak: the most bytes that what was made inside held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == "contrastile::pair_loss":
            with self:
                return library.pair_loss(*args)
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: found for key, found in self.live.items() if not found[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


PROBE = """
import re, sys, torch, contrastile
from pathlib import Path
from typing import Any

torch.set_num_threads(2)

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def step(n):
    x, y = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1).requires_grad_() for _ in "ab")
    CALL.backward()

if GROWN:  # from now on glibc serves blocks up to this size from its heap, and gives them back when it can
    del [torch.empty(31 << 20, dtype=torch.uint8).fill_(1)][:]
step(40)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = peak()
step(ROWS)
print(peak() - before)
"""


def peak_bytes(call: str, rows: int = 8192, grown: bool = False) -> int:
    """Peak memory of forward and backward at D = 64, beyond what the process had before. grown: in a process whose heap
    has held large blocks."""
    path = str(Path(contrastile.__file__).parents[1])
    # glibc: a fixed threshold gives every freed block back at once, so that none hides in the base
    environment = {**os.environ, "PYTHONPATH": path} | ({} if grown else {"MALLOC_MMAP_THRESHOLD_": "65536"})
    code = PROBE.replace("CALL", call).replace("ROWS", str(rows)).replace("GROWN", str(grown))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)
