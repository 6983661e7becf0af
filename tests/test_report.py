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
from contrastile.benchmark.problem import Problem

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

    slower = made(blank, "drop-in for open_clip ClipLoss", "contrastile", 1024, 2.5, 4.0)
    skipped = made(blank, "dense", "dense torch", 1024, None, 0.0, outcome="skipped", why="would take | 9 GB")
    return [
        *both(64, (1.0, 0.1), (0.5, 0.2)),  # they are faster
        *both(1024, (1.0, 4.0), (2.0, 3.5)),  # half a megabyte is noise
        *both(4096, (16.0, 16.0), (32.0, 8.0)),  # they are smaller
        slower,
        skipped,
    ]


def write(path: Path, records: list[record.Record]) -> Path:
    record.append(path / "results/x.jsonl", records)
    return path / "results"


def lost_rows(text: str) -> list[list[str]]:
    section = text.partition("## Where we lose")[2].partition("\n## ")[0]
    return [re.split(r" \| ", x.strip("| ")) for x in section.splitlines() if x.startswith("| clip")]


def test_the_committed_page_is_what_the_committed_results_give(report):
    text, figures = report.page(report.collected(report.RESULTS))
    assert PAGE.read_text() == text
    assert {x.name for x in PAGE.parent.glob("benchmarks/*.svg")} == set(figures)
    assert all(f"benchmarks/{name})" in text for name in figures)


def test_every_case_that_is_lost_is_named_and_no_other(report, sample):
    rows = lost_rows(report.page(sample)[0])
    assert [(x[1], x[4], x[5]) for x in rows] == [
        ("64", "open_clip ClipLoss", "contrastile cpu"),
        ("1,024", "open_clip ClipLoss", "drop-in for open_clip ClipLoss"),
        ("4,096", "open_clip ClipLoss", "contrastile cpu"),
    ]
    assert [x[6] for x in rows] == ["**0.50**", "**0.80**", "2.00"] and rows[2][7] == "**0.50**"
    assert "Of 4 comparisons, these 3" in report.page(sample)[0]


def test_the_summary_is_of_the_largest_size_with_plain_torch(report, sample, blank):
    dense = [made(blank, "dense", "dense torch", n, 3.0, mb) for n, mb in ((64, 0.1), (4096, 40.0))]
    section = report.page([*sample, *dense])[0].partition("## Summary")[2].partition("\n## ")[0]
    (row,) = [x for x in section.splitlines() if x.startswith("| clip")]
    assert row == "| clip_loss | 4,096 | float32 | 16 ms, 16 MB | 0.19× | 2.5× | plain torch: 0.19× |"
    assert "## Summary" in report.page(sample)[0] and "0.19" not in report.page(sample)[0]


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
    assert "| dense |  | skipped |  |  |" in text and "- dense, N = 1,024: skipped, would take" in text
    tables = [x for x in text.splitlines() if x.startswith("|")]
    assert len(tables) > 10 and all(x.count("|") >= 5 for x in tables)


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
