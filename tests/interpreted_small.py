"""Small calls of the triton backend: what Python does, and what calls share. Run by test_interpreted_small.py."""

from __future__ import annotations

import ctypes
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile
from triton.runtime.interpreter import GridExecutor, InterpretedFunction

import contrastile
from contrastile.backends import base, triton_kernel, triton_plan, triton_small
from contrastile.replay import CACHES
from support import launches

PACKAGE = str(Path(contrastile.__file__).parent)


# functions of the package that a replayed step enters, and operations of torch but for those within others
MOST = {
    "clip_loss": (39, 13), "info_nce": (39, 17), "siglip_loss": (39, 13), "nt_xent": (39, 23), "sup_con": (39, 43),
}  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """The plans that were made."""
    found, make = [], triton_plan.Plan.__init__
    monkeypatch.setattr(triton_plan.Plan, "__init__", lambda plan, *given: (found.append(plan), make(plan, *given))[1])
    return found


def rows(n, d, dtype=torch.float32, seed=0):
    found = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return F.normalize(found, dim=1).to(dtype).requires_grad_()


def entered(step):
    """How many functions of the package a step enters, and of scripts."""
    count = 0

    def look(frame, event, argument):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith((PACKAGE, "<string>"))

    sys.setprofile(look)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


def operations(step):
    """Operations of torch, but for those within another."""
    with profile() as seen:
        step()
    every = [x for x in seen.events() if x.name.startswith("aten::")]
    inner = {id(x) for event in every for x in event.cpu_children}
    return [x.name for x in every if id(x) not in inner]


@pytest.fixture
def compiled(monkeypatch):
    """Kernels that were compiled and do nothing: how often they are launched."""
    hooks = SimpleNamespace(launch_enter_hook=None, launch_exit_hook=None)
    active = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 7)
    monkeypatch.setattr(triton_kernel, "of_triton", lambda: (hooks, SimpleNamespace(active=active)))
    log = []
    monkeypatch.setattr(InterpretedFunction, "pre_run_hooks", [], raising=False)
    monkeypatch.setattr(GridExecutor, "__call__", lambda *given, **named: Compiled(log))
    return log


@pytest.mark.parametrize("name", MOST)
def test_a_replayed_step_does_little_on_the_host(name, compiled):
    """Where launches take no time, that is what a small batch costs."""
    x, y, scale = rows(24, 8), rows(24, 8, seed=1), torch.tensor(10.0, requires_grad=True)

    def step(loss, **options):
        x.grad = y.grad = scale.grad = None
        loss(x, y, scale, **options).backward()

    ours = partial(step, launches.LOSSES[name], backend="triton")
    for _ in range(3):  # the second is recorded
        ours()
    compiled.clear()
    calls, found = entered(ours), operations(ours)
    assert len(compiled) == 2 * (2 if name == "siglip_loss" else 3)
    most, most_operations = MOST[name]
    assert calls <= most and len(found) <= most_operations, (calls, found)
    assert len(found) < len(operations(partial(step, launches.EAGER[name])))


def clip(x, y, scale=10.0, **options):
    """The loss and its gradients; on the torch backend for comparison."""
    found = []
    for backend in ("triton", "torch"):
        given = [z.detach().requires_grad_(z.requires_grad) for z in (x, y)]
        loss = contrastile.clip_loss(*given, scale, backend=backend, **options)
        loss.backward()
        found.append([loss.detach(), *(z.grad for z in given if z.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2 if x.dtype != torch.float32 else 1e-4, atol=1e-5)


class Again:
    """What Triton would have made of a kernel: it takes addresses where the first launch had tensors."""

    function, packed_metadata = 1, ()

    def __init__(self, launch, executor, first):
        self.launch, self.executor, self.first = launch, executor, first
        self.names = executor.arg_names

    def __getitem__(self, grid):
        raise AssertionError("nobody watches launches")

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *values):
        assert (x, y, z) == self.executor.grid and stream == 7
        given = {name: at(value, self.first[name]) for name, value in zip(self.names, values, strict=True)}
        self.launch(self.executor, **self.first | given)


def at(value, first):
    if isinstance(first, tuple):
        return type(first)(*map(at, value, first))
    if not isinstance(first, torch.Tensor):
        assert isinstance(first, float) or value == first
        return value
    memory = (ctypes.c_char * first.nbytes).from_address(value)
    return torch.frombuffer(memory, dtype=first.dtype).view(first.shape)


@pytest.fixture
def replayed(monkeypatch):
    """Every launch but the first of a kernel is one of a script, which the interpreter does: their names."""
    hooks = SimpleNamespace(launch_enter_hook=None, launch_exit_hook=None)
    active = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 7)
    monkeypatch.setattr(triton_kernel, "of_triton", lambda: (hooks, SimpleNamespace(active=active)))
    monkeypatch.setattr(InterpretedFunction, "pre_run_hooks", [], raising=False)
    names, launch, run = [], GridExecutor.__call__, Again.run

    def first(executor, **named):
        launch(executor, **named)
        return Again(launch, executor, named)

    monkeypatch.setattr(GridExecutor, "__call__", first)
    monkeypatch.setattr(Again, "run", lambda x, *given: (names.append(x.executor.fn.__name__), run(x, *given))[1])
    return names


def problem(n, m, dtype, shifted, **options):
    """Rows and columns that begin at multiples of 16 bytes, or do not."""
    g = torch.Generator().manual_seed(n)
    sizes = {"row_bias": n, "col_bias": m, "col_scale": m, "scale": n}
    given = {name: torch.rand(sizes[name], generator=g) if x is ... else x for name, x in options.items()}
    if given.get("mask"):
        given["mask"] = torch.rand(n, m, generator=g) > 0.2
    features = [torch.randn(size, 8, generator=g) / 3 for size in (n, m)]
    features = [torch.cat([torch.zeros(shifted), x.flatten()])[shifted:].view(x.shape).to(dtype) for x in features]
    return [x.requires_grad_() for x in features], given


KINDS = [
    {"cols": True, "col_weight": 0.5},
    {"positives": "same_index", "row_positive_weight": -1.0, "scale": ..., "col_scale": ..., "mask": True},
    {
        "reduce": "softplus",
        "positives": "same_index",
        "row_bias": ...,
        "col_bias": ...,
        "cols": True,
        "col_weight": 1.0,
    },
    {"positives": "same_index", "cross_entropy": True, "keep": "other_index", "row_bias": ...},
    {"score": "distance", "row_bias": ..., "col_bias": ...},
]


@pytest.mark.parametrize(
    "kind, n, dtype",
    [
        *((kind, 24, torch.float32) for kind in range(len(KINDS))),
        (0, 24, torch.float16),
        pytest.param(0, 300, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_scripts_hand_over_what_the_first_launch_did(kind, n, dtype, replayed):
    """Tensors may begin elsewhere in 16 bytes: a plan of its own. Of 300 rows several programs add up."""
    for shifted in (0, 1):
        found = []
        for clear in (False, False, True):  # the second is by script, the third the same by first launches
            if clear:
                triton_small.plans.cache_clear()
                CACHES.clear()
            replayed.clear()
            inputs, options = problem(n, n + 6, dtype, shifted, **KINDS[kind])
            inputs += [x.requires_grad_() for x in options.values() if isinstance(x, torch.Tensor) and x.dim() == 1]
            value = contrastile.pair_loss(*inputs[:2], backend="triton", **options)
            found.append([value, *torch.autograd.grad(value, inputs), len(replayed)])
        (_, *script), (_, *first) = found[1:]
        assert script.pop() == (2 if options.get("reduce") else 3) and first.pop() == 0
        assert all(map(torch.equal, script, first)) and torch.equal(found[1][0], found[2][0])


@pytest.mark.parametrize("name", MOST)
def test_replayed_losses_are_right(name, replayed):
    for seed in range(4):
        given = [rows(24, 8, seed=seed), rows(24, 8, seed=seed + 9), torch.tensor(2.0 + seed, requires_grad=True)]
        found = []
        for backend in ("triton", "torch"):
            value = launches.LOSSES[name](*given, backend=backend)
            found.append([value, *torch.autograd.grad(value, given)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(replayed) == 3 * (2 if name == "siglip_loss" else 3)


def test_calls_of_one_kind_share_a_plan(made):
    """Numbers may change; values are those of the call at hand."""
    for seed, scale in enumerate((10.0, 3.0, torch.tensor(7.0))):
        clip(rows(9, 6, seed=seed), rows(9, 6, seed=seed + 5), scale)
    assert len(made) == 1


def test_calls_of_other_kinds_do_not(made):
    """Sizes, types, options, wanted gradients, the place in 16 bytes of a number of one side."""
    x, y, shifted = rows(9, 8), rows(9, 8, seed=1), torch.zeros(9 * 8 + 1)[1:].view(9, 8)
    ids = torch.arange(9) // 2
    shifted.copy_(x.detach())
    cases = [
        ((x, y), {}),
        ((rows(8, 8), rows(8, 8, seed=1)), {}),
        ((rows(9, 7), rows(9, 7, seed=1)), {}),
        ((rows(9, 8, torch.float16), rows(9, 8, torch.float16, seed=1)), {}),
        ((x.detach(), y), {}),
        ((shifted.requires_grad_(), y), {}),
        ((x, y), {"image_ids": ids, "text_ids": ids}),
        ((x, y), {"scale": torch.linspace(1.0, 9.0, 9)}),
    ]
    for given, options in cases * 2:
        clip(*given, **options)
    assert len(made) == len(cases)


def test_plans_are_forgotten():
    x = rows(1, 2)
    for n in range(1, triton_small.KINDS + 10):
        triton_small.plans((n,), ())
    assert triton_small.plans.cache_info().currsize == triton_small.KINDS
    clip(x, rows(1, 2, seed=1))


@pytest.mark.parametrize("reduce, positives, keep_positives", [
    ("lse", "same_index", False), ("lse", "same_index", True), ("softplus", "same_index", False), ("relu", None, False),
])  # fmt: skip
def test_one_number_weighs_like_as_many_as_there_are_items(reduce, positives, keep_positives):
    x, y = rows(40, 6), rows(50, 6, seed=1)
    weights = {"row_weight": 0.5, "col_weight": 0.25}
    if positives:
        weights |= {"row_positive_weight": -0.5, "col_positive_weight": -0.25}
    found = []
    sizes = {"row": 40, "col": 50}
    for given in (weights, {name: torch.full((sizes[name[:3]],), x) for name, x in weights.items()}):
        loss = contrastile.pair_loss(
            x, y, reduce=reduce, keep="other_index", positives=positives, keep_positives=keep_positives, cols=True,
            backend="triton", **given,
        )  # fmt: skip
        found.append([loss, *torch.autograd.grad(loss, (x, y))])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reduce", ["lse", "softplus"])
def test_values_alone(reduce, monkeypatch):
    """Without gradients there are no score gradients; more items than one program finishes."""
    x, y = rows(300, 4).detach(), rows(270, 4, seed=1).detach()
    options = {"reduce": reduce, "cols": True, "col_weight": 1.0}
    monkeypatch.setattr(triton_plan.Plan, "gradients", None)
    one, other = (contrastile.pair_loss(x, y, backend=name, **options) for name in ("triton", "torch"))
    torch.testing.assert_close(one, other)


def test_what_is_not_done_at_once_is_done_in_steps(made, monkeypatch):
    monkeypatch.setattr(base, "SMALL_PAIRS", 80)
    clip(rows(9, 6), rows(9, 6, seed=1))
    assert not made


def test_a_script_runs_on_its_tensors_device_and_torchs_stream(monkeypatch):
    """Whatever device is current."""
    log, plan = [], object.__new__(triton_plan.Plan)
    plan.kernels, plan.device, plan.script = [], torch.device("cuda", 1), lambda *given: log.append(given)
    hooks = SimpleNamespace(launch_enter_hook=None, launch_exit_hook=None)
    current = [1]
    active = SimpleNamespace(get_current_device=lambda: current[0], get_current_stream=lambda device: 10 * device)
    monkeypatch.setattr(triton_kernel, "of_triton", lambda: (hooks, SimpleNamespace(active=active)))
    monkeypatch.setattr(triton_plan, "on_device", lambda device: (log.append(device), nullcontext())[1])
    plan("given", "places", "numbers")
    current[0] = 0
    plan("given", "places", "numbers")
    call = ("given", "places", "numbers", 10)
    assert log == [call, plan.device, call]


class Function:
    """A Triton kernel that notes its launches."""

    arg_names = ("A", "n", "B", "SIZE")

    def __init__(self):
        self.pre_run_hooks, self.log = [], []

    def __getitem__(self, grid):
        def launch(*given, **named):
            assert not given
            self.log.append(("first", grid, named))
            return Compiled(self.log)

        return launch


class Compiled:
    """What Triton made of it, with its launcher."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, log):
        self.log = log

    def __getitem__(self, grid):
        return lambda *given: self.log.append(("watched", grid, given))

    def run(self, *given):
        self.log.append(("again", *given))


def test_a_kernel_is_looked_for_once(monkeypatch):
    """Its arguments are then given to Triton's launcher in its own order, with all that is the same of every launch."""
    hooks = SimpleNamespace(launch_enter_hook=None, launch_exit_hook=None)
    active = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: f"stream of {device}")
    monkeypatch.setattr(triton_kernel, "of_triton", lambda: (hooks, SimpleNamespace(active=active)))
    function = Function()
    kernel = triton_kernel.Kernel(function, (3,), {"SIZE": 8, "n": 5}, {"num_warps": 4})
    kernel({"B": "b"})
    assert kernel.direct
    kernel({"B": 1, "A": 2})
    hooks.launch_exit_hook = print  # those who watch launches see these, too
    kernel({"B": 1, "A": 2})
    assert function.log == [
        ("first", (3, 1, 1), {"A": None, "n": 5, "B": "b", "SIZE": 8, "num_warps": 4}),
        ("again", 3, 1, 1, "stream of 0", "function", "metadata", None, None, None, 2, 5, 1, 8),
        ("watched", (3, 1, 1), (2, 5, 1, 8)),
    ]
    function.pre_run_hooks.append(print)  # Triton runs them
    kernel({"B": "b"})
    assert not kernel.direct and function.log[-1][0] == "first"
