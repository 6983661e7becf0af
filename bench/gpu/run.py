"""run.py [--out DIR] [--limit PART=SECONDS ...] PART ...: proof on a machine with a GPU, without a network.

    build     the native modules, the CUDA one for this machine's GPU alone
    test      the whole suite with --run-gpu=require, the tests that need the GPU first
    bench     figures.py: one JSON line per candidate and problem, in DIR/<device>.jsonl
    sanitize  compute-sanitizer over the tests named test_sanitized*

Uses the Python it runs under and installs nothing: build/gpu/site holds links to the package. A part that fails or is
stopped at its limit does not stop the next ones; then the exit status is 1. Logs are in DIR/logs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from table import lines

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/gpu/site"
BENCH = (str(ROOT / "bench"), str(ROOT / "bench/gpu"), str(ROOT / "tests"))
LIMITS = {"build": 150, "test": 240, "bench": 240, "sanitize": 420}  # seconds
TOTAL = 585  # of all parts, unless limits are given
GPU_SHARE = 0.7  # of the time for tests, at most, goes to those that need the GPU
LOST = 13  # figures.py: its process broke, another must go on
PROBE = (
    "import json, torch; from contrastile.benchmark.machine import short_name as s; "
    "g = torch.cuda; a = g.is_available(); "
    "print(json.dumps([s(g.get_device_name()), '%d%d' % g.get_device_capability()] if a else None))"
)


@dataclass(frozen=True)
class Outcome:
    part: str
    status: int  # 0: all well; -1: stopped at its limit
    seconds: float
    last: str  # the last line of the log


class Runner:
    def __init__(self, out: Path, limits: dict[str, int], seconds: float) -> None:
        self.out, self.limits, self.deadline = out, limits, time.monotonic() + seconds
        self.logs = out / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.outcomes: list[Outcome] = []
        self.device: tuple[str, str] | None = None

    def limit(self, part: str) -> float:
        return max(min(self.limits[part], self.deadline - time.monotonic()), 10)

    def execute(self, name: str, command: list[str], seconds: float, **env: str) -> int:
        """Runs it, its output in a log; at the limit it is interrupted, so that it can still sum up, then killed."""
        print(f"[{name}] at most {seconds:.0f} s", flush=True)
        start, log = time.monotonic(), self.logs / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(**env), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            status = waited(process, seconds)
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        took = time.monotonic() - start
        self.outcomes.append(Outcome(name, status, took, said[-1].strip("= ") if said else ""))
        if status:
            print("\n".join(f"    {line[:200]}" for line in said[-15:]), flush=True)
        return status

    def build(self) -> None:
        begun, limit = time.monotonic(), self.limit("build")
        command = [sys.executable, "setup.py", "build_ext", "--inplace", "--parallel", "2"]
        settings = cuda_settings() | ({"CONTRASTILE_CUDA_ARCHS": self.device[1]} if self.device else {})
        if os.environ.get("CONTRASTILE_CUDA_ARCHS"):
            settings.pop("CONTRASTILE_CUDA_ARCHS", None)
        if self.execute("build", command, limit, CONTRASTILE_CUDA="1", **settings):
            for stale in ROOT.glob("python/contrastile/_cuda*.so"):  # it would pass for what failed to build
                stale.unlink()
            left = max(limit - (time.monotonic() - begun), 30)
            self.execute("build-without-cuda", command, left, CONTRASTILE_CUDA="0")
        link_site()

    def test(self) -> None:
        begun, limit = time.monotonic(), self.limit("test")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-gpu=require", "--tb=short"]
        command += ["--durations=10", "--continue-on-collection-errors"]
        many = find_spec("xdist") is not None
        cores = os.cpu_count() or 1
        for name, marker, workers, share in (
            ("test-gpu", "gpu", min(cores, 12), GPU_SHARE),
            ("test-cpu", "not gpu", min(cores, 16), 1.0),
        ):
            # by module on the CPU: some of them build something once for all their tests
            spread = ["-n", str(workers), "--dist", "worksteal" if marker == "gpu" else "loadscope"] if many else []
            left = share * limit - (time.monotonic() - begun)
            self.execute(name, [*command, "-m", marker, *spread], max(left, 20))

    def bench(self) -> None:
        begun, limit = time.monotonic(), self.limit("bench")
        for attempt in range(10):
            left = limit - (time.monotonic() - begun)
            command = [sys.executable, str(ROOT / "bench/gpu/figures.py"), "--out", str(self.figures())]
            command += ["--seconds", str(max(left - 30, 1))] + (["--resume"] if attempt else [])
            name = "bench" if not attempt else f"bench-again-{attempt}"
            if self.execute(name, command, max(left, 10)) != LOST or left < 40:
                return

    def figures(self) -> Path:
        return self.out / f"{self.device[0] if self.device else 'unknown'}.jsonl"

    def sanitize(self) -> None:
        begun, limit = time.monotonic(), self.limit("sanitize")
        tools = ("memcheck", "racecheck", "initcheck")
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-gpu=require"]
        tests += ["-k", "test_sanitized", "tests/test_gpu.py"]
        for done, tool in enumerate(tools):
            command = [sanitizer(), "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", *tests]
            left = (limit - (time.monotonic() - begun)) / (len(tools) - done)
            # each tensor an allocation of its own, so that its ends are seen
            self.execute(f"sanitize-{tool}", command, left, PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    def probe(self) -> None:
        done = subprocess.run([sys.executable, "-c", PROBE], env=environment(), capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        self.device = tuple(found) if found else None
        if self.device is None:
            print(f"no GPU that torch can use {done.stderr[-300:]}", flush=True)

    def summary(self) -> list[str]:
        out = []
        if self.figures().exists():
            out += lines([json.loads(line) for line in self.figures().read_text().splitlines()])
        for x in self.outcomes:
            state = "ok" if x.status == 0 else "STOPPED at its limit" if x.status == -1 else f"FAILED ({x.status})"
            out.append(f"[{x.part}] {state}, {x.seconds:.0f} s: {x.last[:120]}")
        return out


def waited(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit status; -1 where the time was up. Nothing of its process group is left behind then."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=8)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return -1


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(SITE), *BENCH, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


def cuda_settings() -> dict[str, str]:
    """Where nvcc is, if it is not on the PATH."""
    homes = sorted(glob("/usr/local/cuda*/bin/nvcc"))
    if shutil.which("nvcc") or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or not homes:
        return {}
    return {"CUDA_HOME": str(Path(homes[-1]).parents[1])}


def sanitizer() -> str:
    found = shutil.which("compute-sanitizer")
    home = cuda_settings().get("CUDA_HOME") or os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return found or f"{home}/bin/compute-sanitizer"


def link_site() -> None:
    """A folder from which `import contrastile` finds the working tree and its native modules: links to every file."""
    shutil.rmtree(SITE, ignore_errors=True)
    package = ROOT / "python/contrastile"
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            link = SITE / "contrastile" / path.relative_to(package)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    (SITE / "contrastile/triton_kernels").symlink_to(ROOT / "triton_kernels")  # one link: a folder apart, as it is


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=tuple(LIMITS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "build/gpu/out"))
    parser.add_argument("--limit", action="append", default=[], metavar="PART=SECONDS")
    given = parser.parse_args()
    limits = LIMITS | {part: int(seconds) for part, _, seconds in (x.partition("=") for x in given.limit)}
    runner = Runner(given.out.resolve(), limits, sum(limits.values()) if given.limit else TOTAL)
    link_site()
    runner.probe()
    for part in given.parts:
        getattr(runner, part)()
    print("\n".join(runner.summary()), flush=True)
    return int(any(x.status for x in runner.outcomes))


if __name__ == "__main__":
    sys.exit(main())
