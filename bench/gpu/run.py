"""run.py [--out DIR] [--limit PART=SECONDS ...] PART ...: proof on a machine with a GPU, without a network.

    build     the native modules, the CUDA one for this machine's GPU alone
    test      the tests marked gpu
    bench     figures.py: one JSON line per candidate and problem, in DIR/<device>.jsonl
    sanitize  compute-sanitizer over the tests named test_sanitized*
    tune      python -m contrastile tune: the table of measurements, in DIR/<device>-tuning.json

Uses the Python it runs under and installs nothing: build/gpu/site holds links to the package. Each part, with a build
before it, fits nine minutes. A part that fails or is stopped at its limit does not stop the next ones; then the exit
status is 1. Logs are in DIR/logs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from processes import ROOT, cuda_settings, die_with_parent, drop_cuda, environment, link_site, probe, tool, waited
from table import lines

LIMITS = {"build": 110, "test": 420, "bench": 420, "sanitize": 420, "tune": 420}  # seconds
LOST = 13  # figures.py: its process broke, another must go on


@dataclass(frozen=True)
class Outcome:
    part: str
    status: int  # 0: all well; -1: stopped at its limit
    seconds: float
    last: str  # the last line of the log


class Runner:
    def __init__(self, out: Path, limits: dict[str, int]) -> None:
        self.out, self.limits = out, limits
        self.logs = out / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.outcomes: list[Outcome] = []
        self.device: tuple[str, str] | None = None

    def execute(self, name: str, command: list[str], seconds: float, **env: str) -> int:
        """Runs it, its output in a log; at the limit it is interrupted, so that it can still sum up, then killed."""
        print(f"[{name}] at most {seconds:.0f} s", flush=True)
        start, log = time.monotonic(), self.logs / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(**env), stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
            status = waited(process, seconds)
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        took = time.monotonic() - start
        self.outcomes.append(Outcome(name, status, took, said[-1].strip("= ") if said else ""))
        if status:
            print("\n".join(f"    {line[:200]}" for line in said[-15:]), flush=True)
        return status

    def build(self) -> None:
        begun, limit = time.monotonic(), self.limits["build"]
        command = [sys.executable, "setup.py", "build_ext", "--inplace", "--parallel", "2"]
        settings = cuda_settings() | ({"CONTRASTILE_CUDA_ARCHS": self.device[1]} if self.device else {})
        if os.environ.get("CONTRASTILE_CUDA_ARCHS"):
            settings.pop("CONTRASTILE_CUDA_ARCHS", None)
        if self.execute("build", command, limit, CONTRASTILE_CUDA="1", **settings):
            drop_cuda()
            left = max(limit - (time.monotonic() - begun), 30)
            self.execute("build-without-cuda", command, left, CONTRASTILE_CUDA="0")
        link_site()

    def test(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-gpu=require", "--tb=short"]
        command += ["--durations=10", "--continue-on-collection-errors", "-m", "gpu", *marked()]
        if find_spec("xdist") is not None:  # most of the time goes to compiling
            command += ["-n", str(min(os.cpu_count() or 1, 14)), "--dist", "worksteal"]
        self.execute("test", command, self.limits["test"])

    def bench(self) -> None:
        begun, limit = time.monotonic(), self.limits["bench"]
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
        begun, limit = time.monotonic(), self.limits["sanitize"]
        tools = ("memcheck", "racecheck", "initcheck")
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-gpu=require"]
        tests += ["-k", "test_sanitized", "tests/test_gpu.py"]
        sanitizer = tool("compute-sanitizer") or "compute-sanitizer"
        for done, check in enumerate(tools):
            command = [sanitizer, "--tool", check, "--error-exitcode", "9", "--target-processes", "all", *tests]
            left = (limit - (time.monotonic() - begun)) / (len(tools) - done)
            # each tensor an allocation of its own, so that its ends are seen
            self.execute(f"sanitize-{check}", command, left, PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    def tune(self) -> None:
        limit = self.limits["tune"]
        command = [sys.executable, "-m", "contrastile", "tune", "--minutes", str(max(limit - 30, 10) / 60)]
        name = self.device[0] if self.device else "unknown"
        self.execute("tune", [*command, "--output", str(self.out / f"{name}-tuning.json")], limit)

    def summary(self) -> list[str]:
        out = []
        if self.figures().exists():
            out += lines([json.loads(line) for line in self.figures().read_text().splitlines()])
        for x in self.outcomes:
            state = "ok" if x.status == 0 else "STOPPED at its limit" if x.status == -1 else f"FAILED ({x.status})"
            out.append(f"[{x.part}] {state}, {x.seconds:.0f} s: {x.last[:120]}")
        return out


def marked() -> list[str]:
    """Files with tests marked gpu: each worker would collect all others for nothing."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "mark.gpu" in path.read_text()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=tuple(LIMITS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "build/gpu/out"))
    parser.add_argument("--limit", action="append", default=[], metavar="PART=SECONDS")
    given = parser.parse_args()
    limits = LIMITS | {part: int(seconds) for part, _, seconds in (x.partition("=") for x in given.limit)}
    runner = Runner(given.out.resolve(), limits)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended, too
    link_site()
    runner.device = probe()
    for part in given.parts:
        getattr(runner, part)()
    print("\n".join(runner.summary()), flush=True)
    return int(any(x.status for x in runner.outcomes))


if __name__ == "__main__":
    sys.exit(main())
