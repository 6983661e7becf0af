"""Which backend "auto" takes on a measured GPU, and the command that measures. No GPU is needed: clocks are made up."""

from __future__ import annotations

import json
import math
import os
import time
from types import SimpleNamespace

import pytest
import torch

from contrastile import backends
from contrastile.backends import measured
from contrastile.backends.triton_device import tile_for
from contrastile.benchmark import ahead
from contrastile.cli import main, tune, tune_ahead, tune_measure

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
ENTRY = {
    "dispatch": {"bfloat16": [[100, "torch"], [10_000, "cuda"], [None, "triton"]], "float32": [[50, "cuda"]]},
    "tiles": {"half": [[64, 64, 64, 4, 3, 0], [32, 64, 64, 4, 3, 2]]},
}


@pytest.fixture
def gpu(monkeypatch):
    """A measured device, whose backends all say that they can run."""
    monkeypatch.setattr(measured, "table", lambda: {"a GPU": ENTRY})
    monkeypatch.setattr(measured, "device_name", lambda device: "a GPU")
    usable = [SimpleNamespace(name=b.name) for b in backends.BACKENDS if b.name != "cpu"]
    monkeypatch.setattr(backends, "BACKENDS", usable)
    monkeypatch.setattr(backends, "reason", lambda *_: None)
    return usable


@pytest.mark.parametrize(
    "dtype, pairs, name",
    [
        (torch.bfloat16, 0, "torch"),
        (torch.bfloat16, 100, "torch"),
        (torch.bfloat16, 101, "cuda"),
        (torch.bfloat16, 10_001, "triton"),
        (torch.float32, 50, "cuda"),
        (torch.float32, 51, "torch"),  # beyond what was measured: the order of BACKENDS
        (torch.float16, 5, "torch"),
    ],
)
def test_auto_takes_what_was_measured_fastest(gpu, dtype, pairs, name):
    assert backends.select("auto", GPU, dtype, pairs).name == name


def test_a_named_backend_is_taken_whatever_was_measured(gpu):
    assert backends.select("triton", GPU, torch.bfloat16, 5).name == "triton"


def test_the_next_backend_is_taken_where_the_fastest_cannot_run(gpu, monkeypatch):
    monkeypatch.setattr(backends, "reason", lambda backend, *_: "broken" if backend.name == "triton" else None)
    assert backends.select("auto", GPU, torch.bfloat16, 10**9).name == "torch"


def test_features_on_a_cpu_never_ask_for_measurements(monkeypatch):
    monkeypatch.setattr(measured, "table", lambda: pytest.fail("was read"))
    backends.select("auto", CPU, torch.float32, 100)


def test_measured_tiles_replace_the_tables(gpu, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("contrastile.backends.triton_device.architecture", lambda device: "sm_90")
    assert tile_for(GPU, "half", 1).numbers() != [32, 64, 64, 4, 3, 2, 0]  # by another Triton
    monkeypatch.setitem(ENTRY, "triton", measured.triton_version())
    assert tile_for(GPU, "half", 1).numbers() == [32, 64, 64, 4, 3, 2, 0]
    assert tile_for(GPU, "half", 3).rows > 0  # not measured


def test_the_users_table_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTILE_TUNING", str(tmp_path / "mine.json"))
    assert measured.read(measured.user_file()) == {}
    measured.user_file().write_text(json.dumps({"a GPU": {"dispatch": {}}}))
    measured.table.cache_clear()
    try:
        assert measured.table()["a GPU"] == {"dispatch": {}}
    finally:
        measured.table.cache_clear()


@pytest.mark.parametrize("text", ["{", "[]", "nonsense"])
def test_a_broken_table_is_named(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(RuntimeError, match=r"mine\.json"):
        measured.read(path)


def test_the_packages_table_is_well_formed():
    names = set(backends.backend_names())
    for device, entry in measured.read(measured.OWN).items():
        assert device and set(entry) <= {"dispatch", "tiles", "basis", "fused", "triton"}
        assert all(backend in names for rows in entry.get("dispatch", {}).values() for _, backend in rows)


# ---- the command


def test_without_a_gpu_the_command_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["tune"]) == 2 and "no GPU" in capsys.readouterr().out


def test_dispatch_joins_sizes_with_the_same_winner():
    """cpu wins up to 16 rows, torch from 32 on; every backend really runs the problem."""
    ran = []

    def clock(call, device):
        ran.append(call()[0].item())
        n, name = sizes[len(ran) // 2 - (len(ran) % 2 == 0)], ("cpu", "torch")[(len(ran) - 1) % 2]
        return 1.0 if (name == "cpu") == (n <= 16) else 2.0

    sizes = (8, 16, 32, 64)
    assert tune.ranges(CPU, torch.float32, sizes, clock, math.inf) == [[256, "cpu"], [None, "torch"]]
    assert ran[::2] == pytest.approx(ran[1::2], rel=1e-5)


def test_sizes_that_come_too_late_are_left_out():
    ran = []

    def clock(call, device):
        ran.append(call)
        return 1.0

    assert tune.ranges(CPU, torch.float32, (8, 16, 32), clock, time.monotonic() - 1.0) == [[None, "cpu"]]
    assert len(ran) == 2  # both backends, the first size


def test_the_fastest_tile_that_is_right_is_taken(capsys):
    tiles = {"own": (5.0, 3.0), "wrong": (6.0, 1.0), "slow": (5.0, 4.0), "broken": None, "fast": (5.0, 2.0)}
    chosen = ["first", "own"]

    def call():
        if tiles[chosen[1]] is None:
            raise ValueError("too much shared memory")
        return [torch.tensor(tiles[chosen[1]][0])]

    tune.choose(chosen, 1, list(tiles), call, CPU, lambda function, device: tiles[chosen[1]][1], "half", math.inf)
    assert chosen == ["first", "fast"]
    out = capsys.readouterr().out
    assert "WRONG" in out and "ValueError" in out
    chosen = ["first", "own"]
    tune.choose(chosen, 1, list(tiles), call, CPU, lambda function, device: tiles[chosen[1]][1], "half", 0.0)
    assert chosen == ["first", "own"]  # no time left


@pytest.mark.parametrize("error, seconds, taken", [(0.0, 1.0, "cuda"), (0.0, 3.0, "torch"), (1.0, 1.0, "torch")])
def test_compiled_bases_are_taken_where_they_are_right_and_faster(error, seconds, taken, monkeypatch):
    entry = {}
    results = tune.basis_results

    def spoilt(vectors):
        found = results(vectors)
        found[-1][:1] *= 1.0 - (error if entry["basis"] == "cuda" else 0.0)
        return found

    monkeypatch.setattr(tune, "basis_results", spoilt)
    assert tune.basis_maker(CPU, 8, entry, lambda *_: seconds if entry["basis"] == "cuda" else 2.0) == taken


def test_the_fused_kernel_waits_for_a_measurement(gpu, monkeypatch):
    assert measured.fused_features(GPU, torch.bfloat16, False) == -1
    monkeypatch.setitem(ENTRY, "fused", {"bfloat16": [128, 64]})
    assert measured.fused_features(GPU, torch.bfloat16, False) == -1  # by another Triton
    monkeypatch.setitem(ENTRY, "triton", measured.triton_version())
    assert [measured.fused_features(GPU, torch.bfloat16, rules) for rules in (False, True)] == [128, 64]
    assert measured.fused_features(GPU, torch.float16, False) == -1


@pytest.mark.parametrize(
    "fast, right, runs, widest",
    [
        ({32, 64, 128, 256}, {32, 64, 128, 256}, {32, 64, 128, 256}, 256),
        ({32, 64}, {32, 64, 128, 256}, {32, 64, 128, 256}, 64),
        ({32, 128}, {32, 64, 128, 256}, {32, 64, 128, 256}, 32),  # none beyond the first that is slower
        ({32, 64, 128, 256}, {32, 64, 256}, {32, 64, 128, 256}, 64),
        ({32, 64, 128, 256}, {32, 64, 128, 256}, {32, 64, 128}, 128),
        (set(), {32}, {32}, -1),
    ],
)
def test_the_fused_kernel_is_taken_where_it_is_right_and_faster(fast, right, runs, widest, monkeypatch):
    """With few rules as given, with many rules never; bfloat16 and float16 alike."""
    entry, asked = {}, {}

    def problem(n, dtype, device, backend, weight, features):
        def call():
            asked.update(features=features, name=str(dtype).removeprefix("torch."), weight=weight)
            if taken() and features not in runs:
                raise ValueError("too much shared memory")
            return [torch.tensor(5.0 if not taken() or features in right else 6.0)]

        return call

    def taken():
        return entry["fused"][asked["name"]][0] >= asked["features"]

    def clock(call, device):
        return 1.0 if taken() and asked["features"] in fast and asked["weight"] == 1 else 2.0

    monkeypatch.setattr(tune, "problem", problem)
    assert tune.fused(CPU, 8, entry, clock) == {"bfloat16": [widest, -1], "float16": [widest, -1]}


def test_problems_have_the_features_asked_for():
    few, many = (tune.problem(64, torch.float32, CPU, "torch", 1, features)()[0].item() for features in (2, 32))
    assert few != pytest.approx(many, rel=1e-3)


def test_compiled_bases_wait_for_a_measurement(gpu, monkeypatch):
    kernels = SimpleNamespace(name="cuda", bases=lambda vectors: len(vectors))
    monkeypatch.setattr(backends, "BACKENDS", (kernels,))
    vectors = [SimpleNamespace(device=GPU, shape=(4, 8), dtype=torch.float32)]
    assert backends.select_bases(vectors) is None
    monkeypatch.setitem(ENTRY, "basis", "cuda")
    assert backends.select_bases(vectors) == 1


@pytest.mark.parametrize("weight", [0, 1, 2, 3])
def test_problems_have_values_and_gradients(weight):
    torchs, ours = (tune.problem(32, torch.float32, CPU, name, weight)() for name in ("torch", "auto"))
    assert len(torchs) == (4 if weight else 1)
    for x, y in zip(torchs, ours, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_rows_that_a_tile_leaves_out_are_wrong(spoilt):
    """1 of 64, as 128 of 8192: their sum of norms differs by less than 1 %."""
    truth = tune.problem(64, torch.bfloat16, CPU, "torch", 1)()
    found = [x.clone() for x in truth]
    assert tune.agree(found, truth)
    found[1][:1] = spoilt
    assert not tune.agree(found, truth) and not tune.agree(truth, found)


def test_memory_is_poisoned_while_a_tile_is_checked_alone():
    held = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    (found,) = tune.checked(lambda: [torch.empty(1000)])
    assert found.isnan().all()
    assert held == (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())


@pytest.mark.parametrize("cores, processes", [(1, 1), (2, 1), (3, 1), (16, 14), (64, 16)])
def test_compilers_leave_cores_to_what_is_timed(cores, processes):
    assert tune_ahead.processes(cores) == processes


def test_samples_are_long_enough_that_the_host_does_not_decide(monkeypatch):
    """A call of 1 ms, of which the first in a row waits 1 ms for the host."""
    asked = []

    class Clock:
        def seconds(self, step, repeats, first):
            asked.append(repeats)
            return 1e-3 + 1e-3 / repeats

    monkeypatch.setattr(tune_measure, "CudaClock", Clock)
    assert tune_measure.seconds_of(lambda: None, 3) < 1.15e-3
    assert asked[-3:] == [asked[-1]] * 3 and asked[-1] * 1e-3 + 1e-3 >= tune_measure.LEAST_SAMPLE


def test_candidates_hold_the_tables_own_tiles():
    config = pytest.importorskip("contrastile.triton_kernels.config")
    for arch, kinds in config.TABLE.items():
        for kind, tiles in kinds.items():
            shapes = {(x[0], x[1], x[2]) for x in config.candidates(arch, kind)}
            assert {(x.rows, x.cols, x.depth) for x in tiles} <= shapes


# ---- what is compiled before it is timed


def outcome(task):
    """In place of compiling, in another process."""
    if task.weight == 2:
        raise ValueError("too much shared memory")
    if task.weight == 3:
        time.sleep(2)
    return 24 * task.weight


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter does not compile")
def test_tiles_that_spill_or_do_not_compile_are_not_offered(capsys):
    pytest.importorskip("triton")
    candidates = {kind: [[64, 64, 64, 4, 3, 0, 0]] for kind in ("half", "ieee")}
    own = {kind: [tile] * 4 for kind, (tile,) in candidates.items()}
    with tune_ahead.Ahead(ahead.Device(), time.monotonic() + 100.0, outcome) as compiling:
        tune.ask_for_tiles(compiling, own, candidates)
        offered = {
            (kind, weight): list(tune.without_faults(compiling, kind, weight, candidates[kind]))
            for kind in candidates
            for weight in range(3)
        }
        compiling.limit = 0.0
        assert list(tune.without_faults(compiling, "ieee", 3, candidates["ieee"])) == []
    assert {key for key, found in offered.items() if found} == {("half", 0), ("ieee", 0), ("ieee", 1)}
    said = capsys.readouterr().out
    assert all(x in said for x in ("half weight 1", "spills 24 bytes", "ValueError", "not compiled in time"))


@pytest.mark.aot
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter does not compile")
def test_the_compiler_sees_what_a_tile_spills(tmp_path, monkeypatch):
    """Capped so that two programs fit a multiprocessor, and as the compiler likes it."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with tune_ahead.Ahead(ahead.Device(), time.monotonic() + 200.0) as compiling:
        for registers in (0, 128):
            entry = {"tiles": {"half": [[128, 128, 64, 8, 3, 0, registers]] * 4}}
            compiling.ask(registers, tune_ahead.Task("half", torch.bfloat16, 0, 64, entry))
        assert compiling.fault(0, "half") is None
        assert compiling.fault(128, "half").startswith("spills ")
