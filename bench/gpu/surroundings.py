"""What a figure was measured with; every JSON line carries it."""

from __future__ import annotations

import datetime
import re
import subprocess
from importlib import metadata
from typing import Any

import torch

import contrastile


def surroundings(device: str) -> dict[str, Any]:
    gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if gpu else None,
        "driver": driver() if gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version("triton"),
        "contrastile": contrastile.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def short_name(device: str) -> str:
    """NVIDIA H100 80GB HBM3 -> h100."""
    words = re.sub(r"[^a-z0-9]+", " ", device.lower()).split()
    words = [word for word in words if word not in ("nvidia", "amd", "geforce", "instinct", "tesla")]
    return "-".join(words[: 2 if words and words[0] in ("rtx", "gtx") else 1]) or "unknown"
