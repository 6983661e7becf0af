"""What README and pages name in passing exists: functions, arguments, commands, models, other packages' modules."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import contrastile
from contrastile.cli import _COMMANDS
from contrastile.compat.transformers_families import FAMILIES
from support.pages import DROPINS, INDEX, PAGES

LOSSES = [page for page in PAGES if re.search(r"^::: contrastile\.", PAGES[page], re.MULTILINE)]
PATH = re.compile(r"\bcontrastile((?:\.\w+)+)")
CALL = re.compile(r"(?<![\w.])(?:contrastile\.)?(\w+)\(([^()]*)")
KEYWORD = re.compile(r"\b([a-z]\w*)=")
WAS = re.compile(r"\b(?:from|import) ([a-z_]\w*(?:\.\w+)*)")


def spans(text: str) -> list[str]:
    """Code within sentences and tables."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def missing(path: list[str]) -> str | None:
    """The first part of contrastile.<path> that is neither a name nor a module."""
    owner, name = contrastile, "contrastile"
    for part in path:
        name += f".{part}"
        if hasattr(owner, part):
            owner = getattr(owner, part)
        elif inspect.ismodule(owner) and find_spec(name) is not None:
            if name.startswith("contrastile.compat."):
                return None  # what follows is a drop-in's, whose package may not be there
            owner = importlib.import_module(name)
        else:
            return name
    return None


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page):
    named = [match.strip(".").split(".") for code in spans(PAGES[page]) for match in PATH.findall(code)]
    assert not [found for path in named if path[0] != "tuning" and (found := missing(path))]


def public_calls(code: str) -> Iterator[tuple[str, str]]:
    for name, arguments in CALL.findall(code):
        if callable(getattr(contrastile, name, None)):
            yield from ((name, keyword) for keyword in KEYWORD.findall(arguments))


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/dropins/")])
def test_keyword_arguments_of_calls_exist(page):
    """Pages of drop-ins name other packages' classes of the same names."""
    for code in spans(PAGES[page]):
        for name, keyword in public_calls(code):
            assert keyword in inspect.signature(getattr(contrastile, name)).parameters, code


@pytest.mark.parametrize("page", [page for page in LOSSES if page.startswith("docs/losses/")])
def test_keyword_arguments_of_a_loss_page_are_those_of_its_losses(page):
    shown = re.findall(r"^::: contrastile\.(\w+)$", PAGES[page], re.MULTILINE)
    known = {name for loss in shown for name in inspect.signature(getattr(contrastile, loss)).parameters}
    for code in spans(PAGES[page]):
        if not any(public_calls(code)):
            assert set(KEYWORD.findall(code)) <= known, code


def test_every_command_is_on_the_page_of_the_command_line():
    named = re.findall(r"^\| `(\w+)` \|", PAGES["docs/command-line.md"], re.MULTILINE)
    assert sorted(named) == sorted(_COMMANDS)


def test_models_that_can_be_patched_are_those_of_the_table():
    rows = re.findall(r"^\| (`\w+Model`.*?) \| .*$", DROPINS["transformers"], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(FAMILIES)


PROGRAM = """
import importlib, json, sys, warnings
deprecated = {}
for name in sys.argv[1:]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            importlib.import_module(name)
        except Exception:  # not there, or it needs a GPU or torchvision
            continue
    deprecated[name] = [str(w.message) for w in found if name in str(w.message) and "deprecat" in str(w.message)]
print(json.dumps(deprecated))
"""


@pytest.mark.compat
@pytest.mark.slow  # imports every package
def test_modules_that_drop_ins_stand_in_for_are_not_deprecated():
    """What a page tells users to replace is where the package has it today."""
    texts = [*re.findall(r"# was: (.*)", "\n".join(DROPINS.values())), *spans(INDEX)]
    modules = {name for text in texts for name in WAS.findall(text) if not name.startswith("contrastile")}
    assert "sentence_transformers.sentence_transformer.losses" in modules
    done = subprocess.run([sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if not found:
        pytest.skip("none of the packages is there")
    assert not any(found.values()), found
