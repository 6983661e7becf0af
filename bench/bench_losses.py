"""Every loss against its dense form and the packages that have it: one test a problem, the most wanted first.

All candidates of a problem run in turn in one process; wrong ones are refused (contrastile.benchmark). The figures go
to the file of --out; pytest-benchmark's own times are those of our first candidate.
"""

from __future__ import annotations

from collections.abc import Iterator

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
COMPILED = HEADLINE[:4]  # a compilation takes seconds for each shape
OTHERS = [x for x in [*PEERS, *((c.name, "default") for c in CATALOG), ("gram_loss", "four")] if x not in HEADLINE]
FP32, BF16 = torch.float32, torch.bfloat16

Plan = Iterator[tuple[Problem, bool]]  # with torch.compile


def plan(settings: Settings) -> Plan:
    """The order in which the time is spent."""
    if settings.chosen:
        for dtype in settings.dtypes:
            for mode in settings.modes:
                yield from series(settings.chosen, settings.sizes or (64, 256, 1024, 4096), dtype, mode, True)
        return
    yield from series(HEADLINE, (64, 256, 1024, 4096), FP32, compiled=True)
    yield from series(HEADLINE, (64, 256, 1024, 4096), BF16, compiled=True)
    yield from series(list(dict.fromkeys(OTHERS)), (256, 1024, 4096), FP32)
    yield from series(HEADLINE[:4], (16_384,), FP32)
    yield from series(HEADLINE[:4], (16_384,), BF16)
    yield from series(HEADLINE, (1024, 4096), FP32, FORWARD)
    yield from series(HEADLINE[:1], (32_768,), FP32)
    yield from series(list(dict.fromkeys(OTHERS)), (256, 1024, 4096), BF16)


def series(
    losses: list[tuple[str, str]], sizes: tuple[int, ...], dtype: torch.dtype, mode: str = BOTH, compiled: bool = False
) -> Plan:
    for loss, variant in losses:
        for n in sizes:
            if variant != "n_squared" or n <= 1024:  # its work grows with N^3
                yield Problem(loss, n, D, dtype, mode, variant, suite=SUITE), compiled and (loss, variant) in COMPILED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    planned = list(plan(metafunc.config.stash[Settings.key]))
    metafunc.parametrize("problem, compiled", planned, ids=[problem.name() for problem, _ in planned])


def bench_loss(benchmark, settings: Settings, problem: Problem, compiled: bool) -> None:
    names = settings.wanted(names_on(problem, compile=compiled and problem.n >= 1024))
    found = settings.meter.measure(problem, names)
    if all(x.outcome == NO_TIME for x in found):
        pytest.skip(NO_TIME)
    records.append(settings.out, found)
    settings.measured += found
    benchmark.group = f"{problem.loss} ({problem.variant}) {problem.type} {problem.mode}"
    benchmark.extra_info.update({x.candidate: x.ms if x.outcome == OK else x.why for x in found})
    step = stepper(problem.candidates[names[0]].make(problem), [problem.case(0)], problem.backward)
    benchmark.pedantic(step, args=(0,), rounds=1)
