"""What help() says of every public name: each argument by itself, an example that runs, and where it comes from."""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

import pytest
import torch

import contrastile
from contrastile import losses
from contrastile.catalog import CATALOG


def public() -> dict[str, Any]:
    """Every function and class, by the name that users write after contrastile."""
    found = {name: getattr(contrastile, name) for name in contrastile.__all__}
    for owner in (contrastile.metrics, contrastile.retrieval, contrastile.distributed):
        found |= {f"{owner.__name__.partition('.')[2]}.{name}": getattr(owner, name) for name in owner.__all__}
    return {name: x for name, x in found.items() if not inspect.ismodule(x)}


PUBLIC = public()
EXCEPTIONS = [name for name, x in PUBLIC.items() if inspect.isclass(x) and issubclass(x, Exception)]
# it needs several processes; docs/distributed.md shows it, and tests of ranks run it
NO_EXAMPLE = [name for name in PUBLIC if name.startswith("distributed.")]
NAMES = {"torch": torch, **{name.rpartition(".")[2]: x for name, x in PUBLIC.items()}}
MODULES = [card.module.__name__ for card in CATALOG]


def entries(text: str) -> dict[str, str]:
    """Args, by name."""
    found = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: said for names, said in found for name in names.split(", ")}


def documentation(name: str) -> str:
    """A class documents its arguments at the class or at the constructor."""
    item = PUBLIC[name]
    own = inspect.getdoc(item) or ""
    if not inspect.isclass(item) or "__init__" not in vars(item):
        return own
    return f"{own}\n{inspect.getdoc(vars(item)['__init__']) or ''}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in EXCEPTIONS])
def test_every_argument_is_described_where_it_is_taken(name):
    """Not by "as in another function", which a reader would have to look up."""
    text = documentation(name)
    said = entries(text)
    taken = list(inspect.signature(PUBLIC[name]).parameters)
    assert set(taken) <= set(said)
    assert not [x for x in taken if re.match(r"(As|The same as) (in )?`?[a-z_.]+`?\.?$", said[x])]


@pytest.mark.parametrize("name", MODULES)
def test_forward_of_a_module_describes_its_inputs(name):
    module = PUBLIC[name]
    said = entries(inspect.getdoc(module.forward)) | entries(inspect.getdoc(module.__init__))
    assert {x for x in inspect.signature(module.forward).parameters if x != "self"} <= set(said)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in NO_EXAMPLE])
def test_the_example_runs(name):
    torch.manual_seed(0)
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs=dict(NAMES))
    result = doctest.DocTestRunner().run(example)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name.islower()])
def test_a_loss_has_its_formula_and_a_link_to_its_paper(name):
    text = documentation(name)
    assert re.search(r"^Source: .*https://arxiv\.org/abs/\d{4}\.\d{4,5}", text, re.MULTILINE | re.DOTALL)
    formula = re.search(r"^ {4}\S.* = ", text, re.MULTILINE)
    assert formula or name.startswith("volume_computation")  # 3 to 5 are the first with as many tensors


@pytest.mark.parametrize("name", PUBLIC)
def test_the_first_line_is_a_summary(name):
    first = documentation(name).partition("\n")[0]
    assert len(first) > 20 and not first.startswith(f"{name}(")
