"""Does the toolchain work: versions, compilers, profilers, the driver, one kernel of Triton."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from typing import Any

import torch
import triton
import triton.language as tl

from processes import tool

from .look import Look

TOOLS = {"nvcc": "nvcc", "ncu": "ncu", "sanitizer": "compute-sanitizer", "driver": "nvidia-smi"}
ASK = {"nvidia-smi": ("--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit", "--format=csv")}


@triton.jit
def double(X, Y, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, 2.0 * tl.load(X + at, mask=at < count), mask=at < count)


def run(look: Look) -> None:
    look.attempt(versions, item="versions")
    for name, program in TOOLS.items():
        look.attempt(lambda program=program: said(program), item=name)
    look.attempt(device, item="device")
    look.attempt(lambda: compiled(look), item="triton kernel")


def versions() -> dict[str, Any]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    return found | {"cuda": torch.version.cuda, "cores": os.cpu_count(), "machine": platform.machine()}


def said(program: str) -> dict[str, Any]:
    path = tool(program)
    if path is None:
        return {"outcome": "missing"}
    command = [path, *ASK.get(program, ("--version",))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return {"path": path, "said": " ".join((done.stdout + done.stderr).split())[-220:], "status": done.returncode}


def device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability(),
        "processors": properties.multi_processor_count, "gigabytes": properties.total_memory / 1e9,
        "l2_megabytes": getattr(properties, "L2_cache_size", 0) / 1e6,
    }  # fmt: skip


def compiled(look: Look) -> dict[str, Any]:
    """Compiler, launcher and driver, once through."""
    x = torch.arange(1000, dtype=torch.float32, device=look.device)
    y, begun = torch.empty_like(x), time.monotonic()
    double[(8,)](x, y, 1000, BLOCK=128)
    torch.cuda.synchronize()
    right = look.dry or bool(torch.equal(y, 2 * x))
    return {"outcome": "ok" if right else "wrong", "seconds": round(time.monotonic() - begun, 2)}
