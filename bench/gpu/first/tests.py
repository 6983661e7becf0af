"""The most telling tests of tests/test_gpu.py, as far as time goes; the pytest plugin that picks and records them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from processes import ROOT, die_with_parent, environment

from . import plan
from .look import Look
from .results import Results

# How many of each test, in this order; of a test's cases those of `triton` and `cuda` first, then spread over the rest
TELLING = {
    "test_the_backend_can_run_here": 3,
    "test_the_cuda_module_was_built_for_this_gpu": 1,
    "test_a_named_backend_does_the_work_itself": 6,
    "test_bare_calls": 20,
    "test_every_reduce_and_keep": 50,
    "test_ragged_shapes": 20,
    "test_many_chunks_and_column_blocks": 14,
    "test_square_calls": 18,
    "test_batches_beyond_a_chunk": 10,
    "test_two_runs_give_equal_bits": 12,
    "test_a_side_stream": 3,
    "test_a_graph_of_forward_and_backward": 12,
    "test_nothing_waits_for_the_gpu": 10,
    "test_more_pairs_than_a_32_bit_index_counts": 3,
    "test_the_peak_is_far_below_the_matrix": 3,
    "test_tf32_only_where_torch_allows_it": 3,
    "test_nan_stays_nan_and_stays_alone": 8,
    "test_distances_from_flats": 16,
    "test_maxima_over_ragged_segments": 10,
    "test_maxima_over_segments_of_one_length": 6,
    "test_fused_gradients": 8,
    "test_every_positives": 6,
    "test_every_extra_alone": 8,
}
FILE, STAGE, DEVICE, MOST = (f"FIRST_{x}" for x in ("FILE", "STAGE", "DEVICE", "MOST"))
WORKERS = 14
IN_ORDER = ("--dist", "load", "--maxschedchunk", "1")  # others hand a worker a run of neighbours


def command(dry: bool) -> list[str]:
    chosen = ["-p", "first.tests", str(ROOT / "tests/test_gpu.py"), f"--run-gpu={'auto' if dry else 'require'}"]
    parallel = ["-n", str(WORKERS), *IN_ORDER] if find_spec("xdist") and not dry else ["-p", "no:xdist"]
    return [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *chosen, *parallel]


def run(look: Look) -> None:
    """The runner stops it when the time is up, with all that it started."""
    results, most = look.results, 3 if look.tiny else plan.TESTS
    given = {FILE: str(results.path), STAGE: results.stage, DEVICE: results.device, MOST: str(most)}
    status = subprocess.run(
        command(look.dry), cwd=ROOT, env=environment(**given), preexec_fn=die_with_parent
    ).returncode
    results.add(item="pytest", outcome="ok" if status == 0 else "failed", status=status)


# ---- the plugin


def telling(items: list[Any], most: int) -> list[Any]:
    """At most so many, in the order of TELLING: a part of every test before the rest of any."""
    ranked, seen = [], Counter[str]()
    for item in sorted(items, key=backend_rank):
        name = item.originalname
        wanted = TELLING.get(name, 0)
        every = sum(other.originalname == name for other in items)
        step = max(every // wanted, 1) if wanted else 0
        if wanted and seen[name] % step == 0 and seen[name] // step < wanted:
            ranked.append((seen[name] // step * 3 // wanted, list(TELLING).index(name), len(ranked), item))
        seen[name] += 1
    return [item for *_, item in sorted(ranked, key=lambda x: x[:3])][:most]


def backend_rank(item: Any) -> int:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return {"triton": 0, "cuda": 1}.get(parameters.get("backend"), 2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    if MOST in os.environ:
        items[:] = telling(items, int(os.environ[MOST]))


def pytest_configure(config: pytest.Config) -> None:
    if FILE in os.environ and not hasattr(config, "workerinput"):  # the process that hears of all tests
        config.pluginmanager.register(Recorder())


class Recorder:
    def __init__(self) -> None:
        path, stage, device = (os.environ[x] for x in (FILE, STAGE, DEVICE))
        self.results = Results(Path(path), stage, device)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            test, why = report.nodeid.split("::", 1)[-1], str(report.longrepr)[-300:] if report.longrepr else None
            seconds = round(report.duration, 2)
            self.results.add(test=test, outcome=report.outcome, why=why, seconds=seconds)
