"""Every example runs as a user runs it, ends in a metric beyond its margins, and fails when nothing is learnt."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import contrastile
from support.combinations import by_default

FOLDER = Path(__file__).parents[1] / "examples"
NEEDS = {
    "text_retrieval": ("wordllama", "tokenizers", "safetensors"),
    "gram_three_modalities": ("matplotlib",),
    "simclr_digits": ("sklearn",),
    "open_clip_loop": ("sklearn",),
    "clip_torchrun": ("sklearn",),
    "mined_negatives": ("matplotlib",),
    "momentum_distillation": ("sklearn",),
    "small_batches": ("sklearn",),
}
COMPARED = re.compile(r"^  .*better by +(-?[\d.]+) points, margin (\d+): (reached|MISSED)$", re.MULTILINE)


def script(name):
    for package in NEEDS[name]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is missing: make examples installs it")
    return FOLDER / f"{name}.py"


def run(name, *arguments, launcher=()):
    source = str(Path(contrastile.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script(name)), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_every_example_is_run_here_and_listed_in_the_readme():
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"common"}
    assert scripts == NEEDS.keys()
    readme = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| \[\w+\]\((\w+)\.py\)", readme, re.MULTILINE)) == scripts


RUNS = [*((name, ()) for name in NEEDS), ("simclr_digits", ("--loss", "sup_con"))]


@pytest.mark.slow  # make examples runs all of them
@pytest.mark.parametrize("example", RUNS, ids=lambda x: " ".join((x[0], *x[1])))
def test_example_beats_its_rivals_by_the_stated_margins(example):
    name, flags = example
    done = run(name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    compared = COMPARED.findall(done.stdout)
    assert compared
    assert all(float(gain) >= float(margin) and word == "reached" for gain, margin, word in compared)
    assert done.stdout.endswith("PASSED\n")


@pytest.mark.dist
@pytest.mark.slow  # by default two ranks run the examples of the page on distributed training
@pytest.mark.parametrize("steps, reached", [(1, 0), (300, 2)])
def test_torchrun_trains_on_the_batch_of_two_processes(steps, reached):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run("clip_torchrun", "--steps", steps, launcher=launcher)
    assert done.returncode == (not reached), done.stdout + done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("reached") == reached


@pytest.mark.parametrize("name", by_default(NEEDS, "open_clip_loop"))
def test_without_training_the_example_fails(name):
    done = run(name, "--steps", 0)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(float(gain) < float(margin) for gain, margin, word in COMPARED.findall(done.stdout) if word == "MISSED")
    assert done.stdout.endswith("FAILED\n")


@pytest.mark.slow
def test_the_plot_shows_the_loss_and_every_rival(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("simclr_digits", "--steps", 2, "--batch-size", 16, "--plot", tmp_path / "simclr.svg")
    assert "FAILED" in done.stdout, done.stderr
    drawn = (tmp_path / "simclr.svg").read_text()
    for text in ("loss", "trained", "chance", "the untrained network", "the pixels themselves"):
        assert text in drawn, text


@pytest.fixture
def loop(monkeypatch):
    """open_clip_loop as a module of this process."""
    path = script("open_clip_loop")
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("open_clip_loop", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("common", None)


@pytest.mark.slow
@pytest.mark.peers
def test_the_loop_trains_a_model_of_open_clip(loop, monkeypatch):
    from support.open_clip_training import open_clip_modules

    monkeypatch.setitem(sys.modules, "open_clip", open_clip_modules().open_clip)
    assert loop.main(["--open-clip"]) == 0


def test_accumulated_gradients_are_those_of_one_large_batch(loop):
    import torch

    model = loop.TwoTower().double()
    images = torch.rand(24, 3, 8, 8, dtype=torch.float64)
    texts = loop.tokenize([loop.TEMPLATES[i % 4].format(loop.NAMES[i % 10]) for i in range(24)])
    gradients = []
    for size in (24, 8):
        model.zero_grad()
        loop.backward_of_one_step(model, loop.ClipLoss(), list(zip(images.split(size), texts.split(size), strict=True)))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    whole, parts = gradients
    assert torch.allclose(parts.pop("logit_scale"), 3 * whole.pop("logit_scale"), rtol=1e-9)
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-9, atol=1e-12), name
