"""Recorded calls are what they were recorded from, and are made anew where anything differs that they depend on."""

import gc
import threading
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import contrastile
from contrastile import reference
from contrastile.backends import native
from contrastile.catalog import CATALOG
from contrastile.ops import check
from contrastile.replay import CACHES, as_one_step, cache, recorded_call
from support.loss_cases import differentiable, id_of, leaves, takes

needs_cpu_module = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")


def calls_of(function):
    return CACHES[function.__wrapped__]


def recorded(function):
    """How many kinds of its calls have a recording."""
    return sum(kind is not None and kind.recorded is not None for kind in calls_of(function).kinds.values())


def rows(n=6, d=8, seed=0, dtype=torch.float32):
    found = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return F.normalize(found, dim=1).to(dtype).requires_grad_()


def step(function, inputs, *args, **kwargs):
    """The value and its gradients."""
    value = function(*args, **kwargs)
    return [value.detach(), *torch.autograd.grad(value.sum(), inputs, allow_unused=True)]


def assert_same(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert (x is None and y is None) or torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))


# ---- the same to the bit

CASES = [
    pytest.param(card, variant, marks=() if index == 0 else pytest.mark.slow)
    for card in CATALOG
    for index, variant in enumerate(card.variants)
]
# plain torch, or an operation without gradient within one that has it
NOT_RECORDED = ("fdt_loss", "alignment", "cosine_loss")


@pytest.mark.parametrize("card, variant", CASES, ids=id_of)
def test_a_recording_is_its_call(card, variant):
    for seed in range(4):
        made = card.variants[variant](9, 5, torch.Generator().manual_seed(seed), torch.float32)
        case = differentiable(made)
        found, expected = (
            (torch.manual_seed(seed), step(function, leaves(case), *case.args, **case.kwargs))[1]
            for function in (card.function, card.function.__wrapped__)
        )
        assert_same(found, expected)
    if variant == next(iter(card.variants)):
        assert recorded(card.function) == (card.name not in NOT_RECORDED)


ON_TORCH = [
    pytest.param(card, marks=() if card.name in ("cwcl_loss", "m3el_loss") else pytest.mark.slow)
    for card in CATALOG
    if takes(card, "backend")
]


@pytest.mark.parametrize("card", ON_TORCH, ids=id_of)
def test_a_recording_is_its_call_on_another_backend(card):
    for seed in range(3):
        case = differentiable(
            next(iter(card.variants.values()))(9, 5, torch.Generator().manual_seed(seed), torch.float32)
        )
        found, expected = (
            (torch.manual_seed(seed), step(function, leaves(case), *case.args, **case.kwargs, backend="torch"))[1]
            for function in (card.function, card.function.__wrapped__)
        )
        assert_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_steps_are_right(dtype):
    """Against the dense form, of learned temperatures and other numbers in each step."""
    for seed in range(4):
        query, key = rows(seed=seed, dtype=dtype), rows(seed=seed + 9, dtype=dtype)
        temperature = torch.tensor(0.1 + 0.1 * seed, requires_grad=True)
        found = step(contrastile.info_nce, [query, key, temperature], query, key, temperature=temperature)
        wide = [x.detach().double().requires_grad_() for x in (query, key, temperature)]
        expected = step(reference.info_nce, wide, *wide[:2], temperature=wide[2])
        for x, y in zip(found, expected, strict=True):
            assert float((x.double() - y).norm()) <= (2**-7 if dtype == torch.bfloat16 else 1e-5) * float(y.norm())


def test_a_generator_draws_in_every_call():
    views, own = [rows(seed=seed) for seed in range(3)], [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(5):
        one, other = own
        found = contrastile.symile_loss(*views, logit_scale=2.0, generator=one)
        assert torch.equal(found, contrastile.symile_loss.__wrapped__(*views, logit_scale=2.0, generator=other))
        assert torch.equal(one.get_state(), other.get_state())
        own = own[::-1]  # not that of the recording
    assert recorded(contrastile.symile_loss) == 1


# ---- what is another kind of call


def other_calls():
    """Calls that differ from `clip_loss(a, b, 10.0)` in one thing."""
    a, b = rows(), rows(seed=1)
    wide = torch.zeros(6, 16)
    wide[:, ::2] = a.detach()
    return {
        "scale": (a, b, 11.0),
        "integer": (a, b, 10),
        "tensor": (a, b, torch.tensor(10.0)),
        "shape": (a[:5], b[:5], 10.0),
        "type": (a.detach().bfloat16().requires_grad_(), b, 10.0),
        "constant": (a.detach(), b, 10.0),
        "both constant": (a.detach(), b.detach(), 10.0),
        "strides": (wide[:, ::2].requires_grad_(), b, 10.0),
        "one tensor": (a, a, 10.0),
        "parameter": (torch.nn.Parameter(a.detach()), b, 10.0),
    }


@pytest.mark.parametrize("name", other_calls())
def test_other_arguments(name):
    for _ in range(3):
        contrastile.clip_loss(rows(), rows(seed=1), 10.0)
    args = other_calls()[name]
    inputs = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    for _ in range(3):
        found, expected = (f(*args) for f in (contrastile.clip_loss, contrastile.clip_loss.__wrapped__))
        assert torch.equal(found, expected)
        assert found.requires_grad == expected.requires_grad == bool(inputs)
        if inputs:
            grads = [torch.autograd.grad(x, inputs) for x in (found, expected)]
            assert_same(*grads)
            assert [x.dtype for x in grads[0]] == [x.dtype for x in inputs]


def test_no_grad():
    a, b = rows(), rows(seed=1)
    for _ in range(4):
        with torch.no_grad():
            assert not contrastile.clip_loss(a, b, 10.0).requires_grad
        assert contrastile.clip_loss(a, b, 10.0).requires_grad
    for _ in range(4):
        with torch.inference_mode():
            assert contrastile.clip_loss(a, b, 10.0).is_inference()
        assert contrastile.clip_loss(a, b, 10.0).requires_grad


def test_autocast():
    """Recordings neither compute in autocast's type nor keep what it made of their operations."""
    query, key = rows(), rows(seed=1)
    scale = torch.tensor(10.0, requires_grad=True)
    expected = contrastile.clip_loss.__wrapped__(query, key, scale)
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(contrastile.clip_loss(query, key, scale), expected)
        assert torch.equal(contrastile.clip_loss(query, key, scale), expected)


@needs_cpu_module
def test_wrong_arguments_are_refused_as_before():
    a, b = rows(), rows(seed=1)
    for _ in range(4):
        contrastile.clip_loss(a, b, 10.0)
    assert recorded(contrastile.clip_loss) == 1
    for args, kwargs in (
        ((a, b, float("nan")), {}), ((a, b[:3], 10.0), {}), ((a, b.int(), 10.0), {}), ((a, b, 10.0), {"reduction": 1}),
        ((a, b), {}), ((a, b, 10.0), {"unknown": 1}), ((a.detach().to_sparse(), b, 10.0), {}), ((a, [1, 2], 10.0), {}),
    ):  # fmt: skip
        for _ in range(3):
            with pytest.raises((TypeError, ValueError)):
                contrastile.clip_loss(*args, **kwargs)


class Watching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_who_watches_operators_sees_them():
    a, b = rows(), rows(seed=1)
    for _ in range(4):
        contrastile.clip_loss(a, b, 10.0)
    with Watching() as mode:
        contrastile.clip_loss(a, b, 10.0)
    assert any("contrastile.pair_loss" in name for name in mode.seen)


def test_second_derivatives():
    def penalty(loss, a, b):
        value = loss(a, b, temperature=0.2)
        (grad,) = torch.autograd.grad(value, a, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [a, b])

    for seed in range(4):
        a, b = rows(seed=seed, dtype=torch.float64), rows(seed=seed + 9, dtype=torch.float64)
        for x, y in zip(penalty(contrastile.info_nce, a, b), penalty(reference.info_nce, a, b), strict=True):
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-12)


def test_checkpoints_count_what_is_saved():
    """Recordings have the operations too that their result does not need."""
    card = next(card for card in CATALOG if card.name == "mil_nce")
    case = differentiable(next(iter(card.variants.values()))(9, 5, torch.Generator(), torch.float32))
    for _ in range(3):
        found = checkpoint(partial(card.function, **case.kwargs), *case.args, use_reentrant=False)
        expected = step(card.function.__wrapped__, leaves(case), *case.args, **case.kwargs)
        assert_same([found, *torch.autograd.grad(found, leaves(case))], expected)


@needs_cpu_module
def test_threads_share_recordings():
    a, b = rows(), rows(seed=1)
    expected, found = contrastile.clip_loss.__wrapped__(a, b, 10.0), []

    def run():
        found.extend(contrastile.clip_loss(a, b, 10.0) for _ in range(50))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(torch.equal(x, expected) for x in found)


@needs_cpu_module
def test_a_temperature_that_changes_at_each_call_does_not_fill_memory(monkeypatch):
    monkeypatch.setattr(cache, "MOST_KINDS", 8)
    a, b = rows(), rows(seed=1)
    for index in range(50):
        contrastile.info_nce(a, b, temperature=0.1 + index / 100)
        assert len(calls_of(contrastile.info_nce).kinds) <= 8


@pytest.mark.parametrize("name", ["info_nce", "gram_loss", "clip_distill_loss", "symile_loss"])
def test_recordings_hold_no_argument(name):
    """Neither the tensors they were recorded from, nor those of later calls."""
    card, held = next(card for card in CATALOG if card.name == name), []
    for _ in range(4):
        case = differentiable(next(iter(card.variants.values()))(9, 5, torch.Generator(), torch.float32))
        card.function(*case.args, **case.kwargs).backward()
        held += [weakref.ref(x) for x in leaves(case)]
        del case
    assert recorded(card.function) == 1
    gc.collect()
    assert not any(x() is not None for x in held)


@pytest.mark.parametrize("name", ["clip_loss", "info_nce", "siglip_loss", "nt_xent"])
def test_calls_of_the_cuda_backend_are_recorded(installed, name):
    card = next(card for card in CATALOG if card.name == name)
    for seed in range(4):
        made = next(iter(card.variants.values()))(9, 5, torch.Generator().manual_seed(seed), torch.float32)
        case = differentiable(made)
        found, expected = (
            step(function, leaves(case), *case.args, **case.kwargs, backend="cuda")
            for function in (card.function, card.function.__wrapped__)
        )
        assert_same(found, expected)
    assert recorded(card.function) == 1


# ---- what cannot be recorded


def engine(x):
    """Stands for a small call of the engine."""
    return as_one_step(torch.sum, x)


STATE = torch.zeros(3)
GENERATOR = torch.Generator()


def in_place(x):
    y = x * 2
    y.add_(1)
    return engine(y)


def without_gradient(x):
    with torch.no_grad():
        top = x.amax()
    return engine(x - top)


class Doubled(torch.autograd.Function):
    """With a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gout):
        return 5 * gout


def in_another_type(x):
    with torch.autocast("cpu", torch.bfloat16):
        return engine(x.outer(x) @ x.outer(x))


def of_another_tensor(x):
    return engine(x * STATE)


def step_in_another_type(x):
    with torch.autocast("cpu", torch.bfloat16):
        return as_one_step(lambda x: (x.outer(x) @ x.outer(x)).sum(), x)


def step_without_gradient(x):
    with torch.no_grad():
        total = engine(x)
    return engine(x) + total


def gradient_within(x):
    y = x.detach().requires_grad_()
    return engine(x * torch.autograd.grad(engine(y.square()), y)[0])


def after_an_error(x):
    """As where a decomposition fails on some numbers."""
    try:
        torch.linalg.cholesky(x.detach().outer(x.detach()) * x.detach().sum())
    except RuntimeError:
        x = -x
    return engine(x)


def twice_the_same(x):
    """As pair_stats of a square call has rows and columns."""
    first, same, *_ = as_one_step(lambda x: (x + 1, *[x.square()] * 3, x.exp(), 2 * x), x)
    return engine(first - same)


CALLS = {
    "a number is read": lambda x: engine(x * 2) if x.sum() > 0 else engine(x),
    "a list of numbers": lambda x: engine(x) * x.tolist()[0],
    "in place": in_place,
    "another tensor": of_another_tensor,
    "without gradient": without_gradient,
    "a function with its own gradient": lambda x: engine(Doubled.apply(x)),
    "autocast within": in_another_type,
    "no small call": lambda x: x.sum(),
    "two results": lambda x: (engine(x), engine(x)),
    "a place in memory": lambda x: engine(x) * (x.data_ptr() % 7),
    "much memory": lambda x: engine(x * torch.ones(1 << 20, 1)),
    "of no tensor": lambda x: engine(torch.ones(3)),
    "a step without gradient": step_without_gradient,
    "a step in another type": step_in_another_type,
    "a gradient within": gradient_within,
    "an error that is caught": after_an_error,
    "how many": lambda x: engine(x) * len(x[x > 0]),
    "how many places": lambda x: engine(x) * len((x > 0).nonzero()),
    "how many numbers": lambda x: engine(x) * len((x > 0).unique()),
    "a slice up to a number": lambda x: engine(x[: (x.detach() > 0).sum()]),
    "a generator": lambda x: engine(x * torch.rand(3, generator=GENERATOR.manual_seed(0))),
    "a place in constant memory": lambda x: (torch.empty(3).data_ptr(), engine(x))[1],
    "large tensors": lambda x: engine(x) * x[:1].expand((1 << 20) + 1)[-1],
}
RECORDED = {
    "operations": lambda x: engine((x[1:] * 2.0).square() + torch.arange(2)) / x.shape[0],
    "lists": lambda x: engine(torch.stack([x, x.detach()])),
    "several results": lambda x: engine(x.unbind()[1] + x.sort(descending=True)[0]),
    "random numbers": lambda x: (torch.rand(2), engine(x + torch.rand(3)))[1],
    "a function with its own gradient as a step": lambda x: as_one_step(Doubled.apply, x)[1],
    "a check": lambda x: (check.condition("positive", x > -9), engine(x))[1],
    "what is not needed": lambda x: (x.exp(), engine(x))[1],
    "one tensor in several places": twice_the_same,
    "a question about a constant": lambda x: engine(x) * float(torch.arange(3).sum()),
}


@pytest.mark.parametrize("name", CALLS | RECORDED)
def test_what_is_recorded(name):
    function = (CALLS | RECORDED)[name]
    for seed in range(5):
        x, results = torch.randn(3, generator=torch.Generator().manual_seed(seed), requires_grad=True), []
        for call in (partial(recorded_call, function, function, [x], {}), partial(function, x)):
            torch.manual_seed(3)
            found = call()
            results.append([found] if isinstance(found, torch.Tensor) else found)
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
            if other.requires_grad:
                assert_same(torch.autograd.grad(one, x), torch.autograd.grad(other, x))
    (kind,) = CACHES[function].kinds.values()
    assert (kind.recorded is not None) == (name in RECORDED)


def test_checks_of_numbers_are_made_in_every_call():
    calls = partial(recorded_call, RECORDED["a check"], RECORDED["a check"])
    for _ in range(4):
        calls([torch.ones(3)], {})
    with pytest.raises(ValueError, match="positive"):
        calls([torch.full((3,), -10.0)], {})


def test_a_refusal_shows_the_numbers_of_its_own_call():
    x, y = rows(4), rows(4, seed=1)
    for end in range(5):
        contrastile.segment_reduce(x, y, torch.tensor([0, end, 4]))
    assert recorded(contrastile.segment_reduce) == 1
    with pytest.raises(ValueError, match=r"got \[0, 7, 4\]"):
        contrastile.segment_reduce(x, y, torch.tensor([0, 7, 4]))


def test_a_tensor_of_another_call_is_not_kept():
    """What a function takes from elsewhere may change."""
    for value in range(4):
        STATE.fill_(value)
        found = recorded_call(of_another_tensor, of_another_tensor, [torch.ones(3)], {})
        assert float(found) == 3 * value
