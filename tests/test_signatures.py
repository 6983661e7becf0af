"""Modules have the signatures of their functions, and arguments that take a word take what their types say."""

import inspect
import sys
from typing import get_args

import pytest
import torch

import contrastile
from contrastile import backends, literals, spec
from contrastile.catalog import CATALOG
from contrastile.losses.base import OWN
from contrastile.ops import check, record
from support.loss_cases import call, default, id_of, takes
from support.scripts import load_script

every_module = pytest.mark.parametrize("card", CATALOG, ids=id_of)


def kinds(parameter):
    return set(parameter.annotation.split(" | "))


@every_module
def test_forward_and_constructor_together_have_the_functions_arguments(card):
    function = inspect.signature(card.function).parameters
    forward = dict(inspect.signature(card.module.forward).parameters)
    del forward["self"]
    constructor = inspect.signature(card.module).parameters
    assert [(p.name, p.kind) for p in forward.values()] == [(p.name, p.kind) for p in function.values()]
    options = {name for name, p in forward.items() if p.default is OWN}
    of_learning = {name for name in constructor if name.startswith("learnable")}
    assert constructor.keys() - of_learning - {"max_scale"} == options
    assert ("max_scale" in constructor) == bool(of_learning)
    for name, p in function.items():
        if name not in options:  # an input
            assert forward[name] == p, name
            continue
        assert kinds(forward[name]) == kinds(p) | {"Own"}, name
        kept = kinds(p) - {"Tensor"} | ({"None"} if p.default is p.empty else set())
        assert kinds(constructor[name]) == kept, name
        assert constructor[name].default == (None if p.default is p.empty else p.default), name


@every_module
def test_modules_say_what_they_take_and_return(card):
    assert inspect.signature(card.module.forward).return_annotation == "Tensor"
    for method in (card.module, card.module.__init__, card.module.forward):
        assert f"`{card.name}`" in method.__doc__


def test_no_loss_hides_its_arguments():
    """Of what a loss is made, too: `**options` is of the loss that pairwise_aggregate is given."""
    for module in [x for name, x in sys.modules.items() if name.startswith("contrastile.losses.")]:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if not function.__module__.startswith("contrastile."):  # dataclasses.replace
                continue
            named = [p.kind for p in inspect.signature(function).parameters.values()]
            assert inspect.Parameter.VAR_KEYWORD not in named or name == "pairwise_aggregate", name


@every_module
def test_a_call_checks_its_options_once(card, monkeypatch):
    if not card.gemm:
        pytest.skip("made of other public functions, which check theirs")
    seen = []
    for name in ("backend", "budget"):
        found = getattr(check, name)
        monkeypatch.setattr(check, name, lambda x, name=name, found=found: (seen.append(name), found(x))[1])
    call(card, default(card))
    assert seen == [name for name in ("backend", "budget") if takes(card, "backend")]


# ---- the file that a script makes


def test_the_modules_are_current(monkeypatch):
    pytest.importorskip("ruff")
    script = load_script("packaging/generate_modules.py")
    monkeypatch.setattr(sys, "argv", ["generate_modules.py", "--check"])
    script.main()
    monkeypatch.setattr(script, "TWINS", script.TWINS[:-1])
    with pytest.raises(SystemExit, match=r"modules\.py is stale: run python packaging/generate_modules\.py"):
        script.main()


# ---- options of one call


X, Y = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_an_option_given_to_forward_holds_for_that_call():
    module = contrastile.InfoNCE(0.3, false_negative_margin=-0.5, reduction="sum")
    kept = contrastile.info_nce(X, Y, temperature=0.3, false_negative_margin=-0.5, reduction="sum")
    without = contrastile.info_nce(X, Y, temperature=0.1, reduction="none")
    assert torch.equal(module(X, Y), kept)
    assert torch.equal(module(X, Y, false_negative_margin=None, temperature=0.1, reduction="none"), without)
    assert torch.equal(module(X, Y), kept)
    assert not torch.equal(kept, without.sum())


def test_none_may_be_given_in_place_of_a_modules_bias():
    module = contrastile.SigLipLoss(5.0, -3.0)
    assert torch.equal(module(X, Y, logit_bias=None), contrastile.siglip_loss(X, Y, 5.0))
    with pytest.raises(ValueError, match="logit_bias must not be given: the module learns it"):
        contrastile.SigLipLoss(5.0, -3.0, learnable=True)(X, Y, logit_bias=None)


def test_options_are_attributes():
    module = contrastile.NTXent(0.2, learnable_temperature=True, reduction="none")
    assert module.reduction == "none" and module.temperature is None and module.normalize is False
    module.reduction = "sum"
    assert module(X, Y).dim() == 0 and "reduction='sum'" in repr(module)


class Configured(contrastile.SigLipLoss):
    """A user's, with a constructor and a forward of its own."""

    def __init__(self, config):
        super().__init__(**config)
        self.config = config

    def forward(self, pair):
        return super().forward(*pair)


def test_subclasses_may_have_other_signatures():
    module = Configured({"learnable": True, "reduction": "sum"})
    assert torch.equal(module((X, Y)), contrastile.SigLipLoss(learnable=True, reduction="sum")(X, Y))
    assert repr(module).startswith("Configured(learned logit_scale=10, learned logit_bias=-10, normalize=False")
    assert "logit_bias=-3.0" in repr(Configured({"logit_scale": 5.0, "logit_bias": -3.0}))


@pytest.mark.parametrize("cls", [contrastile.ClipLoss, contrastile.SigLipLoss, contrastile.Symile])
def test_a_scale_that_nobody_gave_is_named(cls):
    with pytest.raises(
        TypeError, match=f"logit_scale must be given: to forward, or to the constructor of {cls.__name__}"
    ):
        cls()(X, Y)


# ---- words


def test_backends_are_those_of_the_type():
    assert get_args(literals.BackendName) == ("auto", *backends.backend_names())


def test_every_test_of_the_engine_has_a_name():
    assert get_args(literals.TestName) == tuple(name for name in record.TESTS if name != "kept")


@pytest.mark.parametrize(
    "names, numbers, kind",
    [
        (record.REDUCES, spec.Reduce, literals.ReduceName),
        (record.SCORES, spec.Score, literals.ScoreName),
    ],
    ids=["reduce", "score"],
)
def test_every_rule_of_the_engine_has_a_name(names, numbers, kind):
    assert set(names.values()) == set(numbers)
    assert set(names) - {None} == set(get_args(kind))


@every_module
def test_an_argument_of_words_takes_these_alone(card):
    module = sys.modules[card.function.__module__]
    for name, parameter in inspect.signature(card.function).parameters.items():
        words = get_args(getattr(module, parameter.annotation, None)) if isinstance(parameter.default, str) else ()
        if not words:
            continue
        assert all(isinstance(word, str) for word in words) and parameter.default in words
        case = next(iter(card.variants.values()))(6, 8, torch.Generator().manual_seed(0), torch.float32)
        with pytest.raises(ValueError, match=f"{name} must be one of {', '.join(map(repr, words))}, got 'wrong'"):
            card.function(*case.args, **{**case.kwargs, name: "wrong"})
