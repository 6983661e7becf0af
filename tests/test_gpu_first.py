"""make gpu-first without a GPU: a dry run of every stage, limits that hold, and what the summary makes of results."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contrastile.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (str(ROOT / "bench"), str(ROOT / "bench/gpu"), str(ROOT / "tests"))
compiles = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter does not compile")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(folder)
    yield lambda name: importlib.import_module(f"first.{name}")
    for name in [x for x in sys.modules if x.split(".")[0] in ("first", "processes")]:
        del sys.modules[name]


def run(*words: str, cache: Path, code: str = "") -> str:
    environment = os.environ | {"PYTHONPATH": FOLDERS[1], "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "first", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@compiles
@pytest.mark.aot
def test_a_dry_run_goes_through_every_stage(load, tmp_path):
    pytest.importorskip("triton")
    pytest.importorskip("pybind11", reason="peers import the build requirements")
    said = run("--dry", "--tiny", "--out", str(tmp_path / "out"), cache=tmp_path / "cache")
    plan, results = load("plan"), load("results")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {stage.file for stage in plan.STAGES} | {plan.LOG} and len(files) <= 8
    assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())
    for stage in plan.STAGES:
        mine = [x for x in results.read([tmp_path / "out" / stage.file]) if x["stage"] == stage.name]
        (end,) = [x for x in mine if x.get("item") == "stage"]
        assert end["outcome"] == "ok" and len(mine) > 2, mine
        assert not [x for x in mine if x["outcome"] in ("failed", "wrong")], mine
    checked = [x for x in results.read([tmp_path / "out/right.jsonl"]) if x.get("outcome") == "ok"]
    assert {(x["loss"], x["backend"]) for x in checked if "loss" in x} >= {
        (work.name, backend) for work in plan.WORKLOADS for backend in ("triton", "torch")
    }
    summary = said[said.index("==== summary") :]
    assert "next ten minutes" in summary and len(summary) < 12_000
    assert "numbers mean nothing" in summary


SAME_KERNELS = """
import os
import sys
import processes
processes.link_site()
sys.path[:0] = [str(processes.SITE), *processes.BENCH]
from pathlib import Path
from first import look, plan, precompile, results
given = look.Look(results.Results(Path("/dev/null"), "kernels", "dry"), dry=True)
jobs = dict(precompile.jobs(False))
cache = Path(os.environ["TRITON_CACHE_DIR"])
from contrastile.benchmark import ahead
ahead.install(ahead.Device())
jobs["siglip_loss bfloat16 in steps"](given)
before = len(list(cache.rglob("*.cubin")))
precompile.ROWS = 192
jobs["siglip_loss bfloat16 in steps"](given)
print("cubins", before, len(list(cache.rglob("*.cubin"))))
"""


@compiles
@pytest.mark.aot
def test_kernels_compiled_ahead_serve_every_size(tmp_path):
    """Or the real sizes would compile again, while the clock runs."""
    pytest.importorskip("triton")
    said = run(cache=tmp_path, code=SAME_KERNELS)
    before, after = map(int, re.findall(r"^cubins (\d+) (\d+)$", said, re.MULTILINE)[0])
    assert before == after > 1


# ---- the plan


def test_the_stages_fit_the_time_and_the_files(load):
    plan = load("plan")
    assert sum(stage.seconds for stage in plan.STAGES[:-1]) <= plan.SECONDS - plan.LEAST_TESTS
    assert len({stage.file for stage in plan.STAGES} | {plan.LOG}) <= 8
    text = (ROOT / "docs/contributing.md").read_text()
    for stage in plan.STAGES[:-1]:
        assert f"| {stage.name} | {stage.seconds:.0f} |" in text


def kept_by_the_reference(work: Any, n: int, d: int) -> int:
    """Bytes that the float64 reference holds for its backward pass."""
    card = next(card for card in CATALOG if card.name == work.name)
    case = card.variants[work.variant](n, d, torch.Generator().manual_seed(0), torch.float64)
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    args = [x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case.args]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        card.reference(*args, **case.kwargs).sum()
    return sum(storage.nbytes() for storage in storages.values())


MEMORY = 139 * 2**30  # bytes of the GPU that the first look is planned for


@pytest.mark.parametrize("size", [0, 1])
def test_the_references_fit_the_memory(load, size):
    """By what they keep at one 32nd of the rows, and a gradient of each of it."""
    for work in load("plan").WORKLOADS:
        n, d = work.checked[size]
        small = n // 32
        assert 2 * kept_by_the_reference(work, small, d) * (n / small) ** 2 < MEMORY, work.name


def test_a_stage_alone_has_what_it_needs(load):
    plan = load("plan")
    for stage in plan.STAGES[2:]:
        assert {"build", "kernels"} <= set(stage.needs), stage.name


def test_a_stage_alone_waits_for_its_jobs_as_long_as_there_is_time(load, tmp_path, monkeypatch):
    """With others after it, for half of its limit."""
    runner, plan = load("runner"), load("plan")
    monkeypatch.setattr(runner, "device", lambda: ("none", (9, 0)))
    it = runner.Runner(tmp_path, 0.0, dry=False, tiny=False)
    levers = next(stage for stage in plan.STAGES if stage.name == "levers")
    for it.later, spare in (((), 270.0), ((plan.STAGES[-1],), 0.0)):
        assert it.spare(levers.seconds, plan.SECONDS) == spare


def test_the_tests_of_basis_have_the_module_built(load, tmp_path, monkeypatch):
    """The rest of the module is built before basis, whatever the stages name."""
    runner = load("runner")
    monkeypatch.setattr(runner, "device", lambda: ("none", (9, 0)))
    it, begun = runner.Runner(tmp_path, time.monotonic() + 1000.0, dry=False, tiny=False), []
    monkeypatch.setattr(it, "start", lambda name, *_: begun.append(name))
    it.start_jobs({"basis"})
    it.tend()
    assert begun == ["build", "basis"]


def test_the_tests_go_one_by_one_to_whoever_is_free(load):
    """Or the first of them would wait behind those of another worker."""
    pytest.importorskip("xdist")
    words = " ".join(load("tests").command(dry=False))
    assert "--dist load --maxschedchunk 1" in words


def test_the_tests_that_are_chosen_exist(load):
    """At least 250 of them, most of them on the kernels' backends; none compiles with Inductor."""
    tests = load("tests")
    source = (ROOT / "tests/test_gpu.py").read_text()
    assert all(f"def {name}(" in source for name in tests.TELLING)
    assert sum(tests.TELLING.values()) == load("plan").TESTS
    assert not any("inductor" in name for name in tests.TELLING)


def test_every_kind_of_test_comes_before_the_rest_of_any(load):
    tests = load("tests")

    def item(name: str, backend: str) -> Any:
        return SimpleNamespace(originalname=name, callspec=SimpleNamespace(params={"backend": backend}))

    every = [item(name, x) for name in ("other", *tests.TELLING) for x in ("torch", "cuda", "triton") * 40]
    chosen = tests.telling(every, 250)
    assert len(chosen) == 250 == len(set(map(id, chosen)))
    assert {x.originalname for x in chosen} == set(tests.TELLING)
    assert {x.originalname for x in chosen[:100]} == set(tests.TELLING)
    assert tests.telling(every, 5) == chosen[:5]


# ---- limits


def hang(path: str) -> None:
    """With a child that would go on alone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(str(child.pid))
    time.sleep(60)


def fail() -> None:
    raise RuntimeError("why it failed")


def test_a_process_that_hangs_is_cut_with_what_it_started(load, tmp_path):
    runner = load("runner")
    begun = time.monotonic()
    assert runner.Process(tmp_path / "log", hang, str(tmp_path / "pid")).wait(5.0) is None
    assert time.monotonic() - begun < 20
    child = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


def test_a_stage_that_fails_is_reported_and_the_next_one_runs(load, tmp_path, monkeypatch):
    runner, plan, results = load("runner"), load("plan"), load("results")
    stages = [plan.Stage(name, "x.jsonl", 5.0) for name in ("bad", "long", "good", "late")]
    told = []

    def run_stage(name: str, look: Any) -> None:
        look.results.add(item=name)
        {"bad": fail, "long": lambda: time.sleep(60), "good": lambda: None}[name]()

    monkeypatch.setattr(runner, "run_stage", run_stage)
    monkeypatch.setattr(runner, "device", lambda: ("none", (9, 0)))
    it = runner.Runner(tmp_path, time.monotonic() + 1000.0, dry=False, tiny=False)
    for stage in stages:
        it.deadline = time.monotonic() + (3.0 if stage.name == "late" else 1000.0)
        told.append(it.stage(stage)[1])
    assert told == ["failed (1)", "cut", "ok", "no time left"]
    assert "why it failed" in (tmp_path / plan.LOG).read_text()
    lines = results.read([tmp_path / "x.jsonl"])
    assert [x["outcome"] for x in lines if x["item"] == "stage"] == told
    assert [x["item"] for x in lines if x["item"] != "stage"] == ["bad", "long", "good"]


@pytest.mark.parametrize("job, outcome", [(fail, "failed"), (lambda: None, "ok"), (lambda: time.sleep(60), "cut")])
def test_what_became_of_a_background_job_is_recorded(load, tmp_path, monkeypatch, capsys, job, outcome):
    runner, plan, results = load("runner"), load("plan"), load("results")
    monkeypatch.setattr(runner, "device", lambda: ("none", (9, 0)))
    monkeypatch.setattr(runner, "run_wheels", job)
    monkeypatch.setattr(runner, "run_stage", lambda *_: time.sleep(0.3))
    it = runner.Runner(tmp_path, time.monotonic() + 6.0, dry=False, tiny=False)
    it.run([plan.Stage("x", plan.STAGES[0].file, 2.0, ("wheels",))])
    (found,) = [x for x in results.read(it.files()) if x["stage"] == "jobs"]
    assert (found["item"], found["outcome"]) == ("wheels", outcome)
    assert found["seconds"] < 30 and ("why it failed" in found.get("why", "")) == (outcome == "failed")
    todo = capsys.readouterr().out.split("next ten minutes")[1].splitlines()
    assert ("job wheels" in todo[1]) == (outcome != "ok")


def test_a_build_that_fails_leaves_no_module_from_before(load, tmp_path, monkeypatch):
    runner, processes = load("runner"), sys.modules["processes"]
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "link_site", lambda: None)

    def build(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, "setup.py")

    monkeypatch.setattr(runner, "build", build)
    stale = tmp_path / "python/contrastile/_cuda.abi3.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    for dry in (True, False):  # a dry run leaves the package alone
        with pytest.raises(subprocess.CalledProcessError):
            runner.run_build(SimpleNamespace(dry=dry))
        assert stale.exists() == dry


STOPPED = """
import sys, time
from pathlib import Path
from first import plan, runner
runner.device = lambda: ("none", (9, 0))
def run_stage(*_):
    import os
    (out / "pid").write_text(str(os.getpid()))
    time.sleep(60)
runner.run_stage = run_stage
out = Path(sys.argv[1])
runner.Runner(out, time.monotonic() + 1000.0, False, False).run([plan.Stage("x", "x.jsonl", 50.0)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends the children of a killed process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_command(tmp_path, number):
    environment = os.environ | {"PYTHONPATH": FOLDERS[1]}
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    pid, until = tmp_path / "pid", time.monotonic() + 120  # a busy machine is slow
    while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert ("==== summary" in said) == (number == signal.SIGTERM)
    status = Path(f"/proc/{pid.read_text()}/status")
    for _ in range(600):
        if not status.exists() or "Z (zombie)" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("it lives")


@pytest.mark.parametrize(
    "said, found",
    [
        ("NVIDIA H200, 9.0\n", ("NVIDIA H200", (9, 0))),
        ("A, B, 12.0\nC, 8.0\n", ("A, B", (12, 0))),
        ("", ("unknown", (9, 0))),
    ],
)
def test_the_device_is_asked_of_the_drivers_tool(load, monkeypatch, said, found):
    runner = load("runner")
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert runner.device() == found


def test_a_line_that_was_cut_off_is_left_out(load, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"stage": "right"}\n{"stage": "lo')
    assert load("results").read([tmp_path / "x.jsonl", tmp_path / "none.jsonl"]) == [{"stage": "right"}]


# ---- what is made of results

NCU = """==PROF== Connected
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","stats","GPU Speed Of Light Throughput","Duration","us","1,234.5"
"0","7","stats","Scheduler Statistics","No Eligible","%","30.0"
"0","7","stats","Memory","L2 Cache Throughput","%","40.0"
"1","7","score_grad","GPU Speed Of Light Throughput","Duration","us","2.0"
"""


def test_what_ncu_says_is_read(load):
    found = load("counters").metrics(NCU.splitlines())
    assert [name for name, _ in found] == ["stats", "score_grad"]
    assert found[0][1] == {"Duration": "1,234.5 us", "No Eligible": "30.0 %", "L2 Cache Throughput": "40.0 %"}
    assert load("counters").metrics(["==ERROR== no permission"]) == []


KERNELS = [{"name": "score_grad", "calls": 16, "ms": 30.0}, {"name": "gemm", "calls": 32, "ms": 20.0}]
CLIP = {"stage": "losses", "outcome": "ok", "loss": "clip_loss", "backend": "triton", "tflops": 400.0, "megabytes": 1.0}
PREDICTED = {"device": "H200", "total": [41.0, 46.0], "stats": [0.0, 0.0]}
FOUND = [
    {"stage": "right", "outcome": "wrong", "loss": "nt_xent", "backend": "cuda", "dtype": "float16", "n": 5003},
    CLIP | {"ms": 65.0, "kernels": KERNELS, "predicted": PREDICTED},
    {"stage": "levers", "outcome": "ok", "kernel": "score_grad", "lever": "table", "tile": None, "ms": 2.0,
     "tflops": 1.0},
    {"stage": "levers", "outcome": "ok", "kernel": "score_grad", "lever": "lean", "tile": [64], "ms": 1.0,
     "tflops": 2.0},
    {"stage": "levers", "outcome": "ok", "kernel": "stats", "lever": "table", "tile": None, "ms": 2.0, "tflops": 1.0},
    *({"stage": "ceilings", "outcome": "ok", "item": "dA", "rows": n, "tflops": n / 10} for n in (5632, 8192)),
    {"stage": "ceilings", "outcome": "ok", "item": "adds in place", "in_place": False, "megabytes": 9, "error": 1e-6},
    *(
        {"stage": "small", "outcome": "ok", "loss": "clip_loss", "n": 512, "candidate": name, "way": way, "us": us}
        for name, way, us in (
            ("triton", "plain", 800), ("eager", "plain", 300), ("triton", "graph", 90), ("eager", "graph", 99),
        )
    ),
    {"stage": "peers", "outcome": "ok", "loss": "clip_loss", "candidate": "memeff", "ms": 50.0},
    {"stage": "tests", "outcome": "failed", "test": "test_bare_calls[x]", "why": "Boom"},
]  # fmt: skip


def test_the_summary_says_what_to_do_next(load):
    found = [{"device": "H200"} | x for x in FOUND]
    for name, values in load("counters").metrics(NCU.splitlines())[:1]:
        found.append({"stage": "counters", "device": "H200", "outcome": "ok", "kernel": name, "metrics": values})
    text = load("summary").text(found, [("right", "ok", 3.0), ("peers", "cut", 25.0)], 28.0)
    assert "predicted for an H200, ms: total 41.0 to 46.0\n" in text
    todo = text[text.index("next ten minutes") :].splitlines()[1:]
    for number, words in enumerate((
        "STAGES=\"peers\"", "cuda nt_xent float16", "1 tests fail", "60% of the kernels' time in stats and score_grad",
        "score_grad: take lean [64], 50% less", "stats: the table's tile stands", "chunks of 8192 rows",
        "does not add in place", "stats: issue slots 70 % busy, L2 40 %: bound by instructions",
        "1 small batches lose to eager, not in a graph: the host's time", "memeff is faster: 50.0 against 65.0",
        "make gpu",
    ), 1):  # fmt: skip
        assert todo[number - 1].startswith(f"  {number}. ") and words in todo[number - 1], todo


def test_what_ncu_printed_in_time_stays(load):
    code = "import time; print('half', flush=True); time.sleep(60)"
    counters = load("counters")
    assert counters.output([sys.executable, "-c", code], 3.0) == ("half\n", "", counters.OVER)


def test_a_check_that_did_not_fit_is_bad(load):
    found = [FOUND[0] | {"outcome": "out of memory"}]
    assert "cuda nt_xent float16" in load("advice").wrong(found)[0]


def test_the_summary_fits_and_survives_records_of_any_form(load):
    summary = load("summary")
    odd = [{"stage": stage.name, "device": "H200", "outcome": "ok"} for stage in load("plan").STAGES]
    assert "next ten minutes" in summary.text(odd, [], 1.0)
    assert "next ten minutes" in summary.text([], [], 1.0)
    many = [
        {"stage": "losses", "device": "x", "outcome": "failed", "loss": "y" * 99, "backend": "z", "why": "w" * 99}
    ] * 500
    text = summary.text(many, [("losses", "failed (1)", 1.0)], 1.0)
    assert len(text) < 12_000 and "make gpu" in text


@pytest.mark.parametrize("words", [["--dry", "--out", "bench/results/x"], ["--tiny"], ["nosuch"]], ids=" ".join)
def test_a_dry_run_does_not_get_among_the_results(words, load, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["first", *words])
    with pytest.raises(SystemExit) as ended:
        load("__main__").main()
    assert ended.value.code == 2


def test_what_came_from_a_gpu_names_it(load, tmp_path):
    results = load("results").Results(tmp_path / "x.jsonl", "right", "NVIDIA H200")
    results.add(backend="triton", outcome="ok")
    assert json.loads((tmp_path / "x.jsonl").read_text())["device"] == "NVIDIA H200"
