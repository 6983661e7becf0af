"""make report: the committed page is what the committed results give, and it names every case that is lost."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastile.benchmark import plots, record
from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import FORWARD, Problem

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks.md"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("report")


@pytest.fixture(scope="module")
def blank() -> record.Record:
    problem = Problem("clip_loss", 8, 8, torch.float32)
    return Meter().record(problem, problem.candidates["dense"], outcome="ok", error=0.0, checked_n=8)


def made(blank: record.Record, candidate: str, package: str, n: int, ms: float | None, mb: float, **more: Any) -> Any:
    more = {"outcome": "ok"} | more
    return replace(blank, candidate=candidate, package=package, n=n, ms=ms, peak_bytes=int(mb * 1e6), **more)


@pytest.fixture
def sample(blank: record.Record) -> list[record.Record]:
    def both(n: int, ours: tuple[float, float], theirs: tuple[float, float]) -> list[Any]:
        found = [
            made(blank, "contrastile cpu", "contrastile", n, *ours),
            made(blank, "contrastile torch", "contrastile", n, 3 * ours[0], ours[1]),
            made(blank, "open_clip ClipLoss", "open_clip", n, *theirs),
        ]
        return [replace(x, tflops=1.0, gemm_tflops=2.0, of_gemm=0.5, of_chunk_gemm=0.8) for x in found]

    def dense(n: int, ms: float, mb: float, **more: Any) -> Any:
        return made(blank, "dense", "dense torch", n, ms, mb, **more)

    slower = made(blank, "drop-in for open_clip ClipLoss", "contrastile", 1024, 2.5, 4.0)
    skipped = made(blank, "torch.compile", "torch.compile", 1024, None, 0.0, outcome="skipped", why="would | 9 GB")
    return [
        *both(64, (1.0, 0.1), (0.5, 0.2)),  # they are faster
        *both(1024, (1.0, 4.0), (2.0, 3.5)),  # half a megabyte is noise
        *both(4096, (16.0, 16.0), (32.0, 8.0)),  # they are smaller
        dense(64, 2.0, 0.1),
        dense(1024, 3.14, 12.0),
        dense(4096, 480.0, 512.0),
        made(blank, "contrastile cpu", "contrastile", 1024, 0.5, 4.0, mode=FORWARD),
        dense(1024, 0.6, 4.0, mode=FORWARD),
        slower,
        skipped,
        dense(1024, None, 0.0, d=16, outcome=record.NO_TIME),
    ]


def write(path: Path, records: list[record.Record]) -> Path:
    record.append(path / "results/x.jsonl", records)
    return path / "results"


def lost_rows(text: str) -> list[list[str]]:
    section = text.partition("## Where we lose")[2].partition("\n## ")[0]
    return [re.split(r" \| ", x.strip("| ")) for x in section.splitlines() if x.startswith("| clip")]


def test_the_committed_page_is_what_the_committed_results_give(report):
    busy, hosts = (report.lines_of(report.RESULTS, name) for name in ("busy", "small_gpu"))
    text, figures = report.page(report.collected(report.RESULTS), busy, hosts)
    assert PAGE.read_text() == text
    assert {x.name for x in PAGE.parent.glob("benchmarks/*.svg")} == set(figures)
    assert all(f"benchmarks/{name})" in text for name in figures)


def test_the_summary_has_round_numbers_and_marks_what_is_lost(report, sample):
    summary = report.page(sample)[0].partition("## Summary")[2].partition("\n## ")[0]
    assert "N = 1,024, D = 8, float32" in summary
    assert "| clip_loss | 1 ms, 4 MB | 80% | x 3.1, memory x 3.0 | x 1.2 | open_clip ClipLoss: x 2.0 |" in summary
    assert "| loss | N = 64 | N = 1,024 | N = 4,096 |\n| --- | --- | --- | --- |\n" in summary
    assert "| clip_loss | x 2.0 | x 3.1, memory x 3.0 | x 30, memory x 32 |" in summary
    small = replace(sample[0], loss="other_loss", n=128)
    assert "| other_loss, N = 128, D = 8, float32 | 1 ms, 0.1 MB | 80% |  |  |  |" in report.page([*sample, small])[0]
    lost = [replace(x, ms=0.9 * x.ms, peak_bytes=10**6) if x.candidate == "dense" and x.ms else x for x in sample]
    lost = [replace(x, ms=0.5) if (x.candidate, x.n) == ("dense", 1024) and x.ms else x for x in lost]
    assert "| **x 0.5**, memory **x 0.2** |" in report.page(lost)[0]


def test_the_summary_comes_first_then_plots_then_what_is_lost(report, sample):
    heads = re.findall("^## (.*)", report.page(sample)[0], re.MULTILINE)
    assert [x.partition(":")[0] for x in heads] == [
        "Summary", "Plots", "Where we lose", "How it was measured", "All figures",
    ]  # fmt: skip


def test_every_case_that_is_lost_is_named_and_no_other(report, sample):
    rows = lost_rows(report.page(sample)[0])
    assert [(x[1], x[5], x[6]) for x in rows] == [
        ("64", "open_clip ClipLoss", "contrastile cpu"),
        ("1,024", "open_clip ClipLoss", "drop-in for open_clip ClipLoss"),
        ("4,096", "open_clip ClipLoss", "contrastile cpu"),
    ]
    assert [x[7] for x in rows] == ["**0.50**", "**0.80**", "2.00"] and rows[2][8] == "**0.50**"
    assert "Of 8 comparisons, these 3" in report.page(sample)[0]


def test_the_time_of_the_host_is_beside_its_goal(report, sample):
    """The last line of a problem counts; without lines there is no section."""
    kept = {"loss": "clip", "n": 64, "d": 32, "dtype": "float32", "goal": 1.0, "device": "CPU X", "eager": 200}
    lines = [
        kept | {"backend": backend, "ours": ours, "ratio": ours / 200}
        for backend, ours in (("triton", 300), ("triton", 180), ("cuda", 220))
    ]
    text = report.page(sample, hosts=lines)[0]
    assert "| clip | 64 | 32 | float32 | 0.90 (180 over 200) | **1.10** (220 over 200) | 1.0 | CPU X |" in text
    assert "time of the host" not in report.page(sample)[0]


def test_what_no_time_was_left_for_is_named_and_in_no_table(report, sample):
    text = report.page(sample)[0]
    assert "- N = 1,024, D = 16, float32, forward+backward: dense of clip_loss\n" in text
    assert "D = 16: time" not in text and "What was not measured" not in report.page(sample[:-1])[0]


def test_times_beside_a_neighbour_have_a_section_where_they_were_measured(report, sample, tmp_path):
    append = importlib.import_module("lines").append
    assert "neighbour" not in report.page(sample)[0]
    for candidate, busy, over in (("ours", 300.0, 2.0), ("ours", 180.0, 1.2), ("plain torch", 150.0, 1.0)):
        found = {"quiet": 100.0, "busy": busy, "slowdown": busy / 100, "over_plain": over}
        problem = {"loss": "clip", "candidate": candidate, "n": 1024, "d": 512, "dtype": "float32"}
        append(tmp_path / "x.jsonl", "busy", **problem, **found)
    text = report.page(sample, report.lines_of(tmp_path, "busy"))[0]
    section = text.partition("## Beside a busy neighbour")[2].partition("\n## ")[0]
    rows = [x.split(" | ")[4:] for x in section.splitlines() if "float32" in x]
    assert rows == [
        ["ours", "100 ms", "180 ms", "x 1.80", "**1.20** |"],
        ["plain torch", "100 ms", "150 ms", "x 1.50", " |"],
    ]


def test_equal_results_give_equal_files(report, sample, tmp_path):
    results = write(tmp_path, sample)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        report.write(results, tmp_path / folder)
    files = [sorted(x.relative_to(tmp_path / y) for x in (tmp_path / y).rglob("*.*")) for y in "ab"]
    assert files[0] == files[1] and len(files[0]) == 2
    assert all((tmp_path / "a" / x).read_bytes() == (tmp_path / "b" / x).read_bytes() for x in files[0])


def test_tables_have_every_size_growth_and_what_was_not_measured(report, sample):
    text = report.page(sample)[0]
    assert "|  | N = 64 | N = 1,024 | N = 4,096 | growth |" in text
    assert "| contrastile cpu | 1 ms, 0.1 MB | 1 ms, 4 MB | 16 ms, 16 MB | time N^0." in text
    assert "| torch.compile |  | skipped |  |  |" in text
    assert "- torch.compile, N = 1,024: skipped, would / 9 GB" in text.replace("would | 9", "would / 9")
    assert "|  | N = 1,024 |\n" in text  # one size does not grow


def test_a_plot_has_few_lines_and_letters_that_a_narrow_page_can_show(report, sample, tmp_path):
    slow = [replace(x, candidate=f"other {i}", ms=99.0) for i in range(3) for x in sample if x.package == "open_clip"]
    ((name, records),) = report.page([*sample, *slow])[1].items()
    assert {x.candidate for x in records} >= {"contrastile cpu", "dense", "open_clip ClipLoss"}
    assert len({x.candidate for x in records}) == 4
    plots.save({"clip_loss": records}, tmp_path / name)
    svg = (tmp_path / name).read_text()
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    letters = [float(x) for x in re.findall(r"font-size: ([\d.]+)px", svg)]
    assert len(letters) > 10 and min(letters) * 370 / width >= 11  # pixels, on a page that is 400 wide
    assert min(letters) * 4 / 3 >= 15  # on a wide one


def test_a_file_of_another_format_is_left_out_and_named(report, sample, tmp_path, capsys):
    results = write(tmp_path, sample)
    (results / "old.jsonl").write_text('{"benchmark": "x", "value": 1}\n')
    assert len(report.collected(results)) == len(sample)
    assert "old.jsonl is left out" in capsys.readouterr().err


def test_a_package_has_one_colour_of_its_own():
    named = [color for package, (color, _) in plots.STYLES.items()]
    assert len(named) == len(set(named))
    for color in named:  # neither too dark for a dark page nor too light for a light one
        light = sum(int(color[i : i + 2], 16) * weight for i, weight in ((1, 0.30), (3, 0.59), (5, 0.11)))
        assert 70 < light < 185, color


def test_every_package_of_the_benchmarks_has_a_colour(report):
    packages = importlib.import_module("packages")
    found = {peer.package for peers in packages.PEERS.values() for peer in peers.values()}
    assert found <= plots.STYLES.keys()
