"""Processes with limits, and the environment that they run in: the working tree as a package, nothing installed."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from glob import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/gpu/site"
BENCH = (str(ROOT / "bench"), str(ROOT / "bench/gpu"), str(ROOT / "tests"))
PROBE = (
    "import json, torch; from contrastile.benchmark.machine import short_name as s; "
    "g = torch.cuda; a = g.is_available(); "
    "print(json.dumps([s(g.get_device_name()), '%d%d' % g.get_device_capability()] if a else None))"
)


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # before any fork
PR_SET_PDEATHSIG = 1


def waited(process: subprocess.Popen[bytes], seconds: float, grace: float = 8.0) -> int:
    """The exit status; -1 where the time was up. Nothing of its process group is left behind, whatever happens."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
        return -1
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def die_with_parent() -> None:
    """In a process just forked: it is killed when its parent ends, however that ends. On Linux; elsewhere nothing."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(SITE), *BENCH, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


def probe() -> tuple[str, str] | None:
    """(short name, capability) of the GPU that torch can use."""
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment(), capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    if found is None:
        print(f"no GPU that torch can use {done.stderr[-300:]}", flush=True)
    return tuple(found) if found else None


def cuda_settings() -> dict[str, str]:
    """Where nvcc is, if it is not on the PATH."""
    homes = sorted(glob("/usr/local/cuda*/bin/nvcc"))
    if shutil.which("nvcc") or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or not homes:
        return {}
    return {"CUDA_HOME": str(Path(homes[-1]).parents[1])}


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit, or beside it."""
    home = cuda_settings().get("CUDA_HOME") or os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    beside = [f"{home}/bin/{name}", *sorted(glob(f"/opt/nvidia/nsight-compute/*/{name}"), reverse=True)]
    return shutil.which(name) or next((path for path in beside if os.access(path, os.X_OK)), None)


def drop_cuda() -> None:
    """Away with a module from before: it would pass for what failed to build."""
    for stale in ROOT.glob("python/contrastile/_cuda*.so"):
        stale.unlink()


def link_site() -> None:
    """A folder from which `import contrastile` finds the working tree and its native modules: links to every file.
    Links that are there stay, so that processes which import from it are not disturbed."""
    package = ROOT / "python/contrastile"
    links = {SITE / "contrastile/triton_kernels": ROOT / "triton_kernels"}  # one link: a folder apart, as it is
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("partial-"):
            links[SITE / "contrastile" / path.relative_to(package)] = path
    for path in [x for x in SITE.rglob("*") if x.is_symlink()]:
        if links.get(path) != path.readlink():
            path.unlink()
    for link, path in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path)
