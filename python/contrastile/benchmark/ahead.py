"""Compiles the kernels of the triton backend ahead of time, on any machine that has Triton.

`install` gives this process a Triton driver that compiles for a given GPU and launches nothing, and lets the triton
backend take CPU tensors. A loss that then runs computes noise, but goes through all of the backend's Python, and
compiles, or finds in Triton's cache, the very kernels that it needs on the GPU. So processes of their own can fill the
cache side by side before anything is timed, and a machine without a GPU can show what a kernel costs.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from contrastile.backends import (
    triton,
    triton_device,
    triton_fused,
    triton_kept,
    triton_launch,
    triton_merge,
    triton_plan,
    triton_segments,
    triton_small,
)

MODULES: tuple[ModuleType, ...] = (
    triton, triton_device, triton_fused, triton_kept, triton_launch, triton_merge, triton_plan, triton_segments,
    triton_small,
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """What the backend and Triton ask of a GPU."""

    capability: tuple[int, int] = (9, 0)
    processors: int = 132
    shared: int = 227 << 10  # bytes a block may have

    @property
    def number(self) -> int:
        return 10 * self.capability[0] + self.capability[1]


@dataclass(frozen=True)
class Kernel:
    """A kernel that would have been loaded."""

    name: str
    cubin: bytes
    warps: int = 0
    shared: int = 0  # bytes of a block
    constants: dict[str, Any] = field(default_factory=dict)  # arguments that are compiled in

    def usage(self) -> tuple[int, int]:
        """(registers, bytes of stack) of a thread. A kernel of the package has a stack only for what it spills."""
        import triton as package

        tool = Path(package.__file__).parent / "backends/nvidia/bin/cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
        found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
        if found is None:
            raise RuntimeError(f"cuobjdump says nothing of registers: {done.stdout[-200:]}")
        return int(found[1]), int(found[2])


def install(device: Device) -> list[Kernel]:
    """For the whole process, and for good. Returns the list that every kernel is added to."""
    import triton as package

    kernels: list[Kernel] = []
    package.runtime.driver.set_active(Driver(device, kernels))
    replace_everywhere("architecture", lambda _: architecture(device))
    replace_everywhere("processors", lambda _: device.processors)
    replace_everywhere("precision", precision)
    for name in ("why_not", "unavailable"):
        setattr(triton.TritonBackend, name, lambda *_: None)
    return kernels


def replace_everywhere(name: str, value: Any) -> None:
    for module in MODULES:
        if hasattr(module, name):
            setattr(module, name, value)


def architecture(device: Device) -> str:
    from contrastile.triton_kernels import config

    return str(config.architecture(device.capability))


def precision(features: Tensor) -> str:
    return "tf32" if features.dtype == torch.float32 and triton_device.tf32_allowed() else "ieee"


class Driver:
    """What Triton (3.4 to 3.9) asks of a driver."""

    def __init__(self, device: Device, kernels: list[Kernel]) -> None:
        self.device, self.utils = device, Utils(device, kernels)

    def launcher_cls(self, source: Any, metadata: Any) -> Launcher:
        """Made before the kernel is loaded."""
        names = source.fn.arg_names
        # by their places; longer ones are those of what is in a tuple
        self.utils.constants = {names[place[0]]: x for place, x in source.constants.items() if len(place) == 1}
        self.utils.warps = metadata.num_warps
        return Launcher(source, metadata)

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.device.number, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Utils:
    def __init__(self, device: Device, kernels: list[Kernel]) -> None:
        self.device, self.kernels = device, kernels
        self.constants: dict[str, Any] = {}  # of the kernel that is loaded next
        self.warps = 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.device.shared, "multiprocessor_count": self.device.processors}

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.kernels.append(Kernel(name, cubin, self.warps, shared, self.constants))
        return 1, 1, 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module: int) -> None:
        pass


class Launcher:
    """Up to Triton 3.6 a launcher is C that a compiler makes for every signature: also that is then in the cache."""

    def __init__(self, source: Any, metadata: Any) -> None:
        from triton.backends.nvidia import driver

        if hasattr(driver, "make_launcher"):
            try:
                driver.CudaLauncher(source, metadata)
            except Exception as error:  # no libcuda to link with: AssertionError, CalledProcessError, ImportError
                if torch.cuda.is_available():
                    raise RuntimeError("Triton's launcher cannot be compiled ahead of time") from error

    def __call__(self, *_: Any) -> None:
        pass
