"""The commands of ``python -m contrastile``, as a user runs them: in a process of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import contrastile
from contrastile.backends import native
from contrastile.cli import advice, choice, demo_data, demo_train, demo_views, info, main, memory_probe, selftest
from contrastile.cli.table import format_table
from support.combinations import by_default

_SECTIONS = ("versions", "cpu", "cuda", "backends", "native modules")

# tiny problems on several threads take ten times as long where another job uses the cores
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(contrastile.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, **environment}
    command = [sys.executable, "-m", "contrastile", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_info_prints_every_section_aligned():
    done = _run("info")
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"^{section}$", done.stdout, re.MULTILINE) for section in _SECTIONS)
    values = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    starts = {match.start(1) for line in values if (match := re.match(r"  \S.*?\s{2,}(\S)", line))}
    assert len(starts) == 1


def test_info_json_agrees_with_the_process():
    done = _run("info", "--json", CONTRASTILE_EXAMPLE="1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["contrastile"] == contrastile.__version__
    assert report["backends"]["torch"] == "available"
    assert report["environment"]["CONTRASTILE_EXAMPLE"] == "1"
    assert report["cpu"]["threads"] >= 1


def test_info_says_what_auto_takes_and_why(capsys):
    assert main(["info", "--n", "64", "--m", "3000", "--dtype", "fp64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["auto"]
    assert found.keys() == {"64 x 3,000 float64 on cpu"}
    (text,) = found.values()
    assert re.match(r"torch: the first of cpu, torch, .* that can run \(cpu: it computes in float32", text)


def test_auto_on_a_gpu_is_what_was_measured(monkeypatch):
    """For so many pairs, where it can run; a device of the name meta stands for the GPU."""
    device = torch.device("cuda")
    monkeypatch.setattr(choice.measured, "fastest_backend", lambda *_: "torch")
    assert choice.auto(device, torch.float32, 100) == (
        "torch", "the fastest for so many pairs on this GPU, as `contrastile tune` measured"
    )  # fmt: skip


@pytest.mark.parametrize(
    "path, cuda, error, expected",
    [
        ("", None, "No module named 'x'", {"cpu": "install a C..17 compiler .Debian.*: pip install -v"}),
        (
            "g++ nvcc", "13.0", "No module named 'x'",
            {"cpu": "it was left out.*/g.. is here.* CONTRASTILE_CPU=1 pip", "cuda": "build it: CONTRASTILE_CUDA=1"},
        ),
        ("", "13.0", "No module named 'x'", {"cpu": "install a C", "cuda": "install the CUDA toolkit .* build it"}),
        ("g++", "13.0", "libgomp.so.1: cannot open", dict.fromkeys(["cpu", "cuda"], ".*apt install libgomp1")),
        ("g++", None, "undefined symbol: x", {"cpu": "it was built for another Python"}),
    ],
)  # fmt: skip
def test_info_says_what_to_do_about_what_is_missing(path, cuda, error, expected, tmp_path, monkeypatch):
    for name in path.split():
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(
        advice, "available_backends", lambda: {"cpu": "no", "torch": None, "triton": "no", "cuda": "no"}
    )
    for name in ("_cpu", "_cuda"):
        monkeypatch.setattr(native, name[1:], None)
        monkeypatch.setitem(native.import_errors, name, error)
    found = advice.advice()
    assert found.keys() == expected.keys()
    assert all(re.match(pattern, found[name]) for name, pattern in expected.items()), found


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    assert re.search(r"^  COMMAND$.*^    selftest ", capsys.readouterr().out, re.MULTILINE | re.DOTALL)


def test_info_warns_of_two_openmp_runtimes():
    report = info.collect()
    report["cpu"]["OpenMP runtimes"] = ["/a/libgomp.so.1"]
    assert info._warnings(report) == []
    report["cpu"]["OpenMP runtimes"] = ["/a/libgomp.so.1", "/b/libiomp5.so"]
    assert "2 OpenMP runtimes" in info._warnings(report)[0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "name, found",
    [
        ("libgomp.so.1", True),
        ("libgomp-a49a47f9.so.1.0.0", True),
        ("libiomp5.so", True),
        ("libomp.so", True),
        ("libcomposite.so", False),
        ("libc.so.6", False),
    ],
)
def test_openmp_runtimes_are_told_by_name(name, found):
    assert bool(info._OPENMP.search(f"/usr/lib/{name}")) == found


@pytest.mark.parametrize("package", by_default(("sklearn", "matplotlib", "rich"), "rich"))
def test_demo_without_an_optional_package_says_how_to_install_it(package, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise ImportError('no {package} here')")
    source = str(Path(contrastile.__file__).parents[1])
    done = _run("demo", "--quick", PYTHONPATH=os.pathsep.join([str(tmp_path), source]))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"no {package} here" in done.stderr
    assert "pip install contrastile[demo]" in done.stderr


@pytest.fixture(scope="module")
def quick_demo(tmp_path_factory):
    for package in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return _run("demo", "--quick", "--out", str(folder), **_ONE_THREAD), folder


@pytest.mark.slow
def test_quick_demo_beats_chance_with_every_loss(quick_demo):
    done, _ = quick_demo
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\S.*?)\s+([\d.]+)%\s+([\d.]+)%\s+(\d+)x", done.stdout, re.MULTILINE)
    trained = {name: (float(before), float(after)) for name, before, after, _ in rows}
    names = {"clip_loss", "siglip_loss", "info_nce", "nt_xent", "dcl", "sup_con"}
    assert names <= trained.keys()
    assert "alignment + uniformity" in trained
    chance = float(re.search(r"chance ([\d.]+)%", done.stdout)[1])
    assert all(before < 3 * chance for before, _ in trained.values())
    assert all(after > 5 * chance for _, after in trained.values())


@pytest.mark.slow
def test_quick_demo_finds_the_third_view_with_every_loss(quick_demo):
    """The table of three views: every loss far above chance for every missing view, none before training."""
    printed = quick_demo[0].stdout.partition("three views:")[2]
    share = r"\s+([\d.]+)%"
    rows = re.findall(rf"^(\S.*?){share * 5}\s+[\d.]+$", printed, re.MULTILINE)
    recall = {name: list(map(float, numbers)) for name, *numbers in rows}
    assert recall.keys() == {"gram_loss", "symile_loss", "mv_dhel", "clip_loss, pairwise"}
    chance = float(re.search(r"chance ([\d.]+)%", printed)[1])
    for before, after, *views in recall.values():
        assert before < 5 * chance
        assert min(views) > 10 * chance
        assert after == pytest.approx(sum(views) / 3, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["losses.png", "memory.png", "views.png"])
def test_quick_demo_draws_figures(quick_demo, name):
    done, folder = quick_demo
    assert str(folder / name) in done.stdout
    from matplotlib.image import imread

    pixels = imread(folder / name)[..., :3]
    assert min(pixels.shape[:2]) > 400
    ink = (pixels < 0.9).any(axis=-1)
    assert 0.005 < ink.mean() < 0.5
    # the curves: pixels with a clear hue
    assert np.count_nonzero(np.ptp(pixels, axis=-1) > 0.3) > 500


@pytest.fixture
def tiny_demo(monkeypatch, tmp_path):
    """Runs the demo in this process with losses that learn nothing and the given probe."""
    for package in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(package)
    blind = {"zero": demo_train.Objective(lambda x, y, *_: 0 * (x.sum() + y.sum()))}
    monkeypatch.setattr(demo_train, "make_objectives", lambda: blind)
    nothing = demo_views.TripleObjective(lambda x, _: 0 * sum(x).sum(), lambda x, y, z: 0 * x @ z.T)
    monkeypatch.setattr(demo_views, "make_objectives", lambda seed: {"no view": nothing})

    def run(measure):
        monkeypatch.setattr(memory_probe, "measure", measure)
        return main(["demo", "--quick", "--epochs", "1", "--out", str(tmp_path)])

    return run


def test_demo_fails_when_training_learns_nothing(tiny_demo, capsys):
    assert tiny_demo(lambda implementation, rows: rows) == 1
    printed = capsys.readouterr().out
    assert "FAILED: not above 5x chance: zero" in printed
    assert "FAILED: not above 5x chance: no view" in printed


def test_demo_says_what_memory_could_not_be_measured(tiny_demo, tmp_path, capsys):
    def refuse(implementation, rows):
        raise memory_probe.ProbeError("killed")

    tiny_demo(refuse)
    assert "memory of dense at N = 1024 not measured: killed" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"losses.png", "views.png"}


def test_the_missing_view_is_found_by_the_score_given():
    scans = demo_data.Scans(torch.rand(40, 8, 8), torch.zeros(40, dtype=torch.int64))
    encoders = demo_train.Encoders(demo_data.make_views(scans.images))
    right = demo_views.missing_view_recall(encoders, lambda x, y, z: torch.eye(len(z)), scans)
    wrong = demo_views.missing_view_recall(encoders, lambda x, y, z: torch.eye(len(z)).roll(1, 1), scans)
    assert right == dict.fromkeys(demo_views.VIEWS, 1.0)
    assert wrong == dict.fromkeys(demo_views.VIEWS, 0.0)


def test_every_three_view_score_is_best_for_the_view_it_looks_for():
    """In the span of the two given, at their sum, or along their product."""
    x, y = torch.nn.functional.normalize(torch.randn(2, 12, 64), dim=2)
    for name, objective in demo_views.make_objectives(0).items():
        best = torch.nn.functional.normalize(x * y if name == "symile_loss" else x + y, dim=1)
        assert torch.equal(objective.score(x, y, best).argmax(1), torch.arange(12)), name
        assert not torch.equal(objective.score(x, y, best.roll(1, 0)).argmax(1), torch.arange(12)), name


def test_views_of_a_scan_are_what_they_are_called():
    images = torch.arange(2 * 64.0).view(2, 8, 8)
    views = demo_data.make_views(images)
    assert torch.equal(views["left half"].view(2, 8, 4), images[:, :, :4])
    assert torch.equal(views["right half"].view(2, 8, 4), images[:, :, 4:])
    assert torch.equal(views["crop"].view(2, 6, 6), images[:, 1:7, 1:7])


def test_random_crops_are_windows_of_their_own_scan():
    images = torch.rand(50, 8, 8)
    crops = demo_data.make_views(images, torch.Generator().manual_seed(0))["crop"].view(50, 6, 6)
    windows = images.unfold(1, 6, 1).unfold(2, 6, 1)  # (50, 3, 3, 6, 6)
    matches = (windows == crops[:, None, None]).all(-1).all(-1)
    assert (matches.flatten(1).sum(1) == 1).all()
    assert matches.any(0).all()  # every position occurs


def test_stroke_directions_tell_horizontal_from_vertical():
    image = torch.zeros(1, 8, 8)
    image[:, 3:5] = 1  # a horizontal bar
    across, down = (demo_data.make_views(x)["strokes"] for x in (image, image.transpose(1, 2)))
    cos_across, cos_down = across.view(2, 8, 8)[0], down.view(2, 8, 8)[0]
    assert cos_across.sum() < 0 < cos_down.sum()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory figures")
def test_memory_probe_sees_the_dense_matrix():
    rows = 2048
    matrix = 4 * rows * rows
    assert 2 * matrix < memory_probe.measure("dense", rows) < 12 * matrix


def test_quick_selftest_passes_for_the_losses_it_knows(monkeypatch, capsys):
    names = ("info_nce", "siglip_loss", "uniformity")
    monkeypatch.setattr(selftest, "CATALOG", [card for card in selftest.CATALOG if card.name in names])
    assert main(["selftest", "--quick", "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^torch\s+float64\s+3\s+3\s+\S+\s+\w+$", printed, re.MULTILINE)
    assert all(re.search(rf"^{x}\s+torch\s+float64\s+\S+\s+ok$", printed, re.MULTILINE) for x in names)


@pytest.mark.slow  # make wheel-check runs all of it
def test_quick_selftest_passes():
    done = _run("selftest", "--quick", **_ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr


def test_selftest_reports_failures_and_errors(monkeypatch, capsys):
    def broken(card, backend, dtype, n, d):
        if card.name == "clip_loss":
            raise RuntimeError("broken on purpose")
        return selftest.CheckResult(worst=0.5, ok=card.name != "dcl", detail="wrong on purpose")

    monkeypatch.setattr(selftest, "check_card", broken)
    assert main(["selftest", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^FAIL clip_loss, torch, float32: .*broken on purpose", printed, re.MULTILINE)
    assert "FAIL dcl, torch, float32: 1 x 7: wrong on purpose" in printed
    assert not re.search(r"^(FAIL )?info_nce", printed, re.MULTILINE)


def test_table_aligns_text_left_and_figures_right():
    table = format_table(["loss", "n"], [["clip", "1"], ["dcl", "100"]], "<>")
    assert table.splitlines() == ["loss    n", "----  ---", "clip    1", "dcl   100"]


def test_unknown_command_is_refused():
    done = _run("no-such-command")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
