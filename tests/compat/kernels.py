"""memeff's, inf_cl's and siglip_kernel's own kernels in Triton's interpreter, on the CPU: do the formulas state them?

The mode is chosen when Triton is imported, so these tests have a process of their own; test_memeff.py, test_inf_cl.py
and test_siglip_kernel.py start it. What those packages ask of CUDA is answered for them: the compute capability, the
check that tensors lie on a GPU, and inf_cl's assembler instruction, a rounding to TF32, which is left out. Kernels that
tune themselves on the device (autotune) or need streams do not run here.
"""

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import contrastile.compat.inf_cl
import contrastile.compat.memeff
import contrastile.compat.siglip_kernel

from . import kernel_formulas as formulas
from .dropins import assert_trains_alike, correlated

assert os.environ["TRITON_INTERPRET"] == "1" and os.environ["MEMEFF_INPUT_PRECISION"] == "ieee"


@cache
def memeff():
    package = import_module("memeff")
    for name, module in list(sys.modules.items()):
        if name.startswith("memeff.") and hasattr(module, "_validate_features"):
            module._validate_features = lambda x, y: None  # asks for CUDA tensors
    return package


@cache
def inf_cl():
    """flash.py without its assert statements, which ask for CUDA tensors."""
    from triton.runtime.interpreter import InterpreterBuilder

    def first_operand(self, asm, constraints, values, *_):
        assert "cvt.rna.tf32" in asm
        return SimpleNamespace(get_result=lambda index: values[index])

    InterpreterBuilder.create_inline_asm = first_operand
    path = Path(find_spec("inf_cl").submodule_search_locations[0]) / "flash.py"
    module = ModuleType("inf_cl_flash")
    module.__file__ = str(path)
    sys.modules["inf_cl_flash"] = module
    exec(compile(path.read_text(), path, "exec", optimize=1), vars(module))
    return module


@pytest.fixture(autouse=True)
def capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))


def outcome(function, tensors, dtype=torch.float32):
    leaves = [x.detach().to(dtype).requires_grad_() for x in tensors]
    value = function(*leaves)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    (value * weight).sum().backward()
    return [value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


def assert_states(formula, kernel, drop_in, tensors):
    """The kernel is the formula in float32, and the drop-in is the kernel; relative to each result's largest entry."""
    truth = outcome(formula, tensors, torch.float64)
    for function in (kernel, drop_in):
        for found, true in zip(outcome(function, tensors), truth, strict=True):
            assert (found - true).abs().max() <= 3e-5 * true.abs().max() + 1e-7


# ---- memeff

SMOOTHED, PRIOR, STABLE = ({"label_smoothing": 0.1}, {"tau_plus": 0.05}, {"stable": False})
COMMON = [{}, SMOOTHED, PRIOR, STABLE, SMOOTHED | PRIOR | STABLE]
QWEN3 = [{"use_qq_negatives": qq, "use_dd_negatives": dd} for qq, dd in product((False, True), repeat=2)]
CASES = [
    *(("CLIP", False, options) for options in COMMON),
    *(("LiT", False, options) for options in COMMON),
    *(("Qwen3", hard, a | b) for a, b, hard in product(COMMON[::2], QWEN3, (False, True))),
    *(("LiTQwen3", hard, a | {"use_qq_negatives": qq}) for a, qq, hard in product(COMMON[::2], (False, True), (0, 1))),
    ("Qwen3", True, {"margin": 2.0}),
    ("Qwen3", True, {"margin": 0.01, "temperature": 0.2}),
]


def memeff_features(hard, n=17, d=32):
    return correlated([(n, d), (n, d), *([(n, 3, d)] if hard else [])], noise=1.6)


def assert_memeff(cls, name, tensors, options, **call):
    formula = lambda *x: formulas.memeff_loss(name, *x, **options | call)  # noqa: E731
    pair = [lambda *x, m=m: getattr(m, cls)(**options)(*x, **call) for m in (memeff(), contrastile.compat.memeff)]
    assert_states(formula, *pair, tensors)


@pytest.mark.parametrize(("name", "hard", "options"), CASES, ids=str)
def test_memeff(name, hard, options):
    assert_memeff(f"MemoryEfficient{name}Loss", name, memeff_features(hard), options)


@pytest.mark.parametrize("name", ["CLIP", "LiT", "Qwen3", "LiTQwen3"])
def test_memeff_of_priors_per_row_and_of_one_process(name):
    priors = torch.linspace(0.0, 0.2, 17)
    assert_memeff(f"MemoryEfficient{name}Loss", name, memeff_features(False), {}, tau_plus=priors)
    assert_memeff(f"DistributedMemoryEfficient{name}Loss", name, memeff_features(False), {"tau_plus": 0.1})


@pytest.mark.parametrize("options", [{}, SMOOTHED | PRIOR | STABLE | {"weights": (0.5, 2.0)}], ids=str)
@pytest.mark.parametrize("name", ["CLIP", "LiT", "Qwen3", "LiTQwen3"])
def test_memeff_matryoshka(name, options):
    features = memeff_features(name.endswith("Qwen3"), 9, 128)
    assert_memeff(f"MemoryEfficientMatryoshka{name}Loss", name, features, options | {"dims": (64, 128)})


def test_memeff_matryoshka_wrapper():
    options = {"dims": (16, 32), "weights": (0.5, 2.0)}
    pair = [
        lambda *x, m=m: m.MatryoshkaLoss(m.MemoryEfficientQwen3Loss(), **options)(*x)
        for m in (memeff(), contrastile.compat.memeff)
    ]
    assert_states(lambda *x: formulas.memeff_loss("Qwen3", *x, **options), *pair, memeff_features(True))


@pytest.mark.parametrize("name", ["CLIP", "Qwen3"])
def test_memeff_in_a_training(name):
    """Their defaults, so with gradients scaled by stable=True, in Adam, which does not mind."""

    def with_padding(module):  # their kernels want a width that is a power of two
        loss = getattr(module, f"MemoryEfficient{name}Loss")()
        return lambda features, _: loss(*(torch.nn.functional.pad(x, (0, 4)) for x in features))

    found = [with_padding(module) for module in (contrastile.compat.memeff, memeff())]
    assert_trains_alike(*found, 2, torch.float32, 2e-4)


# ---- inf_cl


@pytest.mark.parametrize(
    ("n", "m", "d", "labels", "scale"),
    [(64, 64, 256, False, None), (64, 64, 256, False, 5.0), (40, 70, 512, True, 5.0), (17, 17, 32, False, 10.0)],
)
def test_inf_cl(n, m, d, labels, scale):
    q, k = (torch.nn.functional.normalize(x, dim=1) for x in correlated([(n, d), (m, d)]))
    labels = torch.randint(0, m, (n,)) if labels else None
    scales = [] if scale is None else [torch.tensor(scale)]

    def call(function, head_dim):
        return lambda q, k, scale=None: function(q, k, labels, scale, head_dim)

    pair = [call(module.cal_flash_loss, min(d, 256)) for module in (inf_cl(), contrastile.compat.inf_cl)]
    formula = lambda q, k, scale=1.0: formulas.cal_flash_loss(q, k, labels, scale)  # noqa: E731
    assert_states(formula, *pair, [q, k, *scales])


# ---- siglip_kernel


def siglip_features(n, m, d=32):
    features = (torch.nn.functional.normalize(x, dim=1) for x in correlated([(n, d), (m, d)]))
    return [*features, torch.tensor(2.3), torch.tensor(-4.0)]


def siglip_pair(name, *args, **options):
    package = import_module("siglip_kernel")
    modules = (package, contrastile.compat.siglip_kernel)
    return [lambda *x, m=m: getattr(m, name)(*x, *args, **options) for m in modules]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fused_siglip_loss", {"backend": "chunked_bf16"}),
        ("fused_siglip_loss", {"backend": "chunked"}),
        ("fused_siglip_loss", {"backend": "reference"}),
        ("chunked_siglip_loss", {"chunk_size": 5}),
        ("fully_fused_siglip_loss", {"autotune": False}),
        ("fused_chunked_bf16_siglip_loss", {}),
        ("fused_chunked_bf16_siglip_loss", {"diag_offset": 3}),
        ("fused_chunked_bf16_siglip_loss", {"diag_offset": -3, "chunk_size": 4}),
        ("fused_chunked_bf16_siglip_loss", {"diag_offset": None}),
    ],
    ids=str,
)
def test_siglip_kernel(name, options):
    offset = options.get("diag_offset", 0)
    formula = lambda *x: formulas.siglip_loss(*x, diag_offset=offset)  # noqa: E731
    assert_states(formula, *siglip_pair(name, **options), siglip_features(17, 17))


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("soft_label", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_siglip_kernel_plus(symmetric, soft_label, groups):
    ids = (torch.arange(11) % 4, torch.arange(25) % 6) if groups else (None, None)
    options = {"symmetric": symmetric, "soft_label": soft_label}
    for number in (None, 7) if groups else (None,):
        pair = siglip_pair("fused_siglip_plus_loss", *ids, **options, num_groups=number)
        formula = lambda *x: formulas.siglip_plus_loss(*x, *ids, **options)  # noqa: E731
        assert_states(formula, *pair, siglip_features(11, 25))


def test_siglip_kernel_modules():
    ids = torch.arange(11) % 4, torch.arange(25) % 6
    ours, theirs = contrastile.compat.siglip_kernel, import_module("siglip_kernel")
    x = [3 * f for f in siglip_features(11, 25)[:2]]
    for name, options in product(
        ("SigLIPPlusLoss", "DistributedSigLIPPlusLoss"),
        ({}, {"use_bias": False, "symmetric": False, "soft_label": True}),
    ):
        modules = [getattr(m, name)(temperature=0.2, bias_init=-3.0, **options) for m in (theirs, ours)]
        assert list(modules[0].state_dict()) == list(modules[1].state_dict())
        results = []
        for module in modules:
            leaves = [f.float().requires_grad_() for f in x]
            found = module(leaves, *ids)
            found["total_loss"].backward()
            results.append([*found.values(), *(f.grad for f in leaves), *(p.grad for p in module.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)
    pair = [m.DistributedSigLIPLoss() for m in (theirs, ours)]
    formula = lambda a, b, s, c: formulas.siglip_loss(a, b, s.log(), c)  # noqa: E731
    assert_states(formula, *pair, siglip_features(17, 17))


def test_siglip_kernel_in_a_training():
    def of(module):
        bias = torch.tensor(-2.0)
        return lambda features, log_scale: module.fused_chunked_bf16_siglip_loss(*features, log_scale, bias)

    pair = [of(module) for module in (contrastile.compat.siglip_kernel, import_module("siglip_kernel"))]
    assert_trains_alike(*pair, 2, torch.float32, 2e-5)
