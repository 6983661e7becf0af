"""python -m contrastile bench, and the measuring core below it, at tiny sizes."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import contrastile
from contrastile.benchmark import check, clock, growth, measure, memory, record, suite
from contrastile.benchmark.clock import HostClock, medians
from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import BOTH, FORWARD, MODES, Problem, stepper
from contrastile.benchmark.suite import Candidate, Skip, features
from contrastile.catalog import CATALOG
from contrastile.cli import choice, main
from support.combinations import by_default

PROBLEM = Problem("clip_loss", 40, 16, torch.float32)
COUNTED = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")


def bench(*arguments: str) -> int:
    return main(["bench", "--seconds", "0.02", *arguments])


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_option_reaches_the_table_the_file_and_the_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    lines, plot = tmp_path / "new" / "out.jsonl", tmp_path / "out.svg"
    code = bench(
        "--loss", "clip,nt_xent", "--n", "16,32", "--d", "8", "--dtype", "fp32,bf16", "--backend", "torch",
        "--mode", ",".join(MODES), "--json", str(lines), "--plot", str(plot),
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = record.read(lines)
    candidates = [
        (x.loss, x.n, x.d, x.dtype, x.mode, x.candidate) for x in found if x.outcome == "ok" and x.ms and x.tflops
    ]
    assert len(candidates) == len(found) == len(set(candidates)) == 2 * 2 * 2 * 2 * 2
    assert {x.candidate for x in found} == {"contrastile torch", "dense"}
    assert "nt_xent, D = 8, bfloat16, forward;" in printed.out and "time ~ N^" in printed.out
    rows = re.findall(r"^ *\d+  (dense|contrastile torch) +([\d.e+-]+)  +x ([\d.e+-]+) ", printed.out, re.MULTILINE)
    assert len(rows) == len(found)
    assert all(float(faster) == 1.0 for name, _, faster in rows if name == "dense")
    (_, ours, faster), (_, dense, _) = rows[:2]
    assert float(faster) == pytest.approx(float(dense) / float(ours), rel=0.01)
    assert plot.read_text().count("contrastile torch") >= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--loss", "klip"], "unknown loss 'klip': one of info_nce, clip_loss"),
        (["--variant", "nothing"], "unknown variant 'nothing' of clip_loss: one of default"),
        (["--backend", "fast"], "unknown backend 'fast': one of cpu, torch"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--mode", "backward"], "unknown mode 'backward'"),
        (["--n", "0"], "must be a whole number from 1 on"),
        (["--device", "cpu", "--backend", "cuda"], "backend cuda: features are on cpu"),
        (["--seconds", "0"], "must be a number above 0, got '0'"),
        (["--plot", "figure.txt"], "--plot draws .png, .svg, .pdf files, got 'figure.txt'"),
        (["--json", f"{__file__}/figures"], "cannot write: [Errno 17] File exists"),
        (["--json", __file__], "test_bench_cli.py holds something else: Extra data"),
        (["--loss", "symile", "--variant", "n_squared", "--n", "65"], "limited to N = 64, got 65"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(arguments, message, capsys):
    try:
        code = main(["bench", *arguments])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert code == 2 and message in printed.err and not printed.out


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x, *more: None if x == "matplotlib" else find(x, *more))
    assert bench("--n", "8", "--plot", "x.png") == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_dry_run_shows_what_can_run_and_in_what_blocks(capsys, monkeypatch):
    monkeypatch.setattr(Meter, "measure", None)
    assert main(["bench", "--dry-run", "--loss", "clip,alignment,nt_xent", "--n", "16,1000", "--d", "8"]) == 0
    whole, large, *_, sides = re.split(r"\n(?=\w+ N=)", capsys.readouterr().out)
    assert "auto takes cpu: the first of" in whole and "a matrix of scores: 4.0 MB" in large
    assert re.search(r"^cpu +yes +all pairs at once +\w+, panels of \d+ columns$", whole, re.MULTILINE)
    assert re.search(r"^torch +yes +768 x 1,000$", large, re.MULTILINE)
    assert re.search(r"^torch +yes +384 x 384$", sides, re.MULTILINE)
    assert re.search(r"^cuda +no +features are on cpu, it needs cuda$", large, re.MULTILINE)


@pytest.mark.parametrize("card", CATALOG, ids=lambda x: x.name)
def test_what_a_dry_run_foretells_is_the_first_block(card):
    if card.gemm:
        problem = Problem(card.name, 40, 8, torch.float32)
        assert re.fullmatch(r"\d+ x \d+", choice.blocks(problem, "torch"))


def test_constants_are_not_differentiated():
    """`share` of mixed items takes no gradient."""
    found = Meter(seconds=0.02).measure(replace(PROBLEM, loss="mixup_info_nce"), ["contrastile torch", "dense"])
    assert [x.outcome for x in found] == ["ok", "ok"]


# ---- what may be reported


def run_with(monkeypatch: Any, problem: Problem = PROBLEM, **losses: Any) -> dict[str, record.Record]:
    """Records of candidates with these losses."""
    made = {name: Candidate(name, name, lambda problem, loss=loss: loss) for name, loss in losses.items()}
    monkeypatch.setattr(suite, "candidates", lambda workload: made)
    found = Meter(seconds=0.02).measure(problem, list(losses))
    return {x.candidate: x for x in found}


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_value_or_gradient_is_refused_and_the_rest_goes_on(monkeypatch, mode):
    right = contrastile.reference.clip_loss

    def out_of_memory(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("none left")

    def skipped(*_: Any) -> Any:
        raise Skip("not here")

    found = run_with(
        monkeypatch, replace(PROBLEM, mode=mode),
        value=lambda a, b, scale: right(a, b, scale) * 1.01,
        gradient=lambda a, b, scale: right(a, b.detach(), scale) + 0.0 * b.sum(),
        nan=lambda a, b, scale: right(a, b, scale) * torch.nan,
        memory=out_of_memory, skipped=skipped, right=right,
    )  # fmt: skip
    assert {name: x.outcome for name, x in found.items()} == {
        "value": "refused", "gradient": "refused" if mode == BOTH else "ok", "nan": "refused",
        "memory": "out of memory", "skipped": "skipped", "right": "ok",
    }  # fmt: skip
    assert found["right"].ms > 0 and found["value"].ms is None and "relative error" in found["value"].why


def test_a_value_that_is_wrong_only_at_the_measured_size_is_refused(monkeypatch):
    right = contrastile.reference.clip_loss
    monkeypatch.setitem(check.CHECK_FLOP, "cpu", 1.0)
    problem = PROBLEM.at(120)  # below 128, no fresh process is asked, which would not know these candidates
    found = run_with(monkeypatch, problem, large=lambda a, b, s: right(a, b, s) * (1.0 + (len(a) == 120)), right=right)
    assert {name: x.outcome for name, x in found.items()} == {"large": "refused", "right": "ok"}
    assert found["right"].checked_n == 60


def test_the_package_s_own_parameters_are_held_to_the_error_budget():
    def wrong_scale(a: Any, b: Any, scale: Any) -> Any:
        return contrastile.clip_loss(a, b, scale.detach()) + 0.0 * scale

    candidate = Candidate("wrong", "contrastile", lambda _: wrong_scale, ours=True, budget=True)
    with pytest.raises(check.Refused, match="beyond the error budget at N = 40: d2"):
        check.check(PROBLEM, candidate)


def test_the_truth_of_large_batches_is_the_reference_s(monkeypatch):
    """Beyond dense_rows it comes from blocks in float64."""
    whole = check.truth_of.__wrapped__(PROBLEM, True)
    small = replace(suite.workload("clip_loss", "default"), dense_rows=20)
    monkeypatch.setattr(suite, "workload", lambda loss, variant: small)
    assert check.error(check.truth_of.__wrapped__(PROBLEM, True), whole) < 1e-12


def test_candidates_and_modes_share_one_truth(monkeypatch):
    check.truth_of.cache_clear()
    check.within_budget.cache_clear()
    for mode in MODES:
        Meter(seconds=0.01).measure(replace(PROBLEM, mode=mode), ["contrastile torch", "dense"])
    assert check.truth_of.cache_info().misses == len(MODES)  # with gradients, and without
    assert check.within_budget.cache_info().misses == 1


# ---- time, memory, growth


def test_one_thread_is_timed_by_its_cpu_time_alone(one_thread):
    """Waiting, as for a core that another process has, takes none."""
    assert HostClock().seconds(lambda _: time.sleep(0.05), 1, 0) < 0.02
    torch.set_num_threads(2)
    assert HostClock().seconds(lambda _: time.sleep(0.05), 1, 0) > 0.04


def test_steps_take_turns_and_slow_ones_stop_early(monkeypatch):
    counts = [0, 0, 0]

    def step(which: int) -> Any:
        def run(_: int) -> None:
            counts[which] += 1
            time.sleep((0.004, 0.03, 0.2)[which])

        return run

    monkeypatch.setattr(clock, "host_clock", lambda: time.perf_counter)  # sleeping takes no CPU time
    timed = medians(HostClock(), [step(0), step(1), step(2)], 0.15)
    (fast, many), (slow, few), (slowest, once) = timed
    assert fast < slow < slowest and once == 1 and few == 3 and many > 3
    assert counts[0] > counts[1] > counts[2] == 1


def test_inputs_rotate_and_gradients_start_anew():
    cases = [PROBLEM.case(seed) for seed in range(2)]
    assert not torch.equal(cases[0].args[0], cases[1].args[0])
    seen = []

    def loss(a: Any, b: Any, scale: Any) -> Any:
        assert a.grad is None
        seen.append(a.detach().clone())
        return (a * b).sum() * scale

    step = stepper(loss, cases, backward=True)
    for index in range(3):
        step(index)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], cases[1].args[0])


def test_forward_alone_takes_no_gradient():
    case = PROBLEM.case(0)
    value = stepper(lambda a, b, scale: (a * b).sum() * scale, [case], backward=False)(0)
    assert not value.requires_grad


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory figures")
def test_memory_of_a_fresh_process_sees_the_dense_matrix():
    problem = Problem("clip_loss", 2048, 16, torch.float32)
    matrix = 4 * problem.n**2
    candidates = problem.candidates
    dense = measure.probe(problem, candidates["dense"]).peak_bytes
    assert 2 * matrix < dense < 12 * matrix
    assert measure.probe(problem, candidates["contrastile torch"]).peak_bytes < dense


def test_a_process_without_a_figure_says_why():
    with pytest.raises(memory.ProbeError, match="KeyError: 'no such candidate'"):
        memory.in_fresh_process(measure.usage, PROBLEM, "no such candidate", 1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory figures")
def test_what_would_not_fit_is_skipped_before_it_is_run(monkeypatch):
    monkeypatch.setattr(measure, "available_bytes", lambda: 1 << 20)
    (found,) = Meter(seconds=0.02).measure(Problem("clip_loss", 100_000, 8, torch.float32), ["dense"])
    assert found.outcome == "skipped" and "GB of memory" in found.why and found.ms is None


def test_where_memory_is_not_measured_it_is_foretold_by_what_another_mode_took(monkeypatch):
    """No fresh process is asked."""
    monkeypatch.setattr(measure, "probe", None)
    monkeypatch.setattr(measure, "available_bytes", lambda: 1 << 30)
    meter = Meter(seconds=0.02)
    meter.usages[PROBLEM.at(0), "dense"] = {128: memory.Usage(10 << 20, 0.1), 512: memory.Usage(160 << 20, 0.1)}
    forward = replace(PROBLEM, mode=FORWARD)
    (large,) = meter.measure(forward.at(2048), ["dense"], memory=False)
    (small,) = meter.measure(forward.at(256), ["dense"], memory=False)
    assert large.outcome == "skipped" and "2.68 GB of memory" in large.why
    assert small.outcome == "ok" and small.peak_bytes is None


@pytest.mark.parametrize("card", by_default(CATALOG, suite.card("mixup_info_nce")), ids=lambda x: x.name)
def test_every_loss_can_be_measured(card):
    """Also one with an argument that may have no gradient."""
    problem = Problem(card.name, 24, 16, torch.float32)
    found = Meter(seconds=0.01).measure(problem, ["contrastile torch", "dense"])
    assert {x.candidate: x.why for x in found} == {"contrastile torch": None, "dense": None}


def test_what_would_take_too_long_is_skipped():
    meter = Meter(step_seconds=60.0)
    with pytest.raises(Skip, match="would take about 200 s a step"):
        meter.refuse_too_large({500: memory.Usage(0, 0.5), 1000: memory.Usage(0, 2.0)}, 10_000)


def test_growth_finds_the_exponents():
    points = {64: 50.0, 1024: 3.0 * 1024**1.5, 2048: 3.0 * 2048**1.5, 4096: 3.0 * 4096**1.5}
    assert growth.exponent(points) == pytest.approx(1.5)
    assert growth.exponent({64: 1.0}) is None
    assert growth.forecast({1024: 3.0, 2048: 24.0}, 4096) == pytest.approx(192.0)
    assert growth.forecast({1024: 3.0}, 2048) == pytest.approx(12.0)


COUNTED_CARDS = [x for x in CATALOG if x.gemm]
ONE_OF_A_COUNT = {x.gemm: x for x in reversed(COUNTED_CARDS)}.values()


@pytest.mark.parametrize("card", by_default(COUNTED_CARDS, *ONE_OF_A_COUNT), ids=lambda x: x.name)
def test_the_operations_of_the_forward_pass_are_the_catalog_s(card):
    """Counted by torch in the plain torch backend; what is more than the card's are the tiles on the diagonal."""
    n, d = 1536, 8
    problem = Problem(card.name, n, d, torch.float32, FORWARD)
    case = problem.case(0)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as counted:
        with torch.no_grad():
            card.function(*case.args, **case.kwargs, backend="torch")
    flop = sum(x.flops for x in counted.key_averages() if x.key in COUNTED)
    assert 0.95 < flop / problem.flop < 1.35


def test_operations_are_counted_only_where_a_variant_does_the_default_s_work():
    def counted(loss: str, variant: str) -> bool:
        return suite.workload(loss, variant).flop is not None

    assert counted("gram_loss", "four") and counted("clip_loss", "scale 100") and counted("mv_infonce", "eight views")
    assert not counted("info_nce", "symmetric") and not counted("info_nce", "negatives")
    assert not counted("alignment", "default") and not counted("symile_loss", "n_squared")
    assert len(features(PROBLEM.case(0))) == PROBLEM.k == 2


def test_a_record_is_one_line_that_comes_back(tmp_path):
    (made,) = Meter(seconds=0.02).measure(PROBLEM, ["dense"])
    path = tmp_path / "x.jsonl"
    record.append(path, [made, replace(made, ms=1.0)])
    record.append(path, [replace(made, ms=None, outcome=record.NO_TIME)])
    assert record.read(path) == [replace(made, ms=1.0)]  # the last of its problem and candidate that has a figure
    keys = {"loss", "device", "threads", "isa", "torch", "triton", "date", "contrastile"}
    assert keys <= json.loads(made.line()).keys()
    with pytest.raises(ValueError, match="not a record"):
        record.parse('{"benchmark": "of another format"}')
