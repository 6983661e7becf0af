"""figures.py --out FILE: times every candidate on every problem and writes one JSON line each, the most wanted first.

A candidate whose value or gradients are wrong is refused and not timed. --device cpu --tiny tries the logic itself on a
machine without a GPU; its numbers mean nothing. --resume goes on with a file, where a broken CUDA context ended the
process that wrote it. Needs this folder and its parent on PYTHONPATH, as run.py has them.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from candidates import BACKENDS, PEERS, Loss, Parameters, Skip, compiled, dense, ours
from clock import Clock, CudaClock, HostClock, Step, medians
from contrastile.cli.tune import tf32
from measure import step as one_step
from problems import PROBLEMS, TINY, Problem, products
from surroundings import surroundings
from truth import error, truth

LOST = 13  # exit status: the CUDA context is gone, another process must go on
FAST_DOUBLE = ((8, 0), (9, 0), (10, 0))  # capabilities with float64 units; elsewhere the reference is float32
LIMIT = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 1e-2, "float16": 1e-2}  # relative error of the package's losses
PEER_FACTOR = 5.0  # others round logits to half precision, which costs them that much
NO_TIME = "no time left"
Record = dict[str, Any]


class Refused(Exception):
    """The result is wrong."""


class Bench:
    def __init__(self, device: str, tiny: bool, out: Path, deadline: float) -> None:
        self.device, self.tiny, self.out, self.deadline = device, tiny, out, deadline
        self.clock: Clock = CudaClock() if device == "cuda" else HostClock()
        self.about = surroundings(device)
        self.parameters = Parameters(device)
        double = device == "cpu" or torch.cuda.get_device_capability() in FAST_DOUBLE
        self.reference_type = torch.float64 if double else torch.float32
        self.done = {(r["benchmark"], r["candidate"]) for r in read(out)}

    def write(self, problem: Problem, candidate: str, **more: Any) -> None:
        shape = {"rows": problem.rows, "d": problem.d, "k": problem.k, "dtype": problem.type}
        record = {"benchmark": problem.name(), "loss": problem.loss, **shape, "candidate": candidate, **more}
        with self.out.open("a") as file:
            file.write(json.dumps(record | self.about) + "\n")

    def run(self, problem: Problem) -> None:
        makers = {x: y for x, y in makers_of(problem).items() if (problem.name(), x) not in self.done}
        if not makers:
            return
        if time.monotonic() > self.deadline:
            for name in makers:
                self.write(problem, name, outcome=NO_TIME)
            return
        try:
            with tf32(False):
                sets = problem.sets(self.device)
                true = truth(problem.loss, sets[0], self.reference_type)
            with tf32(problem.tf32):
                records = self.measure(problem, makers, sets, true)
        except Exception as why:  # the reference does not fit, or a kernel broke the context while it was timed
            records = {name: {"outcome": "failed", "why": described(why)} for name in makers}
        for name, record in records.items():
            self.write(problem, name, **record)
        self.leave_if_lost()

    def measure(
        self, problem: Problem, makers: dict[str, Callable[[Parameters], Loss]], sets: Any, true: Any
    ) -> dict[str, Record]:
        records: dict[str, Record] = {}
        steps: dict[str, Step] = {}
        for name, maker in makers.items():
            records[name], found = self.tried(problem, name, maker, sets, true)
            if found is not None:
                steps[name] = found
        references = products(problem, self.device, self.tiny)
        every = list(steps.values()) + [step for step, _ in references.values()]
        left = max(self.deadline - time.monotonic(), 0.5)
        timed = medians(self.clock, every, min(problem.seconds, left))
        rates = {
            name: flop / seconds / 1e12
            for (name, (_, flop)), (seconds, _) in zip(references.items(), timed[len(steps) :], strict=True)
        }
        for name, (seconds, samples) in zip(steps, timed, strict=False):
            rate = problem.flop / seconds / 1e12
            records[name] |= {
                "ms": seconds * 1e3, "samples": samples, "tflops": rate, "gemm_tflops": rates["gemm"],
                "of_gemm": rate / rates["gemm"], "of_chunk_gemm": rate / rates["chunk gemm"],
            }  # fmt: skip
        return records

    def tried(
        self, problem: Problem, name: str, maker: Callable[[Parameters], Loss], sets: Any, true: Any
    ) -> tuple[Record, Step | None]:
        """The first steps: does it run, is it right, what memory does it take."""
        try:
            step = self.stepper(maker(self.parameters), sets)
            value = float(step(0))
            worst = error(value, [x.grad for x in sets[0]], true)
            limit = LIMIT[problem.type] * (1.0 if name in BACKENDS else PEER_FACTOR)
            if not worst <= limit:
                raise Refused(f"relative error {worst:.1e}, at most {limit:.0e}")
            peak = self.clock.peak_bytes(step)
            return {"outcome": "ok", "error": worst, "peak_bytes": peak}, step
        except Skip as why:
            return {"outcome": "skipped", "why": str(why)}, None
        except Refused as why:
            return {"outcome": "refused", "why": str(why)}, None
        except torch.cuda.OutOfMemoryError:
            return {"outcome": "out of memory"}, None
        except Exception as why:
            record = {"outcome": "failed", "why": described(why)}
            self.leave_if_lost(problem, name, record)
            return record, None
        finally:
            for leaf in (x for features in sets for x in features):
                leaf.grad = None
            gc.collect()  # what an exception's frames still hold

    def leave_if_lost(self, problem: Problem | None = None, name: str = "", record: Record | None = None) -> None:
        """Ends the process where a kernel broke it, so that another one can go on after this record."""
        try:
            self.clock.sync()
        except RuntimeError:
            if problem is not None:
                self.write(problem, name, **(record or {}))
            sys.exit(LOST)

    def stepper(self, loss: Loss, sets: list[list[torch.Tensor]]) -> Step:
        """Forward and backward on one set of inputs after the other."""
        kept: list[torch.Tensor] = []

        def closure(features: list[torch.Tensor]) -> Callable[[], None]:
            def value() -> torch.Tensor:
                kept[:] = [loss(*features)]
                return kept[0]

            return one_step(value, [*features, *self.parameters.leaves()])

        steps = [closure(features) for features in sets]

        def step(index: int) -> torch.Tensor:
            steps[index % len(steps)]()
            return kept.pop().detach()

        return step


def makers_of(problem: Problem) -> dict[str, Callable[[Parameters], Loss]]:
    makers: dict[str, Callable[[Parameters], Loss]] = {
        name: lambda p, name=name: ours(problem.loss, name, p) for name in BACKENDS
    }
    if problem.dense:
        makers["eager"] = lambda p: dense(problem.loss, p)
        makers["torch.compile"] = lambda p: compiled(problem.loss, p)
    return makers | (PEERS.get(problem.loss, {}) if problem.peers else {})


def described(why: Exception) -> str:
    return f"{type(why).__name__}: {why}"[:300]


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0, help="problems that begin later are not run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.device == "cpu" and (not given.tiny or "results" in given.out.resolve().parts):
        parser.error("--device cpu is for --tiny, whose numbers are no results")
    if not given.resume:
        given.out.unlink(missing_ok=True)
    bench = Bench(given.device, given.tiny, given.out, time.monotonic() + given.seconds)
    for problem in TINY if given.tiny else PROBLEMS:
        print(problem.name(), flush=True)
        bench.run(problem)


if __name__ == "__main__":
    main()
