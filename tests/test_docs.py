"""README and docs say what the package does: their code runs, what they name exists, nothing public is left out."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import types
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import contrastile
from contrastile.catalog import CATALOG
from contrastile.cli import _COMMANDS
from support.combinations import by_default
from support.lightly_modules import lightly_importable
from support.pages import DOCS, DROPINS, INDEX, PAGES, README, ROOT, blocks
from support.scripts import load_script

# packages that a page's code imports
NEEDED = {
    f"docs/dropins/{name}.md": name for name in ("pytorch_metric_learning", "sentence_transformers", "transformers")
}
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_every_python_block_runs_in_order(page, capsys):
    """The blocks of a page share one namespace; capsys: what they print is the page's business."""
    if page in NEEDED and find_spec(NEEDED[page]) is None:
        pytest.skip(f"{NEEDED[page]} is missing")
    scope: dict[str, object] = {}
    with lightly_importable() if page.endswith("lightly.md") else nullcontext():
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec"), scope)


def test_the_notebook_prints_what_it_shows(capsys):
    """Its cells in order, in one namespace."""
    scope: dict[str, object] = {}
    for cell in json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), scope)
            assert capsys.readouterr().out == "".join(line for x in cell["outputs"] for line in x["text"])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")])
def test_blocks_that_are_not_run_are_python_all_the_same(page):
    """A program of another package, or a script with a data set: marked py instead of python."""
    for block in blocks(page, "py"):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_languages_of_blocks_are_known(page):
    """Another name for Python would escape the tests above."""
    fences = re.findall(r"^```(\w*)$", PAGES[page], re.MULTILINE)
    assert set(fences[::2]) <= {"python", "py", "sh"}, fences


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    code = "\n".join([*blocks(page, "sh"), *re.findall(r"`([^`\n]+)`", PAGES[page])])
    targets = [name for names in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", code) for name in names.split()]
    assert all(re.search(rf"^{name}:", MAKEFILE, re.MULTILINE) for name in targets), targets
    assert set(re.findall(r"python -m contrastile (\w+)", code)) <= set(_COMMANDS)
    for path in re.findall(r"\b(?:tests|bench)/[\w/]+\.\w+", code):
        assert (ROOT / path).exists(), path


def test_every_public_name_is_documented_once():
    shown = [name for text in PAGES.values() for name in re.findall(r"^::: contrastile\.([\w.]+)$", text, re.MULTILINE)]
    public = {name for name in contrastile.__all__ if not inspect.ismodule(getattr(contrastile, name))}
    public |= {f"metrics.{name}" for name in contrastile.metrics.__all__}
    public |= {f"retrieval.{name}" for name in contrastile.retrieval.__all__}
    assert sorted(shown) == sorted(public | {f"distributed.{name}" for name in contrastile.distributed.__all__})


def test_the_costs_of_many_ranks_are_those_of_the_model():
    done = subprocess.run([sys.executable, DOCS / "tools/ranks_model.py"], capture_output=True, text=True, check=True)
    assert done.stdout in PAGES["docs/distributed.md"]


TABLE = PAGES["docs/losses/all.md"]


def test_the_table_of_all_losses_is_the_catalog():
    """Every card has its row, and there is no other."""
    link = re.compile(r"\[(arXiv ([\d.]+))\]\(https://arxiv\.org/abs/\2\)")
    found = [link.sub(r"\1", row) for row in re.findall(r"^\| `\w+` \| `\w+` \|.*$", TABLE, re.MULTILINE)]
    assert found == [
        f"| `{card.name}` | `{card.module.__name__}` | {card.task} | {card.paper}, {card.equation} | {card.cost} |"
        for card in CATALOG
    ]


hardware = load_script("bench/hardware.py")


@pytest.mark.parametrize("backend", hardware.BACKENDS)
def test_readme_names_the_hardware_of_the_results(backend):
    """Before anything else that it says of the backend there."""
    (row,) = re.findall(rf"^\| `{backend}` \|.*\| ([^|]+) \|$", README, re.MULTILINE)
    assert re.match(re.escape(hardware.cell(backend)) + r"($|: | \()", row), hardware.cell(backend)


def test_results_on_a_gpu_show_in_that_column(tmp_path):
    def said(*records):
        (tmp_path / "h200").mkdir(exist_ok=True)
        (tmp_path / "h200/right.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
        return hardware.cell("triton", tmp_path), hardware.cell("torch", tmp_path)

    one = {"backend": "triton", "device": "H200", "outcome": "ok"}
    cpu = {"backend": "torch", "device": "EPYC", "outcome": "ok", "threads": 2}
    assert said({"item": "stage", "outcome": "ok"}, cpu) == (hardware.NEVER, "EPYC; no GPU")
    assert said(one, cpu | {"device": "H200", "threads": None}) == ("H200", "H200")
    assert said(one, one | {"outcome": "wrong"})[0] == "H200, not all of it right"
    assert said(one | {"outcome": "skipped"})[0] == hardware.NEVER


@pytest.mark.parametrize("card", CATALOG, ids=lambda card: card.name)
def test_a_page_of_its_family_has_source_and_figure(card):
    (text,) = [text for page, text in PAGES.items() if f"::: contrastile.{card.name}\n" in text]
    assert card.paper in text
    assert re.search(r"!\[[^]]+\]\(\.\./figures/[\w-]+\.svg\)", text)


@pytest.mark.parametrize("page", DROPINS)
def test_the_index_of_dropins_has_every_page_and_its_module(page):
    assert f"]({page}.md)" in INDEX
    assert f"contrastile.compat.{page}" in INDEX
    assert find_spec(f"contrastile.compat.{page}") is not None


def test_links_of_readme_lead_somewhere():
    """They are absolute, so that they also work on PyPI. mkdocs checks those of the pages."""
    places = re.compile(
        r"https://(?:github|raw\.githubusercontent)\.com/contrastile/contrastile/(?:blob/)?main/([^#]+)"
    )
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://"), target
        if found := places.match(target):
            assert (ROOT / found[1]).exists(), target


def test_readme_can_be_read_in_four_minutes():
    assert len(README.split()) < 900


@pytest.fixture
def tools(monkeypatch):
    for folder in ("figures", "tools"):
        monkeypatch.syspath_prepend(DOCS / folder)


def test_pictures_of_pairs_show_what_a_loss_does(tools):
    """Rows a1 a2 b1 b2: NT-Xent compares all but itself; a duplicate's pairs with ids are left alone."""
    pytest.importorskip("matplotlib")
    pairs = importlib.import_module("pairs")
    x = pairs.items(2, 2)
    found = pairs.pair_gradients(lambda r: contrastile.reference.nt_xent(r[:2], r[2:], temperature=0.5), x)
    signs = torch.where(found.abs() < pairs.NOTHING, 0.0, found.sign())
    assert signs.tolist() == [[0, 1, -1, 1], [1, 0, 1, -1], [-1, 1, 0, 1], [1, -1, 1, 0]]
    ids = torch.tensor([5, 5])
    found = pairs.pair_gradients(lambda r: contrastile.reference.info_nce(r[:2], r[2:], query_ids=ids), x)
    assert (found.abs() < pairs.NOTHING).all()


def test_docstrings_keep_every_word_as_markdown(tools):
    """Nothing is lost to Markdown: <a, b> is no tag, * and _ are no emphasis."""
    pytest.importorskip("griffe", reason="comes with make docs")
    pages = importlib.import_module("docstrings")
    marks = re.compile(r"\*\*|`|^ *- (?=`)", re.MULTILINE)
    for name in contrastile.__all__:
        text = inspect.cleandoc(getattr(contrastile, name).__doc__)
        shown = re.sub(r"\\([*_$])", r"\1", pages.markdown(text)).replace("&lt;", "<")
        shown = re.sub(r"\[arXiv [\d.]+\]\((.*?)\)", r"\1", shown).replace("```pycon", "")
        assert marks.sub("", shown).split() == marks.sub("", text).split(), name


def test_formulas_of_the_site_are_as_they_were_written(tools):
    """Sums have their limits below, functions have room, and parts may stand below each other; all of it has glyphs."""
    pytest.importorskip("latex2mathml", reason="comes with make docs")
    pytest.importorskip("mkdocs", reason="comes with make docs")
    hooks = importlib.import_module("hooks")
    formula = r"L = s \cos x + \left( \log \sum_j e^{z_j} \right), \qquad z_j = \langle a, b_j \rangle"
    shown = hooks.mathml("div", formula, page=None)
    assert shown.count("<math") == 2 and "<munder><mo>∑</mo><mi>j</mi></munder>" in shown
    assert re.search(r"<mi>s</mi><mspace [^>]*/><mi>cos</mi><mspace [^>]*/><mi>x</mi>", shown)
    assert hooks.mathml("span", "z_j", page=None).count("<math") == 1
    with pytest.raises(Exception, match=r"math_font.py does not know \{'☃'\}"):
        hooks.mathml("span", "☃", page=types.SimpleNamespace(file=types.SimpleNamespace(src_uri="x.md")))


@pytest.mark.parametrize("drawn", by_default(("some", "all"), "some"))
def test_figures_are_those_the_pages_show_and_can_be_drawn(drawn, tmp_path):
    pytest.importorskip("matplotlib")
    program = """
import draw, pathlib, sys
print(*draw.FIGURES)
for name in list(draw.FIGURES)[:: 8 if sys.argv[2] == "some" else 1]:
    draw.draw(name, pathlib.Path(sys.argv[1]))
"""
    paths = f"{DOCS / 'figures'}{os.pathsep}{Path(contrastile.__file__).parents[1]}"
    environment = os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "svg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, tmp_path, drawn]
    done = subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True, text=True)
    figures = {f"{name}.svg" for name in done.stdout.split()}
    shown = {name for text in PAGES.values() for name in re.findall(r"figures/([\w-]+\.svg)", text)}
    found = {path.name for path in tmp_path.iterdir()}
    assert found == figures if drawn == "all" else found < figures
    examples = {name for name in shown if name.startswith("example_")}  # drawn by examples/*.py --plot
    assert figures | examples == {path.name for path in DOCS.glob("figures/*.svg")} == shown
