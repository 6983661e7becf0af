"""The table of the papers: complete, its tests exist and run its own code, and docs/papers.md is written from it."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from support.pages import PAGES, README, ROOT
from support.papers import OFFERS, PAPERS, check, clip, number, rows, run
from support.scripts import load_script

HERE = Path(__file__).parent


def keys_run() -> dict[str, set[str]]:
    """What each test of this folder runs: the first arguments of its calls of check."""
    found = defaultdict(set)
    for path in sorted(HERE.glob("test_*.py")):
        for test in ast.parse(path.read_text()).body:
            if path != Path(__file__) and isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                calls = [x for x in ast.walk(test) if isinstance(x, ast.Call) and getattr(x.func, "id", "") == "check"]
                name = f"{path.relative_to(ROOT)}::{test.name}"
                found[name] |= {x.args[0].value for x in calls if isinstance(x.args[0], ast.Constant)}
    return dict(found)


RUN = keys_run()


def test_all_73_papers_are_there_in_order():
    assert [x.key for x in PAPERS[:73]] == [str(i) for i in range(1, 74)]
    assert not any(x.key.isdigit() for x in PAPERS[73:])
    assert len({x.key for x in PAPERS}) == len(PAPERS)


def test_rows_are_complete():
    for paper in PAPERS:
        assert paper.name and paper.title and paper.offers, paper.key
        assert re.fullmatch(r"(\d{4}\.\d{5})?", paper.arxiv), paper.key
        for offer in paper.offers:
            has_code = offer.status in ("exact", "building block")
            assert has_code == bool(offer.call) == bool(offer.test), offer
            assert offer.what and not offer.what.endswith("."), offer
    assert len(OFFERS) == len([offer for paper in PAPERS for offer in paper.offers if offer.call])


# no pairs: an average
PLAIN = ("13 simple",)


def test_code_is_short_and_of_this_package():
    for key, offer in OFFERS.items():
        assert len([line for line in offer.call.splitlines() if line]) <= 10, key
        assert ("contrastile." in offer.call) == (key not in PLAIN), key


def test_a_row_names_a_test_that_runs_its_code():
    assert not [key for key, offer in OFFERS.items() if key not in RUN.get(offer.test, ())]


def test_no_test_runs_what_is_not_in_the_table():
    named = defaultdict(set)
    for key, offer in OFFERS.items():
        named[offer.test].add(key)
    assert dict(named) == RUN


def test_a_call_whose_formula_differs_a_little_is_seen():
    """Else no row above would show anything."""
    inputs = dict(t=rows(8, 6), v=rows(8, 6, seed=1), theta=number(0.2))

    def dense(t, v, theta, factor=1.0):
        return factor * clip(theta.exp() * t @ v.T)

    check("12", dense, **inputs)
    with pytest.raises(AssertionError, match="value is off"):
        check("12", lambda **x: dense(**x, factor=1 + 1e-9), **inputs)
    with pytest.raises(AssertionError, match="gradient of v is off"):
        check("12", lambda t, v, theta: dense(t, v.detach() + 0 * v, theta), **inputs)
    with pytest.raises(AssertionError, match="does not use"):
        run("12", **inputs, further=1.0)


def test_the_page_is_what_the_table_gives(monkeypatch, tmp_path):
    script = load_script("docs/tools/papers_page.py")
    monkeypatch.setattr(sys, "argv", ["papers_page.py", "--check"])
    script.main()
    stale = tmp_path / "papers.md"
    stale.write_text(script.PAGE.read_text().replace("cosine_loss", "other_loss", 1))
    monkeypatch.setattr(script, "PAGE", stale)
    with pytest.raises(SystemExit, match=r"papers\.md is stale: run python docs/tools/papers_page\.py"):
        script.main()


def test_links_within_the_page_lead_to_headings():
    """GitHub's rule, which is mkdocs' too for these."""
    text = PAGES["docs/papers.md"]
    headings = [x.lower() for x in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    anchors = [re.sub(r"[^\w -]", "", x).replace(" ", "-") for x in headings]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)


def test_the_page_is_linked():
    assert "/docs/papers.md)" in README
    assert "(../papers.md)" in PAGES["docs/losses/README.md"]
    assert "papers.md" in (ROOT / "mkdocs.yml").read_text()
