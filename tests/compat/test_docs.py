"""docs/dropins says what the drop-ins do: every page's code runs, and the index has every page and every drop-in."""

import re
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

from .lightly_modules import lightly_importable

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "dropins").glob("*.md"))}
INDEX = PAGES.pop("README")
NEEDED = {name: name for name in ("pytorch_metric_learning", "sentence_transformers", "transformers")}
FENCES = r"```(\w*)\n(.*?)```"


def blocks(page, language):
    return [code for kind, code in re.findall(FENCES, PAGES[page], re.DOTALL) if kind == language]


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs_in_order(page):
    if page in NEEDED and find_spec(NEEDED[page]) is None:
        pytest.skip(f"{NEEDED[page]} is missing")
    code, scope = blocks(page, "python"), {}
    assert code
    with lightly_importable() if page == "lightly" else nullcontext():
        for block in code:
            exec(block, scope)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_that_are_not_run_are_python_all_the_same(page):
    """A program of another package, or a script with a data set: marked py instead of python."""
    for block in blocks(page, "py"):
        compile(block, page, "exec")


def test_the_index_has_a_row_for_every_page():
    linked = re.findall(r"\]\((\w+)\.md\)", INDEX)
    assert sorted(linked) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_index_names_the_module_of_every_page(page):
    assert f"contrastile.compat.{page}" in INDEX
    assert find_spec(f"contrastile.compat.{page}") is not None
