"""What a figure was measured with: device, versions, date."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import contrastile
from contrastile.backends import native


@dataclass(frozen=True)
class Machine:
    """What a figure was measured with."""

    device: str
    threads: int | None  # None on a GPU
    isa: str | None  # of the native CPU module
    capability: str | None
    driver: str | None
    cuda: str | None
    torch: str
    triton: str | None
    contrastile: str
    date: str  # UTC


def machine(device: str) -> Machine:
    gpu = device == "cuda"
    return Machine(
        device=torch.cuda.get_device_name() if gpu else cpu_model(),
        threads=None if gpu else torch.get_num_threads(),
        isa=None if gpu or native.cpu is None else native.cpu.isa(),
        capability=".".join(map(str, torch.cuda.get_device_capability())) if gpu else None,
        driver=driver() if gpu else None,
        cuda=torch.version.cuda if gpu else None,
        torch=torch.__version__,
        triton=version("triton"),
        contrastile=contrastile.__version__,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    )


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        # Arm kernels list no model name
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match[1]
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.split("\n")[0].strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def short_name(device: str) -> str:
    """NVIDIA H100 80GB HBM3 -> h100."""
    words = re.sub(r"[^a-z0-9]+", " ", device.lower()).split()
    words = [word for word in words if word not in ("nvidia", "amd", "geforce", "instinct", "tesla")]
    return "-".join(words[: 2 if words and words[0] in ("rtx", "gtx") else 1]) or "unknown"
