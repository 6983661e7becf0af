"""README says what the package does: its code runs, its table is the catalog."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contrastile.catalog import CATALOG

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_python_block_runs_in_order():
    scope: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, scope)
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("card", CATALOG, ids=lambda card: card.name)
def test_the_loss_table_has_the_row_of_the_catalog(card):
    cost = " ".join(filter(None, (str(card.gemm), card.times, "N²D"))) if card.gemm else "no pairs"
    row = f"| `{card.name}` | `{card.module.__name__}` | {card.task} | {card.paper}, {card.equation} | {cost} |"
    assert row in README


def test_the_loss_table_has_no_other_row():
    rows = re.findall(r"^\| `(\w+)` \| `\w+` \|", README, re.MULTILINE)
    assert rows == [card.name for card in CATALOG]


def test_make_targets_named_in_readme_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)\b", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
