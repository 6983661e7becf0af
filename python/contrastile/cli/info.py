"""Show versions, hardware, backends and settings of this installation."""

import argparse
import ctypes
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

import contrastile
from contrastile.backends import native
from contrastile.benchmark.machine import cpu_model, version
from contrastile.cli import choice
from contrastile.cli.advice import advice
from contrastile.cli.bench_options import DTYPES, dtype, positive

Section = dict[str, Any]

_OPENMP = re.compile(r"lib(?:gomp|iomp|omp)[^/]*\.so[^/]*$")
_CUDA_RUNTIME = re.compile(r"libcudart[^/]*\.so[^/]*$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--n", type=positive, default=4096, help="rows of the problem that `auto` gets (default: 4096)")
    parser.add_argument("--m", type=positive, help="its columns (default: N)")
    parser.add_argument("--dtype", type=dtype, help=f"its feature type: {', '.join(DTYPES)} (default: several)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if torch finds a GPU")


def run(options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        print("info: torch finds no GPU", file=sys.stderr)
        return 2
    report = collect() | {"auto": _auto_section(options)}
    print(json.dumps(report, indent=2) if options.json else _format_report(report))
    return 0


def collect() -> dict[str, Any]:
    """Everything a bug report needs, as JSON-ready sections; absent things are None."""
    # backends first: probing them maps the native libraries that _cpu_section then lists
    backends = contrastile.available_backends()
    report: dict[str, Any] = {
        "versions": _versions(),
        "cpu": _cpu_section(),
        "cuda": _cuda_section(),
        "backends": {name: reason or "available" for name, reason in backends.items()},
        "what to do": advice(),
        "native modules": {name: native.import_errors.get(name, "loaded") for name in ("_cpu", "_cuda")},
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("CONTRASTILE_")},
    }
    report["warnings"] = _warnings(report)
    return report


def _versions() -> Section:
    return {
        "contrastile": contrastile.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "numpy": version("numpy"),
    }


def _auto_section(options: argparse.Namespace) -> Section:
    """The backend that backend="auto" takes for each type, and why."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    n, m = options.n, options.m or options.n
    dtypes = [options.dtype] if options.dtype else [torch.float32, torch.bfloat16, torch.float64]
    found = {x: choice.auto(device, x, n * m) for x in dtypes}
    return {
        f"{n:,} x {m:,} {str(x).removeprefix('torch.')} on {device.type}": f"{name}: {why}"
        for x, (name, why) in found.items()
    }


def _cpu_section() -> Section:
    return {
        "model": cpu_model(),
        "instruction set": native.cpu.isa() if native.cpu else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "OpenMP runtimes": _mapped_libraries(_OPENMP),
    }


def _mapped_libraries(pattern: re.Pattern[str]) -> list[str]:
    """Paths of the shared libraries in this process whose name matches (Linux; empty elsewhere)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "/" in line}
    return sorted({os.path.realpath(path) for path in paths if pattern.search(path)})


def _cuda_section() -> Section:
    return {
        "torch build": torch.version.cuda,
        "torch HIP build": torch.version.hip,
        "runtime": _cuda_runtime_version(),
        "driver": _nvidia_driver_version(),
        "driver supports CUDA": _call_version("libcuda.so.1", "cuDriverGetVersion"),
        "architectures in _cuda": native.cuda.archs if native.cuda else None,
        "devices": [_describe_device(index) for index in range(torch.cuda.device_count())],
    }


def _nvidia_driver_version() -> str | None:
    path = Path("/sys/module/nvidia/version")
    return path.read_text().strip() if path.exists() else None


def _cuda_runtime_version() -> str | None:
    mapped = _mapped_libraries(_CUDA_RUNTIME)
    return _call_version(mapped[0], "cudaRuntimeGetVersion") if mapped else None


def _call_version(library: str, function: str) -> str | None:
    """Version from a CUDA query ``int f(int* version)``; None where it is not installed."""
    version = ctypes.c_int()
    try:
        status = getattr(ctypes.CDLL(library), function)(ctypes.byref(version))
    except OSError:
        return None
    # CUDA packs 12.4 as 12040
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if status == 0 else None


def _describe_device(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    gib = properties.total_memory / 2**30
    return f"{properties.name}, capability {properties.major}.{properties.minor}, {gib:.0f} GiB"


def _warnings(report: dict[str, Any]) -> list[str]:
    runtimes = report["cpu"]["OpenMP runtimes"]
    if len(runtimes) < 2:
        return []
    return [
        f"{len(runtimes)} OpenMP runtimes are mapped: their thread pools compete for the same "
        "cores. Import torch before other packages, or remove the duplicate."
    ]


def _format_report(report: dict[str, Any]) -> str:
    sections = {title: section for title, section in report.items() if title != "warnings"}
    width = max(len(key) for section in sections.values() for key in section)
    blocks = [f"{title}\n{_format_section(section, width)}" for title, section in sections.items() if section]
    return "\n\n".join([*blocks, *(f"WARNING: {warning}" for warning in report["warnings"])])


def _format_section(section: Section, width: int) -> str:
    return "\n".join(
        f"  {(key if position == 0 else '').ljust(width)}  {text}"
        for key, value in section.items()
        for position, text in enumerate(_value_texts(value))
    )


def _value_texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return ["none" if item is None else str(item) for item in values or [None]]
