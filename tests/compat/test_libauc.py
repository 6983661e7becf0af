"""The drop-ins for LibAUC's global contrastive losses against the package, over two epochs."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import libauc as ours
from support.standins import load

pytestmark = pytest.mark.peers
SAMPLES, B, D = 24, 6, 5
CASES = {
    "GCLoss_v1": ("GCLoss_v1", {}),
    "GCLoss_v1, cosine": ("GCLoss_v1", {"gamma_schedule": "cosine", "gamma_decay_epochs": 3}),
    "GCLoss_v1, temperatures": ("GCLoss_v1", {"enable_isogclr": True, "rho": 1.0, "eta": 0.005}),
    "GCLoss_v2": ("GCLoss_v2", {}),
    "GCLoss_v2, cosine": ("GCLoss_v2", {"gamma_schedule": "cosine", "gamma_decay_epochs": 3}),
    "GCLoss_v2, temperatures": (
        "GCLoss_v2", {"temperature_scheme": "individual_learnable", "tau_max": 0.2, "rho": 1.0, "eta": 0.005},
    ),
    "GCLoss_v2, enable_isogclr": ("GCLoss_v2", {"enable_isogclr": True, "tau_max": 0.2}),
}  # fmt: skip


def peer():
    return load("libauc.losses.contrastive", ("libauc", "libauc.losses"))


def made(module, name, **options):
    device = {"device": "cpu"} if name == "GCLoss_v1" else {}
    return getattr(module, name)(N=SAMPLES, tau=0.1, gamma=0.8, **device, **options)


def batches(epochs=2):
    """Epoch, features and indices."""
    g = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for index in torch.randperm(SAMPLES, generator=g).split(B):
            yield epoch, *F.normalize(torch.randn(2, B, D, generator=g), dim=2), index


def parts(result):
    """The loss, and the temperatures beside it, if there are any."""
    loss, more = result if isinstance(result, tuple) else (result, None)
    return loss, more or ()


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_temperatures_are_the_packages(case):
    name, options = CASES[case]
    both = [made(module, name, **options) for module in (ours, peer())]
    for epoch, x, y, index in batches():
        found = []
        for loss_fn in both:
            loss_fn.adjust_gamma(epoch)
            leaves = [z.clone().requires_grad_() for z in (x, y)]
            loss, more = parts(loss_fn(*leaves, index))
            found.append((loss, *torch.autograd.grad(loss, leaves), *more))
        assert both[0].gamma == pytest.approx(both[1].gamma)
        for f, t in zip(*found, strict=True):
            torch.testing.assert_close(f, t.to(f.dtype), rtol=1e-4, atol=5e-5)
    for attribute in ("u", "learnable_tau", "learnable_tau_img", "learnable_tau_txt"):
        if hasattr(both[1], attribute):
            torch.testing.assert_close(getattr(both[0], attribute), getattr(both[1], attribute), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["GCLoss_v1", "GCLoss_v2", "GCLoss"])
def test_signatures_are_the_packages(name):
    for method in ("__init__", "forward", "adjust_gamma"):
        true = inspect.signature(getattr(getattr(peer(), name), method)).parameters.values()
        found = inspect.signature(getattr(getattr(ours, name), method)).parameters.values()
        shared = [(p.name, p.default) for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert shared == [(p.name, p.default) for p in true if p.kind is p.POSITIONAL_OR_KEYWORD]


def test_gc_loss_is_one_of_the_two():
    _, x, y, index = next(batches())
    for mode, name in (("unimodal", "GCLoss_v1"), ("bimodal", "GCLoss_v2")):
        whole, one = ours.GCLoss(mode, N=SAMPLES, tau=0.1, gamma=0.8), made(ours, name)
        whole.adjust_gamma(1)
        one.adjust_gamma(1)
        assert parts(whole(x, y, index))[0] == parts(one(x, y, index))[0]
    with pytest.raises(ValueError, match="mode must be one of"):
        ours.GCLoss("both")


def test_a_new_sample_starts_with_its_own_estimate_whoever_is_beside_it():
    """The package decides for a whole batch: a sample that comes first beside others' second visit gets gamma times
    its estimate."""
    _, x, y, index = next(batches())
    known = made(ours, "GCLoss_v2")
    known(x[:3], y[:3], index[:3])
    known(x, y, index)
    fresh = made(ours, "GCLoss_v2")
    fresh(x, y, index)
    new = index[3:]
    torch.testing.assert_close(known.averages.state["log_mean"][:, new], fresh.averages.state["log_mean"][:, new])


def test_state_dicts_go_on_and_those_of_the_package_load():
    loss_fn = made(ours, "GCLoss_v1", enable_isogclr=True)
    steps = list(batches())
    for _, x, y, index in steps[:4]:
        loss_fn(x, y, index)
    other = torch.nn.ModuleDict({"loss": made(ours, "GCLoss_v1", enable_isogclr=True)})
    other.load_state_dict(torch.nn.ModuleDict({"loss": loss_fn}).state_dict())
    copies = [other["loss"], copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))]
    values = [f(*steps[4][1:]) for f in (loss_fn, *copies)]
    assert all(value == values[0] for value in values)
    saved = torch.nn.ModuleDict({"loss": made(peer(), "GCLoss_v1"), "head": torch.nn.Linear(2, 2)}).state_dict()
    before = loss_fn.u.clone()
    torch.nn.ModuleDict({"loss": loss_fn, "head": torch.nn.Linear(2, 2)}).load_state_dict(saved)
    assert torch.equal(loss_fn.u, before)


def test_what_would_have_no_effect_is_refused():
    with pytest.raises(NotImplementedError, match=r"FastCLIP\(version='v3'\)"):
        ours.GCLoss_v2(temperature_scheme="global_learnable")
    with pytest.raises(ValueError, match="temperature_scheme must be one of"):
        ours.GCLoss_v2(temperature_scheme="individual")
    with pytest.raises(ValueError, match="distributed must be True with world_size above 1"):
        ours.GCLoss_v2(world_size=2)
    with pytest.raises(TypeError, match="taus"):
        ours.GCLoss_v2(taus=1.0)
    with pytest.raises(ValueError, match="gamma_decay_epochs must be"):
        ours.GCLoss_v1(gamma_schedule="cosine")
    with pytest.raises(AttributeError, match="has no attribute 'learnable_tau'"):
        _ = made(ours, "GCLoss_v1").learnable_tau
    x = F.normalize(torch.randn(4, 3), dim=1)
    for name in ("GCLoss_v1", "GCLoss_v2"):
        with pytest.raises(ValueError, match="index must be from 0 to 23"):
            made(ours, name)(x, x, torch.tensor([0, 1, 2, 24]))
        with pytest.raises(ValueError, match=r"^N must be"):
            getattr(ours, name)(N=0)
        with pytest.raises(ValueError, match=r"^tau must be"):
            getattr(ours, name)(tau=-1.0)
        with pytest.raises(ValueError, match="init_process_group"):
            made(ours, name, distributed=True)(x, x, torch.arange(4))
        one = parts(made(ours, name)(x[:1], x[:1], torch.arange(1)))[0]
        assert one == 0  # the package divides by 0
    with pytest.raises(ValueError, match="hidden2 must have the shape of hidden1"):
        made(ours, "GCLoss_v1")(x, x[:3], torch.arange(4))
