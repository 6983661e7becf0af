"""Every loss against its dense form and the packages that have it: one test a problem, the most wanted first.

All candidates of a problem run in turn in one process; wrong ones are refused (contrastile.benchmark). The figures go
to the file of --out; pytest-benchmark's own times are those of our first candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from conftest import Settings
from contrastile.benchmark import record as records
from contrastile.benchmark.problem import stepper
from contrastile.benchmark.record import NO_TIME, OK
from contrastile.benchmark.suite import COMPILED
from plan import TO_COMPILE, Entry, series, whole


def planned(settings: Settings) -> Iterator[Entry]:
    if not settings.chosen:
        yield from whole()
        return
    compiled = settings.chosen[0] in TO_COMPILE
    for dtype in settings.dtypes:
        for mode in settings.modes:
            for entry in series(settings.chosen, settings.sizes or (64, 256, 1024, 4096), dtype, mode=mode):
                yield replace(entry, compiled=compiled and entry.problem.n >= 1024)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    entries = list(planned(metafunc.config.stash[Settings.key]))
    metafunc.parametrize("entry", entries, ids=[x.problem.name() + " compiled" * x.compiled for x in entries])


def bench_loss(benchmark, settings: Settings, entry: Entry) -> None:
    problem, names = entry.problem, settings.wanted(entry.names)
    every = problem.candidates
    if all((*settings.meter.record(problem, every[x], outcome=OK).problem, x) in settings.known for x in names):
        pytest.skip("has its lines already")
    found = settings.meter.measure(problem, names, entry.memory)
    late = all(x.outcome == NO_TIME for x in found)
    # one line says so for the problem, and one for the candidate that no other problem has
    records.append(settings.out, [x for x in found if not late or x is found[0] or x.candidate == COMPILED])
    if late:
        pytest.skip(NO_TIME)
    settings.measured += found
    benchmark.group = f"{problem.loss} ({problem.variant}) {problem.type} {problem.mode}"
    benchmark.extra_info.update({x.candidate: x.ms if x.outcome == OK else x.why for x in found})
    step = stepper(problem.candidates[names[0]].make(problem), [problem.case(0)], problem.backward)
    benchmark.pedantic(step, args=(0,), rounds=1)
