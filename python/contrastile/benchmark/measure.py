"""All measurements of one problem, as a record for each candidate."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch

from . import growth
from .check import Refused, check
from .clock import Step, clock_of, medians
from .limit import products
from .machine import machine, version
from .memory import Usage, allocator_peak, available_bytes, in_fresh_process, resident_peak
from .precision import tf32
from .problem import Problem, stepper
from .record import FAILED, NO_MEMORY, NO_TIME, OK, REFUSED, SKIPPED, Record
from .suite import COMPILED, Candidate, Skip

WARM_UP_ROWS = 32
LADDER = (256, 1024)  # batches whose memory and time foretell those of larger ones
FREE_SHARE = 0.7  # of the memory that is free, at most


class DeviceLost(RuntimeError):
    """A kernel broke the CUDA context; another process must go on. `records`: of what is to blame."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__("the CUDA context is gone")
        self.records = records


@dataclass
class Meter:
    """Measures problems one after the other, and remembers what smaller batches took."""

    seconds: float = 2.0  # of timing a problem
    step_seconds: float = float("inf")  # a candidate that would take longer for one step is skipped
    deadline: float = float("inf")  # of time.monotonic(): problems that begin later are not run
    usages: dict[tuple[Problem, str], dict[int, Usage]] = field(default_factory=dict)

    def measure(self, problem: Problem, names: Sequence[str], memory: bool = True) -> list[Record]:
        """One record for each named candidate of the problem's suite, in the order given. Raises: DeviceLost.

        memory: also the peak on a CPU, which takes a fresh process for each candidate and some smaller batches.
        """
        every = problem.candidates
        chosen = [every[name] for name in names]
        if time.monotonic() > self.deadline:
            return [self.record(problem, x, outcome=NO_TIME) for x in chosen]
        records: dict[str, Record] = {}
        steps: dict[str, Step] = {}
        if any(name.startswith(COMPILED) for name in names):
            torch._dynamo.reset()  # no shape is refused for being one too many
        with tf32(problem.tf32):
            for candidate in chosen:
                records[candidate.name], step = self.tried(problem, candidate, memory)
                self.refuse_lost_device(problem, [records[candidate.name]])
                if step is not None:
                    steps[candidate.name] = step
            try:
                self.time(problem, records, steps)
            except RuntimeError as error:
                records |= {x: replace(records[x], outcome=FAILED, why=described(error)) for x in steps}
                self.refuse_lost_device(problem, list(records.values()))
        return list(records.values())

    def refuse_lost_device(self, problem: Problem, records: list[Record]) -> None:
        try:
            clock_of(problem.device).sync()
        except RuntimeError as error:
            raise DeviceLost(records) from error

    def record(self, problem: Problem, candidate: Candidate, **more: Any) -> Record:
        return Record(
            loss=problem.loss, variant=problem.variant, mode=problem.mode, n=problem.n, d=problem.d, k=problem.k,
            dtype=problem.type, candidate=candidate.name, package=candidate.package,
            version=version(candidate.distribution) if candidate.distribution else None, backend=candidate.backend,
            machine=machine(problem.device), **more,
        )  # fmt: skip

    def tried(self, problem: Problem, candidate: Candidate, memory: bool) -> tuple[Record, Step | None]:
        """The first steps: does it run, does it fit, is it right, what memory does it take."""
        record, step = self.outcome(problem, candidate, memory)
        if step is None:
            gc.collect()  # what an exception's frames still hold
        return record, step

    def outcome(self, problem: Problem, candidate: Candidate, memory: bool) -> tuple[Record, Step | None]:
        try:
            candidate.make(problem)
            peak = self.peak_on_cpu(problem, candidate, memory) if problem.device == "cpu" else None
            worst, small = check(problem, candidate)
            step = stepper(candidate.make(problem), problem.sets(), problem.backward)
            step(0)
            peak = allocator_peak(lambda: step(0)) if problem.device == "cuda" else peak
            return self.record(problem, candidate, outcome=OK, error=worst, checked_n=small, peak_bytes=peak), step
        except Skip as why:
            return self.record(problem, candidate, outcome=SKIPPED, why=str(why)), None
        except Refused as why:
            return self.record(problem, candidate, outcome=REFUSED, why=str(why)), None
        except torch.cuda.OutOfMemoryError:
            return self.record(problem, candidate, outcome=NO_MEMORY, why="CUDA out of memory"), None
        except Exception as error:  # other packages raise what they like
            return self.record(problem, candidate, outcome=FAILED, why=described(error)), None

    def time(self, problem: Problem, records: dict[str, Record], steps: dict[str, Step]) -> None:
        """Adds times to the records of the candidates that have a step."""
        if not steps:
            return
        references = products(problem)
        every = [*steps.values(), *(step for step, _ in references.values())]
        left = max(self.deadline - time.monotonic(), 0.5)
        timed = medians(clock_of(problem.device), every, min(self.seconds, left))
        limits = zip(references.values(), timed[len(steps) :], strict=True)
        square, chunk = (flop / seconds / 1e12 for (_, flop), (seconds, _) in limits)
        for name, (seconds, samples) in zip(steps, timed, strict=False):
            rate = problem.flop / seconds / 1e12 if problem.flop else None
            records[name] = replace(
                records[name], ms=seconds * 1e3, samples=samples, tflops=rate, gemm_tflops=square,
                of_gemm=rate and rate / square, of_chunk_gemm=rate and rate / chunk,
            )  # fmt: skip

    # ---- memory of a CPU

    def peak_on_cpu(self, problem: Problem, candidate: Candidate, memory: bool) -> int | None:
        """Raises: Skip: it would not fit, or take too long, by what smaller batches take."""
        if problem.n < LADDER[0]:
            return None  # lost in pages that the process holds anyway
        if not memory:
            self.refuse_too_large(self.similar(problem, candidate), problem.n)
            return None
        known = self.usages.setdefault((problem.at(0), candidate.name), {})
        for n in () if candidate.ours else LADDER:
            if n >= problem.n or n in known:
                continue
            self.refuse_too_large(known, n)
            known[n] = probe(problem.at(n), candidate)
        self.refuse_too_large(known, problem.n)
        known[problem.n] = probe(problem, candidate)
        return known[problem.n].peak_bytes

    def similar(self, problem: Problem, candidate: Candidate) -> dict[int, Usage]:
        """What it took in another mode, type or width."""
        found: dict[int, Usage] = {}
        for (other, name), usages in self.usages.items():
            if (other.loss, other.variant, name) == (problem.loss, problem.variant, candidate.name):
                found |= usages
        return found

    def refuse_too_large(self, known: dict[int, Usage], n: int) -> None:
        smaller = {x: found for x, found in known.items() if x < n}
        peaks = {x: float(found.peak_bytes) for x, found in smaller.items() if found.peak_bytes > growth.PAGES}
        seconds, free = {x: found.seconds for x, found in smaller.items()}, available_bytes()
        if peaks and free is not None and (need := growth.forecast(peaks, n)) > FREE_SHARE * free:
            raise Skip(f"would take about {need / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free")
        if seconds and (expected := growth.forecast(seconds, n)) > self.step_seconds:
            raise Skip(f"would take about {expected:.0f} s a step")


def probe(problem: Problem, candidate: Candidate) -> Usage:
    heavy = getattr(import_module(problem.suite), "PRELOAD", ())
    threads = torch.get_num_threads()
    return in_fresh_process(usage, problem, candidate.name, threads, preload=[problem.suite, *heavy])


def usage(problem: Problem, name: str, threads: int) -> Usage:
    """Of one step; runs in a process of its own, where nothing ran before."""
    torch.set_num_threads(threads)
    loss = problem.candidates[name].make(problem)
    warm_up = problem if name.startswith(COMPILED) else problem.at(min(WARM_UP_ROWS, problem.n))
    stepper(loss, [warm_up.case(0)], problem.backward)(0)  # what is set up once
    step = stepper(loss, [problem.case(0)], problem.backward)
    return resident_peak(lambda: step(0))


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
