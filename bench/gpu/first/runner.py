"""Runs the stages one after the other in forked processes, and the background jobs beside them.

torch is imported once, before the forks, and CUDA never in this process: a stage that breaks its context breaks no
other, and none pays for the import again.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

import torch  # noqa: F401  for all processes that are forked from this one

from processes import BENCH, ROOT, SITE, cuda_settings, die_with_parent, drop_cuda, environment, link_site

from . import plan, summary
from .background import GRACE, PAUSE, STOPS, Job, Process
from .look import Look
from .plan import Stage
from .results import Results, read

DRY_PATIENCE = 10.0  # limits of a dry run are so many times longer: its machine may be small and busy
JOBS = 14  # processes that compile


def run_stage(name: str, look: Look) -> None:
    os.chdir(ROOT)
    module_name = f"{__package__}.{name}"
    if name == "right":
        import_module(module_name).before_import(look.dry)
    if look.dry:
        from . import dry

        dry.install_cuda() if name == "right" else dry.install()
    import_module(module_name).run(look)
    look.results.add(item="host", outcome="ok", cpu_seconds=round(sum(os.times()[:4]), 2))  # with what it started


def run_share(look: Look, part: int, parts: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_module(f"{__package__}.precompile").share(look, part, parts)


def run_build(look: Look) -> None:
    """Without basis.cu, whose compilation takes longer than all others together."""
    try:
        build(look, CONTRASTILE_CUDA_BASIS="0")
    except subprocess.CalledProcessError:
        if not look.dry:
            drop_cuda()
        raise
    finally:
        if not look.dry:
            link_site()


def run_basis(look: Look) -> None:
    os.nice(19)
    build(look)
    if not look.dry:
        link_site()


def build(look: Look, **more: str) -> None:
    """For the GPU that is there. A dry run leaves the package's own modules alone."""
    wanted = {
        "CONTRASTILE_CUDA": "1",
        "CONTRASTILE_CPU": "0",
        "CONTRASTILE_CUDA_ARCHS": "{}{}".format(*look.capability),
    }
    where = ["--build-lib", "build/gpu/dry-lib"] if look.dry else ["--inplace"]
    command = [sys.executable, "setup.py", "build_ext", *where]
    given = environment(**cuda_settings(), **wanted, **more)
    subprocess.run(command, cwd=ROOT, env=given, check=True, preexec_fn=die_with_parent)


def run_wheels() -> None:
    """Other packages, carried as wheels, into a folder of their own."""
    from .peers import INSTALLED, WHEELS

    wheels = sorted(glob(f"{WHEELS}/*.whl"))
    if wheels:
        options = "--no-index --no-deps --no-compile --no-cache-dir --upgrade --target".split()
        command = [sys.executable, "-m", "pip", "install", "-q", *options, str(INSTALLED), *wheels]
        subprocess.run(command, check=True, preexec_fn=die_with_parent)


class Runner:
    def __init__(self, out: Path, deadline: float, dry: bool, tiny: bool) -> None:
        self.out, self.deadline, self.dry, self.tiny = out, deadline, dry, tiny
        self.patience = DRY_PATIENCE if dry else 1.0
        self.begun = time.monotonic()
        self.jobs: dict[str, Job] = {}
        self.wanted: set[str] = set()
        self.later: tuple[Stage, ...] = ()
        self.apart = Path(tempfile.mkdtemp(prefix="contrastile-first-"))  # logs of jobs that run
        out.mkdir(parents=True, exist_ok=True)
        sys.path[:0] = [str(SITE), *BENCH]
        self.device, self.capability = ("dry", (9, 0)) if dry else device()

    @property
    def log(self) -> Path:
        return self.out / plan.LOG

    def run(self, stages: list[Stage]) -> int:
        for name in {stage.file for stage in stages} | {plan.LOG}:
            (self.out / name).unlink(missing_ok=True)
        outcomes: list[tuple[str, str, float]] = []
        handlers = [signal.signal(number, stop) for number in STOPS]
        try:
            self.start_jobs({name for stage in stages for name in stage.needs})
            for number, stage in enumerate(stages, 1):
                self.later = tuple(stages[number:])
                outcomes.append((stage.name, "stopped", 0.0))  # unless it comes to its end
                outcomes[-1] = self.stage(stage)
        except KeyboardInterrupt:
            print("stopped", flush=True)
        finally:
            for number in STOPS:  # a second signal does not keep the first from ending everything
                signal.signal(number, signal.SIG_IGN)
            self.end_jobs()
            self.sum_up(outcomes)
            for number, handler in zip(STOPS, handlers, strict=True):
                signal.signal(number, handler)
        return int(len(outcomes) < len(stages) or any(status != "ok" for _, status, _ in outcomes))

    def sum_up(self, outcomes: list[tuple[str, str, float]]) -> None:
        text = summary.text(read(self.files()), outcomes, time.monotonic() - self.begun)
        with self.log.open("a") as file:
            file.write(text)
        print(text, flush=True)

    def files(self) -> list[Path]:
        return [self.out / name for name in dict.fromkeys(stage.file for stage in plan.STAGES)]

    # ---- background

    def start_jobs(self, wanted: set[str]) -> None:
        self.wanted = wanted | ({"build"} if "basis" in wanted else set())
        parts = 1 if self.tiny else max(min((os.cpu_count() or 1) - 1, JOBS), 1)
        if "build" in self.wanted and not self.tiny:
            self.start("build", run_build, self.look("build", plan.STAGES[0].file))
        if "kernels" in wanted:
            for part in range(parts):
                self.start("kernels", run_share, self.look("kernels", plan.STAGES[0].file), part, parts)
        if "wheels" in wanted:
            self.start("wheels", run_wheels)

    def start(self, name: str, function: Callable[..., None], *arguments: Any) -> None:
        job = self.jobs.setdefault(name, Job(name, self.apart / name))
        job.processes.append(Process(job.log, function, *arguments))

    def await_jobs(self, names: tuple[str, ...], until: float) -> None:
        while time.monotonic() < until:
            self.tend()
            if all(self.jobs[name].over for name in names if name in self.jobs) and not self.basis_waits(names):
                return
            time.sleep(PAUSE)

    def tend(self) -> None:
        """Records the jobs that have ended, and begins the last."""
        for job in list(self.jobs.values()):
            if not job.running():
                job.finish(self.look("jobs", plan.STAGES[0].file).results, self.log)
        # when nothing else is being compiled
        if self.basis_waits(("basis",)) and all(self.jobs[x].over for x in plan.COMPILED if x in self.jobs):
            self.start("basis", run_basis, self.look("basis", plan.STAGES[0].file))

    def basis_waits(self, names: tuple[str, ...]) -> bool:
        return "basis" in names and "basis" in self.wanted and "basis" not in self.jobs and not self.tiny

    def end_jobs(self) -> None:
        for job in self.jobs.values():
            job.finish(self.look("jobs", plan.STAGES[0].file).results, self.log)
        shutil.rmtree(self.apart, ignore_errors=True)

    # ---- stages

    def look(self, stage: str, file: str) -> Look:
        return Look(Results(self.out / file, stage, self.device), self.capability, self.dry, self.tiny)

    def stage(self, stage: Stage) -> tuple[str, str, float]:
        """(name, what became of it, seconds)."""
        begun = time.monotonic()
        left = self.deadline - begun - 2 * GRACE if not self.dry else float("inf")
        limit = min(stage.seconds * self.patience, left)
        look = self.look(stage.name, stage.file)
        if limit < (plan.LEAST_TESTS if stage.name == "tests" else 2.0):
            return self.over(look, "no time left", begun)
        print(f"[{stage.name}] at most {limit:.0f} s", flush=True)
        # a job that hangs leaves half of the time
        self.await_jobs(stage.needs, begun + limit / 2 + self.spare(limit, left))
        limit -= min(time.monotonic() - begun, limit / 2)
        process = Process(self.log, run_stage, stage.name, look)
        status = process.wait(limit, self.tend)
        return self.over(look, "ok" if status == 0 else "cut" if status is None else f"failed ({status})", begun)

    def spare(self, limit: float, left: float) -> float:
        """Seconds that neither this stage nor a later one may want; a dry run has no end, and waits for no more."""
        return 0.0 if self.dry else max(left - limit - sum(stage.seconds for stage in self.later), 0.0)

    def over(self, look: Look, status: str, begun: float) -> tuple[str, str, float]:
        seconds = time.monotonic() - begun
        look.results.add(item="stage", outcome=status, seconds=round(seconds, 2))
        return look.results.stage, status, seconds


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def device() -> tuple[str, tuple[int, int]]:
    """Name and compute capability, asked of the driver's own tool: torch would make a context here, which no fork
    survives."""
    command = [shutil.which("nvidia-smi") or "nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = re.match(r"(.+), (\d+)\.(\d+)", said)
    return (found[1], (int(found[2]), int(found[3]))) if found else ("unknown", (9, 0))
