"""What the package offers: every public name is listed. tests/test_docstrings.py reads what they say."""

import inspect

import pytest

import contrastile
from contrastile import losses, reference


def test_all_is_complete():
    """Every public name is listed, every listed name exists, and the losses come from their family files."""
    for module in (contrastile, losses, reference):
        assert len(set(module.__all__)) == len(module.__all__)
        defined = {
            name
            for name, x in vars(module).items()
            if not name.startswith("_") and (inspect.isclass(x) or inspect.isfunction(x))
        }
        assert defined == {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert set(losses.__all__) <= set(contrastile.__all__)
    functions = {name for name in losses.__all__ if name.islower()}
    ported = {name for name in functions if name.startswith("volume_computation")}  # dense: references themselves
    assert functions - ported == set(reference.__all__)


def test_star_import_gives_what_all_says():
    namespace = {}
    exec("from contrastile import *", namespace)
    assert set(contrastile.__all__) <= namespace.keys()


def test_completion_offers_what_users_call():
    offered = {name for name in dir(contrastile) if not name.startswith("_")}
    assert offered == {*contrastile.__all__, "catalog", "compat", "testing"}
    assert {"__version__", "__doc__", "__path__"} <= set(dir(contrastile))
    with pytest.raises(AttributeError, match="module 'contrastile' has no attribute 'clip_los'"):
        contrastile.clip_los  # noqa: B018


@pytest.mark.parametrize("name", reference.__all__)
def test_references_have_their_functions_arguments(name):
    engine = ("memory_budget", "backend", "group", "report", "keep_argmax")  # no part of the value

    def options(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in engine]

    assert options(getattr(reference, name)) == options(getattr(contrastile, name))
