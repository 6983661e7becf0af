"""What every test runs under: a fixed seed, poisoned memory, and options that choose tests."""

from __future__ import annotations

import os

# before torch starts OpenMP: threads that wait leave the cores to other workers, here and in subprocesses
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import atexit
import gc
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock  # torch needs it, too

import contrastile
from contrastile import backends
from contrastile.backends import native
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.replay import CACHES

if TYPE_CHECKING:
    from support.cuda_host import HostBackend

# cuBLAS is deterministic, and torch does not warn of it, only with a workspace of fixed size
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contrastile")
    group.addoption(
        "--run-gpu",
        choices=("auto", "require", "skip"),
        default="auto",
        help="tests marked gpu: auto runs them where there is a GPU, require fails without one",
    )
    group.addoption("--run-slow", action="store_true", help="also run the tests marked slow")
    group.addoption(
        "--skipped-before",
        action="store_true",
        help="only the tests that earlier runs skipped, for packages that have been installed since",
    )


class Skips:
    """Keeps in pytest's cache which tests, and which whole files, were skipped when they last ran."""

    KEY = "contrastile/skipped"

    def __init__(self, cache: pytest.Cache) -> None:
        self.cache = cache
        self.ids: set[str] = set(cache.get(self.KEY, []))

    def __contains__(self, item: pytest.Item) -> bool:
        return not self.ids.isdisjoint((item.nodeid, file_of(item.nodeid)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.ids.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            return
        self.ids -= {report.nodeid, file_of(report.nodeid)}
        if report.skipped and not hasattr(report, "wasxfail"):
            self.ids.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):  # the process that xdist's workers report to
            self.cache.set(self.KEY, sorted(self.ids))


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unpoisoned: leaves torch.empty and its kin alone")
    if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None:
        from support import quick_interpreter

        quick_interpreter.install()
    torch.set_num_threads(1)  # a second thread makes small problems slower; tests of threads set their own number
    if config.getoption("--run-gpu") == "require" and not torch.cuda.is_available():
        raise pytest.UsageError("--run-gpu=require: torch finds no GPU on this machine")
    if config.pluginmanager.has_plugin("cacheprovider"):
        config.pluginmanager.register(Skips(config.cache), "contrastile-skips")
    elif config.getoption("--skipped-before"):
        raise pytest.UsageError("--skipped-before needs pytest's cache")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --skipped-before only files that skipped something are imported."""
    if not config.getoption("--skipped-before") or collection_path.is_dir():
        return None
    before = config.pluginmanager.get_plugin("contrastile-skips")
    return collection_path.relative_to(config.rootpath).as_posix() not in map(file_of, before.ids) or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests are no garbage: nothing looks for any among them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # extensions complain of what is left when Python ends
        gc.enable()


# files of a minute: workers that share out files begin with them, so that none is left for the end
LONG = (
    "ranks", "interpreted", "interpreted_tiles", "interpreted_fused", "triton_compile", "compile", "catalog", "losses",
    "cuda_build", "cuda_host", "cuda_basis", "gpu_first", "failures",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)
    if not config.getoption("--run-slow"):
        keep(config, items, lambda item: item.get_closest_marker("slow") is None)
    left_out = config.getoption("--run-gpu") == "skip"
    if left_out or not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="--run-gpu=skip" if left_out else "needs a GPU")
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(skip)
    if config.getoption("--skipped-before"):
        before = config.pluginmanager.get_plugin("contrastile-skips")
        keep(config, items, lambda item: item in before and item.get_closest_marker("skip") is None)


def keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    """Deselects the others: to skip each of thousands would cost half a minute."""
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        chosen[wanted(item)].append(item)
    if chosen[False]:
        config.hook.pytest_deselected(items=chosen[False])
    items[:] = chosen[True]


def pytest_report_header(config: pytest.Config) -> str:
    backends = ", ".join(
        name if reason is None else f"no {name} ({reason})" for name, reason in contrastile.available_backends().items()
    )
    isa = native.cpu.isa() if native.cpu else "none"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    slow = "run" if config.getoption("--run-slow") else "left out (--run-slow)"
    found = f"torch {torch.__version__}, {os.cpu_count()} cores, isa {isa}, gpu {gpu}, backends {backends}"
    return f"contrastile: {found}, slow tests {slow}"


# for each kind of device that is not there, torch.manual_seed keeps the stack of every call
set_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
# torch.use_deterministic_algorithms without inductor, which takes seconds to import
set_deterministic = torch._C._set_deterministic_algorithms


@pytest.fixture(autouse=True)
def seed() -> None:
    set_seed(0)


@pytest.fixture(autouse=True)
def poison(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fills fresh memory with NaN (integers: their largest value), so that what is read before it is written shows.

    torch does this in torch.empty itself, below every caller, but only under deterministic algorithms; warn_only keeps
    operations without a deterministic form usable. Tests of determinism take the mark `unpoisoned`.
    """
    if request.node.get_closest_marker("unpoisoned") is not None:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    set_deterministic(True, warn_only=True)
    yield
    set_deterministic(before[0], warn_only=before[1])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def host_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of xdist's workers, whose own folders lie in one."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cuda_host"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def no_plans() -> None:
    """Small calls are recorded, plans of them are kept, with tiles and kernels that another test may have put in
    place."""
    CACHES.clear()
    plans = sys.modules.get("contrastile.backends.triton_small")
    if plans is not None:
        plans.plans.cache_clear()


@pytest.fixture(scope="session")
def host(host_folder: Path) -> HostBackend:
    """The cuda backend with its kernels run by loops on the CPU, see support/cuda_host.py."""
    from support import cuda_host  # needs the build requirements

    with FileLock(host_folder / "lock"):
        return cuda_host.HostBackend(cuda_host.build(host_folder))


@pytest.fixture
def installed(host: HostBackend, monkeypatch: pytest.MonkeyPatch) -> HostBackend:
    """backend="cuda" is the executor."""
    monkeypatch.setattr(backends, "BACKENDS", (host, TorchBackend()))
    return host


@pytest.fixture
def kernels_left_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """triton and cuda take torch's meta device and launch nothing; the test has a parameter `backend`."""
    from support import no_device

    host = None
    if request.getfixturevalue("backend") == "cuda":
        pytest.importorskip("pybind11", reason="the build requirements are not installed")
        if pytest.importorskip("support.cuda_host").compiler() is None:
            pytest.skip("needs g++ on Linux")
        host = request.getfixturevalue("host")
    no_device.leave_out_kernels(host, monkeypatch)
