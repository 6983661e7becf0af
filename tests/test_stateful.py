"""SogCLR, iSogCLR, FastCLIP: the official classes step by step, what is remembered, and what is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from contrastile import RGCL, FastCLIP, ISogCLR, SogCLR
from contrastile.distributed import cached_backward
from support import official_stateful as official

SAMPLES, B, D = 24, 6, 5
EPOCHS = 3  # of four steps each
EXACT = dict(rtol=2e-6, atol=2e-6)  # numbers of samples are float32


def batches(dtype=torch.float64, n=B, seed=0):
    """Of EPOCHS epochs over the same samples, with features that move: (epoch, x, y, index)."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(2, SAMPLES, D, generator=g, dtype=torch.float64)
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=g)
        for index in order.split(n):
            moved = base[:, index] + 0.3 * torch.randn(2, len(index), D, generator=g, dtype=torch.float64)
            x, y = F.normalize(moved, dim=2).to(dtype)
            yield epoch, x.requires_grad_(), y.requires_grad_(), index


def learnt(module):
    return {"temperature": module.state["temperature"], "u": module.state["temperature_slope"]}


OPTIONS = dict(rho=1.0, eta=0.05, beta=0.7)
CASES = {
    "SogCLR bimodal": (
        lambda: SogCLR(SAMPLES, temperature=0.1, gamma=0.8, warm_start=False, include_positive=True),
        lambda: official.Bimodal(SAMPLES, 0.8, 0.1), 1.0,
    ),
    "iSogCLR bimodal": (
        lambda: ISogCLR(SAMPLES, temperature=0.1, gamma=0.8, warm_start=False, include_positive=True, **OPTIONS),
        lambda: official.Bimodal(SAMPLES, 0.8, 0.1, True, **OPTIONS), 1.0,
    ),
    "SogCLR unimodal": (
        lambda: SogCLR(SAMPLES, temperature=0.1, gamma=0.8, unimodal=True),
        lambda: official.Unimodal(SAMPLES, 0.8, 0.1), 1.0,
    ),
    "iSogCLR unimodal": (
        lambda: ISogCLR(SAMPLES, temperature=0.1, t_min=0.05, gamma=0.8, unimodal=True, clip=3.0, **OPTIONS),
        lambda: official.Unimodal(SAMPLES, 0.8, 0.1, True, **OPTIONS), 1.0,
    ),
    "LibAUC GCLoss_v2": (
        lambda: SogCLR(SAMPLES, temperature=0.1), lambda: official.LibAUC(SAMPLES, 0.9, 0.1), (B - 1) / 2,
    ),
    "LibAUC RGCL": (
        lambda: ISogCLR(SAMPLES, temperature=0.04, t_max=0.05, gamma=0.9, clip=None, rho=6.0, eta=0.001),
        lambda: official.LibAUC(SAMPLES, 0.9, 0.04, True, rho=6.0, eta=0.001), (B - 1) / 2,
    ),
    "FastCLIP-v2": (
        lambda: FastCLIP(SAMPLES, "v2", temperature=0.1, gamma_epochs=2, rho=1.0, eta=0.01),
        lambda: official.FastCLIPIndividual(SAMPLES, 0.2, 2, 1.0, 0.1, 0.01), 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_official_class(case):
    """Value, gradients, averages and temperatures in every step of three epochs."""
    ours, theirs, factor = (make() if callable(make) else make for make in CASES[case])
    for epoch, x, y, index in batches():
        ours.set_epoch(epoch)
        theirs.epoch = epoch
        loss, truth = ours(x, y, index), theirs(x, y, index)
        found, true = (torch.autograd.grad(z, (x, y)) for z in (loss * factor, truth))
        torch.testing.assert_close(loss * factor, truth, **EXACT)
        for f, t in zip(found, true, strict=True):
            torch.testing.assert_close(f, t, **EXACT)
        torch.testing.assert_close(ours.state["log_mean"].double(), theirs.log_mean(), **EXACT)
        if isinstance(theirs, official.FastCLIPIndividual):
            names = {"temperature": theirs.tau, "temperature_slope": theirs.m, "temperature_square": theirs.v}
        elif ours.individual:
            names = {"temperature": theirs.tau, "temperature_slope": theirs.u}
        else:
            continue
        for name, state in names.items():
            state = torch.stack(state) if isinstance(state, list) else state[None]
            torch.testing.assert_close(ours.state[name].double(), state, **EXACT)
    if ours.individual:  # some of them have moved, and not all to a bound
        t = ours.state["temperature"]
        assert len(t.unique()) > SAMPLES / 2


def robust(x, y, unimodal, t, averages, rho, gamma):
    """RGCL of a batch, dense: t (sides, n); averages: log u before it, (sides, n)."""
    n, total = len(x), 0.0
    views = torch.cat([x, y])
    for side in range(2):
        if unimodal:
            own, temperature, old = slice(side * n, (side + 1) * n), t[0], averages[0]
            s, positive = views[own] @ views.T, (x * y).sum(1)
            others = ~torch.eye(n, dtype=torch.bool).repeat(1, 2)
        else:
            s, temperature, old = (x @ y.T if side == 0 else y @ x.T), t[side], averages[side]
            s, positive, others = s - s.diagonal()[:, None], 0.0, ~torch.eye(n, dtype=torch.bool)
        g = (s / temperature[:, None]).masked_fill(~others, -torch.inf).exp().sum(1) / others.sum(1)
        u = torch.where(old == -torch.inf, g, (1 - gamma) * old.exp() + gamma * g)
        total = total + (temperature * (u.log() + rho) - positive).mean()
    return total


@pytest.mark.parametrize("unimodal", [False, True])
def test_the_value_of_rgcl_is_the_objective(unimodal):
    """In every step; with gamma=1 its derivatives by features and temperatures are what the module follows."""
    for gamma in (1.0, 0.7):
        module = RGCL(SAMPLES, unimodal=unimodal, gamma=gamma, temperature=0.3, t_max=0.9, beta=1.0, eta=1e-3, rho=1.0)
        for _, x, y, index in batches():
            before = {name: module.state[name][:, index].double() for name in ("log_mean", "temperature")}
            loss = module(x, y, index)
            t = before["temperature"].requires_grad_()
            truth = robust(x, y, unimodal, t, before["log_mean"], 1.0, gamma)
            torch.testing.assert_close(loss, truth, **EXACT)
            if gamma == 1.0:
                *features, slope = torch.autograd.grad(truth, [x, y, t])
                for f, true in zip(torch.autograd.grad(loss, [x, y]), features, strict=True):
                    torch.testing.assert_close(f, true, **EXACT)
                slope = len(index) * slope / (2 if unimodal else 1)  # of both views, where one temperature is meant
                torch.testing.assert_close(module.state["temperature_slope"][:, index].double(), slope, **EXACT)


@pytest.mark.parametrize("unimodal", [False, True])
def test_rgcl_has_the_steps_of_libauc(unimodal):
    """GCLoss_v1 and GCLoss_v2 with enable_isogclr=True and their bounds: gradients, averages and temperatures."""
    start, eta = (0.1, 0.01) if unimodal else (0.04, 0.001)  # lower ones leave averages, float32, too few digits
    ours, numbers = RGCL(SAMPLES, unimodal=unimodal, temperature=start, eta=eta), dict(gamma=0.9, tau=start, eta=eta)
    if unimodal:
        theirs = official.Unimodal(SAMPLES, learn=True, rho=0.3, low=0.05, high=0.7, clip=None, **numbers)
    else:
        theirs = official.LibAUC(SAMPLES, learn=True, rho=6.0, low=0.005, high=0.05, **numbers)
    factor = 1.0 if unimodal else (B - 1) / 2
    for epoch, x, y, index in batches():
        theirs.epoch = epoch
        loss, truth = ours(x, y, index), theirs(x, y, index)
        for f, t in zip(*(torch.autograd.grad(z, (x, y)) for z in (loss * factor, truth)), strict=True):
            torch.testing.assert_close(f, t, **EXACT)
        torch.testing.assert_close(ours.state["log_mean"].double(), theirs.log_mean(), **EXACT)
        for name, state in (("temperature", theirs.tau), ("temperature_slope", theirs.u)):
            state = state[None] if unimodal else torch.stack(state)
            torch.testing.assert_close(ours.state[name].double(), state, **EXACT)
    assert len(ours.state["temperature"].unique()) > SAMPLES / 2


@pytest.mark.parametrize("version", ["v0", "v1", "v3"])
def test_fastclip_with_one_temperature(version):
    """With the gradient of the temperature, and an optimizer that moves it."""
    ours = FastCLIP(SAMPLES, version, temperature=0.1, gamma_epochs=2).double()
    log_t = torch.tensor(0.1).log().double().requires_grad_()
    theirs = official.FastCLIP(SAMPLES, 0.2, 2, rho=6.5, multiply=version == "v3")
    learns = version != "v1"
    assert [name for name, _ in ours.named_parameters()] == ["log_temperature"] * learns
    for epoch, x, y, index in batches():
        ours.set_epoch(epoch)
        theirs.epoch = epoch
        loss, truth = ours(x, y, index), theirs(x, y, index, log_t.exp())
        torch.testing.assert_close(loss, truth, **EXACT)
        own = [ours.log_temperature] if learns else []
        found, true = torch.autograd.grad(loss, [x, y, *own]), torch.autograd.grad(truth, [x, y, log_t])
        for f, t in zip(found, true, strict=False):
            torch.testing.assert_close(f, t, **EXACT)
        torch.testing.assert_close(ours.state["log_mean"].double(), theirs.log_mean(), **EXACT)
        if learns:
            with torch.no_grad():
                ours.log_temperature -= 0.01 * found[2]
                log_t -= 0.01 * true[2]


MODULES = {
    "SogCLR": lambda **o: SogCLR(SAMPLES, temperature=0.1, **o),
    "SogCLR unimodal": lambda **o: SogCLR(SAMPLES, temperature=0.1, unimodal=True, **o),
    "iSogCLR": lambda **o: ISogCLR(SAMPLES, temperature=0.1, rho=1.0, eta=0.05, **o),
    "iSogCLR unimodal": lambda **o: ISogCLR(SAMPLES, temperature=0.1, rho=1.0, eta=0.05, unimodal=True, **o),
    "RGCL": lambda **o: RGCL(SAMPLES, temperature=0.1, t_max=0.5, rho=1.0, **o),
    "FastCLIP-v2": lambda **o: FastCLIP(SAMPLES, "v2", temperature=0.1, rho=1.0, **o),
    "FastCLIP-v3": lambda **o: FastCLIP(SAMPLES, "v3", temperature=0.1, **o),
}
every_module = pytest.mark.parametrize("name", MODULES)


def batch(n=B, dtype=torch.float64):
    g = torch.Generator().manual_seed(7)
    x, y = F.normalize(torch.randn(2, n, D, generator=g, dtype=torch.float64), dim=2).to(dtype)
    return x.requires_grad_(), y.requires_grad_(), torch.randperm(SAMPLES, generator=g)[:n]


def state(module):
    return copy.deepcopy(module.state_dict())


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(x, b[name]) for name, x in a.items())


def trained(module, steps, optimizer=None):
    """The losses of some batches, with the optimizer that a learned temperature needs."""
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
    losses = []
    for epoch, x, y, index in steps:
        module.set_epoch(epoch)
        loss = module(x, y, index)
        loss.backward()
        losses.append(loss.detach())
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    return torch.stack(losses)


@every_module
def test_training_resumes_from_a_checkpoint(name, tmp_path):
    steps = list(batches())
    whole, first, second = (MODULES[name](gamma_epochs=2) for _ in range(3))
    expected = trained(whole, steps)
    trained(first, steps[:5])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.epoch == 1
    found = trained(second, steps[5:])
    assert torch.equal(found, expected[5:]) and same(state(second), state(whole))


@every_module
def test_copies_are_independent_and_keep_their_precision(name):
    module = MODULES[name]()
    module(*batch())
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).half().float()):
        assert same(copied.state.state_dict(), module.state.state_dict())
        x, y, index = batch()
        copied(x, y, (index + 1) % SAMPLES)
        assert not same(copied.state.state_dict(), module.state.state_dict())
        assert not list(copied.buffers())  # DistributedDataParallel would send them in every step


@every_module
def test_what_does_not_train_does_not_move_the_state(name):
    module = MODULES[name]()
    x, y, index = batch()
    first = module(x, y, index)
    before = state(module)
    module.eval()
    module(x, y, index)
    assert same(state(module), before)
    assert (first.requires_grad and not module(x.detach(), y.detach(), index).requires_grad) or name == "FastCLIP-v3"
    with torch.no_grad():
        assert not module(x, y, index).requires_grad
        module.train()
        module(x, y, (index + 1) % SAMPLES)
    assert not same(state(module), before)


@every_module
def test_a_first_visit_and_a_batch_of_duplicates(name):
    """u = g at first. A sample that comes twice moves once, to the mean of both estimates in logs."""
    module, apart = MODULES[name](gamma=0.5), MODULES[name](gamma=0.5)
    x, y, _ = batch()
    module(x, y, torch.tensor([3, 8, 3, 5, 8, 8]))
    apart(x, y, torch.arange(6))  # g of each row
    assert module.state["log_mean"].isfinite().sum(1).unique().item() == 3
    for sample, rows in ((3, [0, 2]), (8, [1, 4, 5]), (5, [3])):
        mean = apart.state["log_mean"][:, rows].exp().mean(1).log()
        torch.testing.assert_close(module.state["log_mean"][:, sample], mean)
    if module.individual:
        for sample, rows in ((3, [0, 2]), (8, [1, 4, 5]), (5, [3])):
            slope = apart.state["temperature_slope"][:, rows].mean(1)
            torch.testing.assert_close(module.state["temperature_slope"][:, sample], slope)
    before = module.state["log_mean"].clone()
    module(x, y, torch.tensor([3, 8, 3, 5, 8, 8]))
    if not module.individual and name != "SogCLR unimodal":  # the same estimates again
        torch.testing.assert_close(module.state["log_mean"], before)


@every_module
def test_half_precision_is_that_of_its_values(name):
    """bfloat16 features: one rounding of gradients, as the same values in float64 give them."""
    module, wide = MODULES[name](), MODULES[name]()
    x, y, index = batch(dtype=torch.bfloat16)
    a, b = (z.detach().double().requires_grad_() for z in (x, y))
    found, truth = (torch.autograd.grad(m(*z, index), z) for m, z in ((module, (x, y)), (wide, (a, b))))
    torch.testing.assert_close(module.state["log_mean"], wide.state["log_mean"], rtol=1e-5, atol=1e-5)
    for f, t in zip(found, truth, strict=True):
        assert f.dtype == torch.bfloat16
        torch.testing.assert_close(f.double(), t, rtol=0.0, atol=2**-8 * t.abs().max().item())


@every_module
def test_gradients_scale_and_are_formed_once(name):
    module = MODULES[name]().eval()
    x, y, index = batch(dtype=torch.float32)
    one, three = (torch.autograd.grad(f * module(x, y, index), x)[0] for f in (1.0, 3.0))
    torch.testing.assert_close(3.0 * one, three)
    (slope,) = torch.autograd.grad(module(x, y, index), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        slope.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        inside = module(x, y, index)
    assert torch.equal(inside, module(x, y, index))
    assert torch.equal(torch.autograd.grad(inside, x)[0], one)


@every_module
@pytest.mark.parametrize("n", [0, 1])
def test_without_negatives_the_loss_is_zero_and_nothing_is_kept(name, n):
    module = MODULES[name]()
    before = state(module)
    x, y, index = batch(n)
    loss = module(x, y, index)
    loss.backward()
    assert loss == 0 and not x.grad.any() and same(state(module), before)


def test_a_row_that_is_not_finite_leaves_the_state_of_its_sample():
    module = MODULES["iSogCLR"]()
    x, y, index = batch()
    before = module.state["log_mean"].clone()
    bad = x.detach().clone()
    bad[2] = float("nan")
    module(bad, y, index)
    kept = module.state["log_mean"][:, index]
    assert torch.equal(kept[0, 2], before[0, index[2]]) and not kept.isnan().any()
    assert not module.state["temperature"].isnan().any()


REFUSED = {
    "index out of range": (
        dict(index=torch.tensor([0, 1, 24, 2, 3, 4])),
        ValueError,
        "from 0 to 23.*got 24 at place 2",
    ),
    "negative index": (
        dict(index=torch.tensor([0, 1, 5, 2, -3, 4])),
        ValueError,
        "index must be from .*got -3 at place 4",
    ),
    "index of another size": (dict(index=torch.arange(5)), ValueError, r"index must have shape \(6,\)"),
    "index that is no integer": (dict(index=torch.arange(6.0)), TypeError, "index must be int64"),
    "index that is no tensor": (dict(index=[0, 1, 2, 3, 4, 5]), TypeError, r"index must be a torch\.Tensor"),
    "features of another shape": (dict(y=torch.zeros(5, D)), ValueError, "text_features must have the shape"),
    "features that are integers": (dict(y=torch.zeros(6, D).long()), TypeError, "text_features must be float32"),
    "features of one dimension": (dict(x=torch.zeros(6)), ValueError, "image_features must have shape"),
    "a backend that is none": (dict(backend="none"), ValueError, "backend must be one of"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["iSogCLR", "FastCLIP-v3"])
def test_bad_input_is_refused_and_changes_nothing(name, case):
    changed, error, message = REFUSED[case]
    module = MODULES[name]()
    x, y, index = batch()
    module(x, y, index)
    before = state(module)
    if "backend" in changed:
        module.backend = changed["backend"]
    given = dict(x=x, y=y, index=index) | {k: v for k, v in changed.items() if k != "backend"}
    with pytest.raises(error, match=message):
        module(*given.values())
    assert same(state(module), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SogCLR(0), "samples must be an int >= 1, got 0"),
        (lambda: SogCLR(4, gamma=0.0), "gamma must be finite and > 0"),
        (lambda: SogCLR(4, gamma=1.5), "gamma must be between 0 and 1, got 1.5"),
        (lambda: SogCLR(4, gamma_epochs=-1), "gamma_epochs must be an int >= 0"),
        (lambda: SogCLR(4, temperature=0.0), "temperature must be finite and > 0"),
        (lambda: SogCLR(4, unimodal=True, include_positive=True), "include_positive must be False with unimodal=True"),
        (lambda: SogCLR(4).set_epoch(-1), "epoch must be an int >= 0"),
        (lambda: ISogCLR(4, temperature=0.001), "temperature must be between t_min = 0.005 and t_max = 1"),
        (lambda: ISogCLR(4, eta=0.0), "eta must be finite and > 0"),
        (lambda: ISogCLR(4, clip=-1.0), "clip must be finite and > 0"),
        (lambda: ISogCLR(4, beta=2.0), "beta must be between 0 and 1"),
        (lambda: FastCLIP(4, "v4"), "version must be one of 'v0', 'v1', 'v2', 'v3', got 'v4'"),
        (lambda: FastCLIP(4, "v1", rho=1.0), "rho must be None with version='v1'"),
        (lambda: FastCLIP(4, "v3", eta=1.0), "eta must be None with version='v3'"),
        (lambda: FastCLIP(4, max_scale=0.0), "max_scale must be finite and > 0"),
        (lambda: SogCLR(4).load_state_dict(SogCLR(5).state_dict()), r"log_mean must have shape \(2, 4\), got \(2, 5\)"),
        (lambda: SogCLR(4).load_state_dict({}), "Missing key"),
        (lambda: SogCLR(4).load_state_dict(ISogCLR(4).state_dict()), "Unexpected key"),
    ],
)
def test_bad_options_are_refused_by_name(make, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        make()


def test_a_state_that_does_not_fit_is_not_half_loaded():
    source, module = MODULES["iSogCLR"](), MODULES["iSogCLR"]()
    source(*batch())
    broken = state(source)
    broken["state.temperature"] = torch.ones(2, 3)
    before = state(module)
    with pytest.raises(RuntimeError, match=r"state\.temperature must have shape"):
        module.load_state_dict(broken)
    assert same(state(module), before)


@every_module
def test_a_compiled_model_calls_them_as_they_are(name):
    module, eager = MODULES[name](), MODULES[name]()
    x, y, index = batch(dtype=torch.float32)

    @torch.compile(backend="eager")
    def step(x, y, index):
        return module(2.0 * x, y, index) + 1.0

    for _ in range(2):
        found, truth = step(x, y, index), eager(2.0 * x, y, index) + 1.0
        assert torch.equal(found, truth)
        assert torch.equal(torch.autograd.grad(found, x)[0], torch.autograd.grad(truth, x)[0])
    assert same(state(module), state(eager))


@every_module
def test_no_device_is_waited_for(name):
    """Nothing reads a value back; the meta device stands for any GPU."""

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function.name() != "aten::_local_scalar_dense" or not args[0].is_meta
            return function(*args, **(kwargs or {}))

    module = MODULES[name]().to("meta")
    x, y, index = (z.detach().to("meta") for z in batch())
    with Reads():
        module(x.requires_grad_(), y, index).backward()
    assert x.grad.is_meta and module.state["log_mean"].is_meta


def test_what_cannot_follow_a_state_is_refused():
    module = MODULES["SogCLR"]()
    x, y, index = batch(dtype=torch.float32)
    with pytest.raises(RuntimeError, match="SogCLR cannot be exported"):
        torch.export.export(module, (x, y, index))
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.func.grad(lambda a: module(a, y, index))(x)
    assert (module.state["log_mean"] == -torch.inf).all()


def test_cached_backward_is_one_visit():
    module, whole, encoder = MODULES["iSogCLR"](), MODULES["iSogCLR"](), torch.nn.Linear(D, D).double()
    x, y, index = batch()
    cached_backward(encoder, [x.detach().split(4), y.detach().split(4)], lambda a, b: module(a, b, index))
    found, encoder.weight.grad = encoder.weight.grad, None
    whole(encoder(x), encoder(y), index).backward()
    torch.testing.assert_close(found, encoder.weight.grad)
    assert same(state(module), state(whole))


def test_a_temperature_that_learns_comes_back_within_its_bound():
    module = FastCLIP(SAMPLES, temperature=0.02, max_scale=50.0)
    x, y, index = batch()
    with torch.no_grad():
        module.log_temperature -= 1.0
    module(x, y, index).backward()
    assert module.log_temperature.exp().item() == pytest.approx(0.02) and module.log_temperature.grad != 0


@every_module
def test_no_scores_of_all_pairs_are_kept(name):
    """What autograd holds between forward and backward is of the size of the features."""
    held = weakref.WeakSet()

    class Held:
        def __init__(self, x):
            self.x = x
            held.add(self)

    x, y = (F.normalize(torch.randn(64, 8), dim=1).requires_grad_() for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda h: h.x):
        loss = MODULES[name]()(x, y, torch.arange(64) % SAMPLES)
    gc.collect()
    assert 0 < max(h.x.numel() for h in held) <= 64 * 8
    loss.backward()
