"""Time of steps on a device; candidates in turn, medians.

Events on a GPU. On a CPU the CPU time of the process where torch uses one thread, which other processes hardly change;
with more threads, which also wait, the wall clock.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

Step = Callable[[int], object]  # does one step on the inputs with this number
LEAST_SAMPLE = 3e-3  # seconds; shorter steps are repeated within a sample, so that launches overlap as in training
ROUNDS = (3, 40)


def host_clock() -> Callable[[], float]:
    """Seconds, from any start."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


class HostClock:
    def sync(self) -> None:
        pass

    def seconds(self, step: Step, repeats: int, first: int) -> float:
        now = host_clock()
        start = now()
        for index in range(repeats):
            step(first + index)
        return (now() - start) / repeats


class CudaClock:
    def sync(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, step: Step, repeats: int, first: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for index in range(repeats):
            step(first + index)
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3 / repeats


Clock = HostClock | CudaClock


def clock_of(device: str) -> Clock:
    return CudaClock() if device == "cuda" else HostClock()


@dataclass
class Runner:
    step: Step
    repeats: int = 1
    spent: float = 0.0
    samples: list[float] = field(default_factory=list)

    def sample(self, clock: Clock) -> None:
        took = clock.seconds(self.step, self.repeats, len(self.samples) * self.repeats)
        self.samples.append(took)
        self.spent += took * self.repeats


def medians(clock: Clock, steps: Sequence[Step], seconds: float) -> list[tuple[float, int]]:
    """(median seconds, samples) of each step, which has run before. In turn, so that a slow moment of the machine meets
    all of them; one that has used its share of the time is left out of further rounds, and is not run a second time
    where a single step takes more than all of the time."""
    runners = [Runner(step) for step in steps]
    for runner in runners:
        once = clock.seconds(runner.step, 1, 0)
        runner.repeats = max(1, math.ceil(LEAST_SAMPLE / max(once, 1e-6)))
        if once > seconds:
            runner.samples, runner.spent = [once], math.inf
    least, most = ROUNDS
    for turn in range(most):
        for runner in runners:
            if runner.spent < (math.inf if turn < least else seconds / len(runners)):
                runner.sample(clock)
    return [(statistics.median(runner.samples), len(runner.samples)) for runner in runners]
