"""The nn.Module twins: the same numbers as the functions, and good manners as modules."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn

import contrastile
from contrastile import losses
from contrastile.catalog import CATALOG, CONSTANTS
from support.loss_cases import call, default, every_loss, id_of, leaves, required, takes

# modules with a state for every sample, and queues, are no function's twin: test_stateful.py, test_queue.py
TWINS = [cls for cls in map(losses.__dict__.get, losses.__all__) if isinstance(cls, type) and hasattr(cls, "function")]
every_twin = pytest.mark.parametrize("cls", TWINS, ids=lambda cls: cls.__name__)
SCALED = ("logit_scale", "logit_bias")  # forward takes them: they belong to the model, not to the loss


def learnable(cls):
    """The constructor's switch, if the field learns this loss's temperature or scale."""
    return next((name for name in inspect.signature(cls).parameters if name.startswith("learnable")), None)


def owns_scale(cls):
    return "logit_scale" in inspect.signature(cls).parameters


LEARNERS = [cls for cls in TWINS if learnable(cls)]
every_learner = pytest.mark.parametrize("cls", LEARNERS, ids=lambda cls: cls.__name__)


def card_of(cls):
    return next(card for card in CATALOG if card.function is cls.function)


def inputs_of(cls, **options):
    """Positional tensors of the default case; without the scale that a module may own or learn."""
    case = default(card_of(cls), **options)
    return [x for x in case.args if x.dim()] if owns_scale(cls) or learnable(cls) else list(case.args)


def named_of(cls):
    """What a learning module still needs by name, less the scale it owns."""
    return {name: x for name, x in required(card_of(cls), default(card_of(cls))).items() if name not in SCALED}


def test_every_loss_has_one_twin_and_every_twin_a_loss():
    assert {cls.function for cls in TWINS} == {card.function for card in CATALOG}
    assert len(TWINS) == len(CATALOG)
    assert set(TWINS) == {card.module for card in CATALOG}


@every_loss
def test_a_module_computes_what_its_function_does(card):
    case = default(card)
    assert torch.equal(card.module()(*case.args, **case.kwargs), call(card, case))


@every_loss
def test_modules_have_the_defaults_of_their_functions(card):
    case = default(card)
    named = required(card, case)
    assert torch.equal(card.module()(*case.args, **named), card.function(*case.args, **named))
    ours, theirs = inspect.signature(card.module).parameters, inspect.signature(card.function).parameters
    for name in ours.keys() & theirs.keys():  # a scale that forward must be given has no default
        assert theirs[name].default in (ours[name].default, inspect.Parameter.empty), name


SIDES = ("_ids", "_labels", "_groups", "_mask", "_offsets")  # what names of tensors end with


@every_loss
def test_modules_take_every_option_of_their_function(card):
    """Tensors go to forward, everything else to the constructor."""
    tensors = {
        "hard_positives",
        "modalities",
        "teacher_scores",
        "negatives",
        "teacher_negatives",
        "weight_features",
        "unmixed",
        "unmixed_clean",
        "hard_negatives",
        "keys",
        "anchor_mask",
        "mask",
        "generator",
        "permutations",
        "present",
        "bias",
        "center",
        *CONSTANTS,
        *SCALED,
    }
    expected = {
        name
        for name, parameter in inspect.signature(card.function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and not name.endswith(SIDES)
    } - tensors
    assert expected <= set(inspect.signature(card.module).parameters)


@pytest.mark.parametrize("card", [card for card in CATALOG if takes(card, "reduction")], ids=id_of)
def test_options_reach_the_function(card):
    case = default(card)
    options = {"reduction": "none", "normalize": True, "backend": "torch", "memory_budget": 0}
    options = {name: value for name, value in options.items() if takes(card, name)}
    case_options = dict(case.kwargs)
    expected = card.function(*case.args, **case_options, **options)
    assert torch.equal(card.module(**options)(*case.args, **case_options), expected)
    overridden = card.module()(*case.args, **case_options, **options)
    assert torch.equal(overridden, expected)


@every_twin
def test_modules_without_learning_have_no_state(cls):
    module = cls()
    assert list(module.parameters()) == list(module.buffers()) == []
    assert module.state_dict() == {}
    module.load_state_dict({}, strict=True)
    assert module.half().train().eval().to("cpu") is module


@every_learner
def test_what_is_learned_is_in_the_state_and_gets_a_gradient(cls):
    module = cls(**{learnable(cls): True})
    before = copy.deepcopy(module.state_dict())
    assert {"log_temperature", "log_logit_scale"} & before.keys()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(*inputs_of(cls), **named_of(cls)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs() > 0, name
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.load_state_dict(before)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@every_learner
def test_learning_starts_at_the_constructors_value_and_has_its_gradient(cls):
    start = 0.2
    name = "temperature" if "learnable_temperature" in inspect.signature(cls).parameters else "logit_scale"
    module = cls(**{learnable(cls): True, name: start})
    factor = torch.tensor(start, requires_grad=True)
    bias = {"logit_bias": module.logit_bias.detach()} if hasattr(module, "logit_bias") else {}
    tensors = inputs_of(cls)
    named = named_of(cls)
    found, expected = module(*tensors, **named), cls.function(*tensors, **{name: factor}, **bias, **named)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    log_parameter = getattr(module, f"log_{name}")
    torch.testing.assert_close(log_parameter.grad, factor.grad * start)  # d/dlog t = t d/dt


@every_learner
def test_what_a_module_learns_is_not_to_be_given(cls):
    module = cls(**{learnable(cls): True})
    for name in module.learned():
        with pytest.raises(ValueError, match=f"{name} must not be given: the module learns it"):
            module(*inputs_of(cls), **named_of(cls), **{name: 1.0})


@pytest.mark.parametrize("cls", list(filter(owns_scale, TWINS)))
def test_a_module_may_have_its_scale(cls):
    """Fixed, or where learning starts; forward's comes before it, by place or by name."""
    tensors, named = inputs_of(cls), named_of(cls)
    own = cls(logit_scale=4.0)
    assert not list(own.parameters()) and "logit_scale=4.0" in repr(own)
    assert torch.equal(own(*tensors, **named), cls.function(*tensors, logit_scale=4.0, **named))
    given = cls.function(*tensors, logit_scale=2.0, **named)
    assert torch.equal(own(*tensors, logit_scale=2.0, **named), given)
    if cls not in (contrastile.Symile, contrastile.HydraLoss):  # it comes after what is many or optional
        assert torch.equal(own(*tensors, 2.0, **named), given)
    if not learnable(cls):  # the gap's losses: their paper keeps it
        return
    learning = cls(logit_scale=4.0, **{learnable(cls): True})
    assert learning.learned()["logit_scale"].item() == pytest.approx(4.0)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="logit_scale must be finite and > 0"):
            cls(logit_scale=value, **{learnable(cls): True})


def test_siglip_has_its_bias_too():
    x, y = torch.randn(2, 6, 4)
    own = contrastile.SigLipLoss(3.0, -2.0)
    assert torch.equal(own(x, y), contrastile.siglip_loss(x, y, 3.0, -2.0))
    assert torch.equal(own(x, y, 3.0, 1.0), contrastile.siglip_loss(x, y, 3.0, 1.0))
    learning = contrastile.SigLipLoss(3.0, -2.0, learnable=True)
    assert learning.logit_bias.item() == -2.0 and "learned logit_bias=-2" in repr(learning)
    torch.testing.assert_close(learning(x, y), own(x, y))
    assert contrastile.SigLipLoss(learnable=True).logit_bias.item() == -10.0
    with pytest.raises(ValueError, match="logit_bias must be finite"):
        contrastile.SigLipLoss(logit_bias=float("inf"), learnable=True)


@every_learner
def test_a_learned_factor_stays_positive_under_any_update(cls):
    module = cls(**{learnable(cls): True})
    with torch.no_grad():
        next(module.parameters()).sub_(50.0)
    factor = next(iter(module.learned().values()))
    assert factor > 0


def beyond(cls, factor):
    """A learning module whose scale an optimizer has made `factor` times the bound of 50."""
    module = cls(**{learnable(cls): True}, max_scale=50.0)
    parameter = next(module.parameters())
    name = "temperature" if "temperature" in module.learns else "logit_scale"
    with torch.no_grad():
        parameter.fill_(math.log(50.0 * factor) * (-1.0 if name == "temperature" else 1.0))
    return module, parameter, name


@every_learner
def test_a_learned_scale_comes_back_within_its_bound(cls):
    """The parameter itself, so that the gradient is that at the bound and may lead away from it."""
    module, parameter, name = beyond(cls, 2.0)
    tensors, named = inputs_of(cls), named_of(cls)
    for _ in range(2):  # a second forward before the first backward
        loss = module(*tensors, **named)
    loss.backward()
    value = 1.0 / 50.0 if name == "temperature" else 50.0
    assert module.learned()[name].item() == pytest.approx(value) and parameter.grad.isfinite()
    bias = {"logit_bias": module.logit_bias.detach()} if hasattr(module, "logit_bias") else {}
    factor = parameter.detach().exp().requires_grad_()
    truth = cls.function(*tensors, **{name: factor}, **bias, **named)
    truth.backward()
    torch.testing.assert_close(loss, truth)
    torch.testing.assert_close(parameter.grad, factor.grad * factor.detach())
    module, parameter, _ = beyond(cls, 0.5)
    before = parameter.detach().clone()
    module(*tensors, **named)
    assert torch.equal(parameter, before)


@every_learner
def test_bounds_of_a_scale_are_refused_by_name(cls):
    switch = learnable(cls)
    for bound in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"max_scale must be finite and > 0"):
            cls(**{switch: True}, max_scale=bound)
    with pytest.raises(ValueError, match=f"max_scale must not be given without {switch}=True"):
        cls(max_scale=100.0)
    name = "temperature" if "temperature" in cls(**{switch: True}).learns else "logit_scale"
    with pytest.raises(ValueError, match=f"{name} must start within max_scale=10"):
        cls(**{switch: True, name: 0.05 if name == "temperature" else 20.0}, max_scale=10.0)
    exact = cls(**{switch: True, name: 0.01 if name == "temperature" else 100.0}, max_scale=100.0)
    assert "max_scale=100.0" in repr(exact)


def test_a_bound_of_a_scale_in_a_compiled_loss():
    module, parameter, _ = beyond(contrastile.ClipLoss, 2.0)
    x, y = inputs_of(contrastile.ClipLoss)
    truth = contrastile.clip_loss(x, y, 50.0)
    torch.testing.assert_close(torch.compile(module, backend="aot_eager", fullgraph=True)(x, y), truth)
    assert parameter.exp().item() == pytest.approx(50.0)


@every_twin
def test_repr_shows_the_options(cls):
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    given = {"backend": "torch", "memory_budget": 4096, "alpha": 3.0}
    options = {name: value for name, value in given.items() if name in defaults}
    text = repr(cls(**options))
    assert text.startswith(f"{cls.__name__}(") and text.endswith(")")
    for name, value in {**defaults, **options}.items():
        hidden = (value is None and name != "group") or name.startswith("learnable")
        assert hidden or f"{name}={value!r}" in text


@every_learner
def test_repr_shows_what_is_learned(cls):
    module = cls(**{learnable(cls): True})
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert "=1," in repr(module)


@every_twin
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("learn", [False, True])
def test_copies_are_equal_and_independent(cls, copied, learn):
    if learn and not learnable(cls):
        pytest.skip("learns nothing")
    module = cls(**({learnable(cls): True} if learn else {}))
    twin = copied(module)
    tensors = inputs_of(cls) if learn else default(card_of(cls)).args
    named = named_of(cls) if learn else required(card_of(cls), default(card_of(cls)))
    assert repr(twin) == repr(module)
    assert torch.equal(twin(*tensors, **named), module(*tensors, **named))
    if learn:
        with torch.no_grad():
            next(twin.parameters()).add_(1.0)
        assert not torch.equal(twin(*tensors, **named), module(*tensors, **named))


@every_learner
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=id_of)
def test_a_module_of_another_type_computes_in_full_precision(cls, dtype):
    """Only the parameter is rounded; its exponential and its inverse are not."""
    module = cls(**{learnable(cls): True}).to(dtype)
    wide = copy.deepcopy(module).double()
    tensors, named = inputs_of(cls), named_of(cls)
    torch.testing.assert_close(module(*tensors, **named), wide(*tensors, **named), rtol=1e-6, atol=2e-6)
    module(*tensors, **named).backward()
    assert all(p.grad.dtype == dtype for p in module.parameters())


def test_modules_nest_in_models():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.loss = nn.Linear(8, 8), contrastile.InfoNCE(learnable_temperature=True)

        def forward(self, x, y):
            return self.loss(self.encoder(x), self.encoder(y), negatives=self.encoder(x[:3]))

    model = Model()
    assert set(model.state_dict()) == {"encoder.weight", "encoder.bias", "loss.log_temperature"}
    model(*leaves(default(CATALOG[0]))[:2]).backward()
    assert all(p.grad is not None for p in model.parameters())
