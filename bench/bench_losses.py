"""Every loss against its dense form and the packages that have it: one test a problem, the most wanted first.

All candidates of a problem run in turn in one process; wrong ones are refused (contrastile.benchmark). The figures go
to the file of --out; pytest-benchmark's own times are those of our first candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from conftest import Settings
from contrastile.benchmark import record as records
from contrastile.benchmark.problem import BOTH, FORWARD, Problem, stepper
from contrastile.benchmark.record import NO_TIME, OK
from contrastile.catalog import CATALOG
from packages import PEERS
from suite import __name__ as SUITE
from suite import names_on

D = 512
HEADLINE = [
    ("clip_loss", "default"), ("siglip_loss", "default"), ("info_nce", "default"), ("nt_xent", "default"),
    ("gram_loss", "default"), ("symile_loss", "drawn"), ("mv_infonce", "default"), ("sup_con", "ten classes"),
]  # fmt: skip
CUBIC = ("symile_loss", "n_squared")  # its work grows with N^3
COMPILED = HEADLINE[:4]  # a compilation takes seconds for each shape
CARDS = [(card.name, "default") for card in CATALOG]
SETS = [("late_interaction_info_nce", "default"), ("word_region_loss", "default")]  # of tokens, for each item
APART = (*HEADLINE, *SETS, CUBIC)
OTHERS = [x for x in dict.fromkeys([*PEERS, *CARDS, ("gram_loss", "four")]) if x not in APART]
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
WIDTHS = (128, 1024)  # beside 512


@dataclass(frozen=True)
class Entry:
    """A problem of the plan, and what is done beside timing our backends, the dense form and the packages."""

    problem: Problem
    memory: bool = True
    dropins: bool = True
    compiled: bool = False

    @property
    def names(self) -> list[str]:
        return names_on(self.problem, dropins=self.dropins, compile=self.compiled)


def plan(settings: Settings) -> Iterator[Entry]:
    """The order in which the time is spent: at most an hour on one core. Memory does not depend on the mode, and D
    changes little of it, so that it is measured once for each type."""
    if settings.chosen:
        for dtype in settings.dtypes:
            for mode in settings.modes:
                for entry in series(settings.chosen, settings.sizes or (64, 256, 1024, 4096), dtype, mode=mode):
                    yield replace(entry, compiled=settings.chosen[0] in COMPILED and entry.problem.n >= 1024)
        return
    yield from series(HEADLINE, (1024,), FP32)
    yield from series(HEADLINE, (1024,), FP32, mode=FORWARD, memory=False, dropins=False)
    yield from series(OTHERS, (1024,), FP32)
    yield from series(SETS, (128,), FP32)
    yield from series(HEADLINE, (64, 256), FP32)
    yield from series(HEADLINE, (1024,), BF16)
    yield from series(HEADLINE, (4096,), FP32, dropins=False)
    yield from series(OTHERS, (1024,), FP32, mode=FORWARD, memory=False, dropins=False)
    yield from series(HEADLINE, (1024,), FP16, dropins=False)
    for d in WIDTHS:
        yield from series(HEADLINE, (1024,), FP32, d, memory=False, dropins=False)
    for dtype in (BF16, FP16):
        yield from series(OTHERS, (1024,), dtype, dropins=False)
    yield from series([CUBIC], (64,), FP32)
    yield from series(COMPILED, (1024, 4096), FP32, compiled=True)
    yield from series(HEADLINE[:1], (16_384,), FP32, dropins=False)


def series(
    losses: list[tuple[str, str]],
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    d: int = D,
    mode: str = BOTH,
    **more: bool,
) -> Iterator[Entry]:
    for loss, variant in losses:
        for n in sizes:
            yield Entry(Problem(loss, n, d, dtype, mode, variant, suite=SUITE), **more)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    planned = list(plan(metafunc.config.stash[Settings.key]))
    metafunc.parametrize("entry", planned, ids=[x.problem.name() + " compiled" * x.compiled for x in planned])


def bench_loss(benchmark, settings: Settings, entry: Entry) -> None:
    problem, names = entry.problem, settings.wanted(entry.names)
    every = problem.candidates
    if all((*settings.meter.record(problem, every[x], outcome=OK).problem, x) in settings.known for x in names):
        pytest.skip("has its lines already")
    found = settings.meter.measure(problem, names, entry.memory)
    records.append(settings.out, found)
    if all(x.outcome == NO_TIME for x in found):
        pytest.skip(NO_TIME)
    settings.measured += found
    benchmark.group = f"{problem.loss} ({problem.variant}) {problem.type} {problem.mode}"
    benchmark.extra_info.update({x.candidate: x.ms if x.outcome == OK else x.why for x in found})
    step = stepper(problem.candidates[names[0]].make(problem), [problem.case(0)], problem.backward)
    benchmark.pedantic(step, args=(0,), rounds=1)
