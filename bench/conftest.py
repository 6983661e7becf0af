"""Options, the file of results, and a table after the run."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import BOTH, MODES
from contrastile.benchmark.record import NO_TIME, OK, Record, read
from contrastile.benchmark.suite import card

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # tests/support/official_views.py restates official code

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Settings:
    key: ClassVar[pytest.StashKey[Settings]] = pytest.StashKey()
    chosen: list[tuple[str, str]]  # losses with their variants; empty: the whole plan
    peer: str
    sizes: tuple[int, ...]
    dtypes: list[torch.dtype]
    modes: list[str]
    out: Path
    meter: Meter
    part: tuple[int, int]  # of how many
    known: set[tuple[Any, ...]]  # problems and candidates not to run again
    measured: list[Record] = field(default_factory=list)

    def wanted(self, names: list[str]) -> list[str]:
        """Ours, and the chosen package or all of them."""
        return [x for x in names if x.startswith("contrastile") or self.peer in x]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contrastile")
    group.addoption("--loss", default="", help='one loss, as "clip" or "clip:distillation"; default: the whole plan')
    group.addoption("--peer", default="", help="only candidates with this in their name, besides ours")
    group.addoption("--sizes", default="", help="batches with --loss, as 1024,4096")
    group.addoption("--dtypes", default="fp32,bf16", help="with --loss")
    group.addoption("--modes", default=BOTH, help=f"with --loss: {','.join(MODES)}")
    group.addoption("--threads", type=int, default=1, help="with one, times are CPU time; with more, wall-clock time")
    group.addoption("--part", default="1/1", help="as 1/2 and 2/2: shares of the plan, for processes side by side")
    group.addoption("--resume", action="store_true", help="problems that the file of --out has are not run again")
    group.addoption("--minutes", type=float, default=60.0, help="problems that would begin later are not run")
    group.addoption("--step-seconds", type=float, default=30.0, help="candidates that would take longer are skipped")
    group.addoption("--out", type=Path, default=Path("build/bench/cpu.jsonl"), help="lines are appended to this file")


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption
    torch.set_num_threads(option("--threads"))
    loss, _, variant = option("--loss").partition(":")
    part, _, parts = option("--part").partition("/")
    config.stash[Settings.key] = Settings(
        chosen=[(card(loss).name, variant or "default")] if loss else [],
        peer=option("--peer"),
        sizes=tuple(int(n) for n in option("--sizes").split(",") if n),
        dtypes=[DTYPES[x] for x in option("--dtypes").split(",")],
        modes=option("--modes").split(","),
        out=option("--out"),
        meter=Meter(1.0, option("--step-seconds"), time.monotonic() + 60 * option("--minutes")),
        part=(int(part), int(parts)),
        known={(*x.problem, x.candidate) for x in read(option("--out")) if x.outcome != NO_TIME and option("--resume")},
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The plan of losses comes last, in the time that the others leave. A share has whole losses and whole files."""
    part, parts = config.stash[Settings.key].part

    def whole(item: pytest.Item) -> str:
        entry = getattr(item, "callspec", None) and item.callspec.params.get("entry")
        return f"{entry.problem.loss} {entry.problem.variant}" if entry else item.path.name

    items.sort(key=lambda item: item.path.name == "bench_losses.py")
    number = {name: index for index, name in enumerate(dict.fromkeys(map(whole, items)))}
    items[:] = [item for item in items if number[whole(item)] % parts == part - 1]


@pytest.fixture(autouse=True)
def in_time(request: pytest.FixtureRequest, settings: Settings) -> None:
    """Losses that are left out have lines that say so."""
    if time.monotonic() > settings.meter.deadline and "entry" not in request.fixturenames:
        pytest.skip(NO_TIME)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    return request.config.stash[Settings.key]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    settings, problem = config.stash[Settings.key], None
    for x in settings.measured:
        if x.problem != problem:
            problem = x.problem
            terminalreporter.section(f"{x.loss} ({x.variant}) N={x.n} D={x.d} {x.dtype} {x.mode}")
        figures = f"{x.ms:>10.4g} ms" if x.outcome == OK and x.ms else f"{x.outcome}: {x.why}"
        peak = f"{x.peak_bytes / 1e6:>9.1f} MB" if x.peak_bytes else ""
        terminalreporter.write_line(f"{x.candidate:<55}{figures}{peak}")
    if settings.measured:
        terminalreporter.write_line(f"figures: {settings.out}")
    terminalreporter.write_line(f"CPU time of this process: {time.process_time() / 60:.1f} minutes")
