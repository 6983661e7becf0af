"""contrastile.compat.memeff against the formulas of the package memeff, and those against its kernels (kernels.py)."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import memeff
from contrastile.compat.memeff.terms import class_prior
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS_AND_DTYPES

from .dropins import (
    DTYPES,
    assert_kernels_agree,
    assert_module,
    assert_same_signature,
    assert_saves_rows,
    assert_trains_alike,
    correlated,
)
from .kernel_formulas import memeff_loss

pytestmark = pytest.mark.peers

KINDS = ("CLIP", "LiT", "Qwen3", "LiTQwen3")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
COMMON = [
    {}, {"label_smoothing": 0.2}, {"tau_plus": 0.1}, {"stable": False}, {"normalized_inputs": True},
    {"label_smoothing": 0.1, "tau_plus": 0.05, "stable": False, "temperature": 0.2},
]  # fmt: skip
MORE = [
    {"use_qq_negatives": True}, {"use_dd_negatives": True}, {"margin": 2.0}, {"margin": 0.0},
    {"use_qq_negatives": True, "use_dd_negatives": True, "label_smoothing": 0.1, "tau_plus": 0.05, "margin": 0.02},
]  # fmt: skip
CASES = [
    (kind, hard, options)
    for kind in KINDS
    for options in (COMMON + MORE if kind.endswith("Qwen3") else COMMON)
    for hard in ((False, True) if kind.endswith("Qwen3") else (False,))
    if not (kind.startswith("LiT") and "use_dd_negatives" in options)
]
NAMES = [*(f"MemoryEfficient{kind}Loss" for kind in KINDS), *(f"MemoryEfficientMatryoshka{kind}Loss" for kind in KINDS)]


def loss_class(kind, form="MemoryEfficient"):
    return getattr(memeff, f"{form}{kind}Loss")


def ours(kind, options, **call):
    def loss(*features, backend="auto"):
        return loss_class(kind)(**options, backend=backend)(*features, **call)

    return loss


def features(n, d, hard, dtype=torch.float64, normalized=True):
    """Unit rows that resemble each other; not normalized: rows of lengths 1 to 2."""
    found = [F.normalize(x, dim=-1) for x in correlated([(n, d), (n, d), *([(n, 3, d)] if hard else [])], noise=1.6)]
    if not normalized:
        found = [x * (1.0 + torch.rand(*x.shape[:-1], 1, dtype=x.dtype)) for x in found]
    return [x.to(dtype) for x in found]


def case(n, d, hard, dtype, options):
    """stable=True multiplies gradients: the budget's scale / N is that much larger."""
    temperature = options.get("temperature", 0.07)
    factor = max(1.0, (n * temperature) ** 0.5) if options.get("stable", True) else 1.0
    x = features(n, d, hard, dtype, options.get("normalized_inputs", False))
    return Case(tuple(x), {}, factor / temperature)


@pytest.mark.slow  # the packages are of one version, and the tests below hold the drop-in against the formulas
@pytest.mark.interpret
def test_the_formulas_are_what_the_packages_kernels_compute():
    assert_kernels_agree("memeff")


@pytest.mark.parametrize("name", [*NAMES, *(f"Distributed{name}" for name in NAMES), "MatryoshkaLoss"])
def test_signatures_are_theirs(name):
    ours, theirs = (getattr(module, name) for module in (memeff, load("memeff")))
    assert_same_signature(ours, theirs)
    if "Matryoshka" not in name and "Distributed" not in name:
        assert_same_signature(ours.forward, theirs.forward)


def test_every_name_of_the_package_is_there():
    assert set(load("memeff").__all__) == set(memeff.__all__)
    for name in ("StableMemoryEfficientCLIPLoss", "StableMemoryEfficientLiTLoss"):
        assert_same_signature(getattr(memeff, name), getattr(load("memeff"), name))
        assert getattr(memeff, name)().stable


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("kind", "hard", "options"), CASES, ids=str)
def test_values_and_gradients_are_theirs(kind, hard, options, dtype, backend):
    assert_agreement(ours(kind, options), partial(memeff_loss, kind, **options), case(19, 8, hard, dtype, options))
    small = case(2, 3, hard, dtype, options)
    assert_agreement(ours(kind, options), partial(memeff_loss, kind, **options), small, backend=backend)


@BACKENDS_AND_DTYPES
@EVERY_KIND
@pytest.mark.parametrize("temperature", [0.01, 0.005])
def test_temperatures_where_their_denominators_vanish(temperature, kind, dtype, backend):
    options = {"temperature": temperature, "stable": False}
    assert_agreement(
        ours(kind, options), partial(memeff_loss, kind, **options), case(33, 16, False, dtype, options), backend=backend
    )


@BACKENDS_AND_DTYPES
@EVERY_KIND
def test_priors_of_a_call_and_of_every_row(kind, dtype, backend):
    options = {"stable": False, "tau_plus": 0.3}
    for prior in (0.0, 0.1, torch.linspace(0.0, 0.2, 19)):
        theirs = partial(memeff_loss, kind, **options | {"tau_plus": prior})
        loss = ours(kind, options, tau_plus=prior)
        assert_agreement(loss, theirs, case(19, 8, False, dtype, options), backend=backend)


def test_a_prior_of_every_row_may_have_another_type_and_lie_elsewhere():
    """The package makes it float32 on the features' device."""
    x, loss = features(6, 8, False), memeff.MemoryEfficientCLIPLoss(tau_plus=0.3)
    for prior in (torch.zeros(6, dtype=torch.int64), torch.full((6,), 0.1, dtype=torch.bfloat16)):
        assert torch.equal(loss(*x, prior), loss(*x, prior.float()))
    moved = class_prior(0.0, torch.full((6,), 0.1, dtype=torch.float64), 6, torch.device("meta"))
    assert (moved.device.type, moved.dtype) == ("meta", torch.float32)


def test_rows_at_the_floor_of_the_corrected_sum_have_the_gradient_of_the_positive_alone():
    """A prior that takes away more than there is."""
    options = {"tau_plus": 0.6, "stable": False}
    x = [f.requires_grad_() for f in features(12, 8, False)]
    twin = [f.detach().clone().requires_grad_() for f in x]
    found, expected = ours("Qwen3", options)(*x), memeff_loss("Qwen3", *twin, **options)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([f.grad for f in x], [f.grad for f in twin])


@EVERY_KIND
def test_stable_multiplies_gradients_alone(kind):
    grads, values = [], []
    for stable in (True, False):
        leaves = [f.requires_grad_() for f in features(20, 8, False)]
        values.append(loss_class(kind)(stable=stable)(*leaves))
        values[-1].backward()
        grads.append(leaves[0].grad)
    assert values[0] == values[1]
    torch.testing.assert_close(grads[0], (20 * 0.07) ** 0.5 * grads[1])
    assert loss_class(kind)().stable


def test_locked_sides_get_no_gradient():
    for kind in ("LiT", "LiTQwen3"):
        for form, dims in (("MemoryEfficient", ()), ("MemoryEfficientMatryoshka", ((3, 8),))):
            leaves = [f.requires_grad_() for f in features(9, 8, kind == "LiTQwen3")]
            loss_class(kind, form)(*dims, label_smoothing=0.1, tau_plus=0.1)(*leaves).backward()
            assert leaves[0].grad.abs().sum() > 0 and all(x.grad is None for x in leaves[1:])


# ---- prefixes


@pytest.mark.parametrize("options", [{}, {"tau_plus": 0.1, "label_smoothing": 0.1, "stable": False}], ids=str)
@EVERY_KIND
def test_prefixes_are_their_sum(kind, options):
    """Of any widths, also not ending with the whole one. A prefix of a unit row is normalised in any case."""
    hard = kind.endswith("Qwen3")
    for dims, weights, normalized in (((4, 8), None, False), ((3, 5, 7), (0.5, 1.0, 2.0), False), ((4, 8), None, True)):
        more = options | {"dims": dims, "weights": weights}
        x = features(11, 8, hard, normalized=normalized)
        found = loss_class(kind, "MemoryEfficientMatryoshka")(**more, normalized_inputs=normalized)(*x)
        torch.testing.assert_close(found, memeff_loss(kind, *x, **more), rtol=1e-12, atol=1e-12)
        wrapped = memeff.MatryoshkaLoss(loss_class(kind)(**options), dims, weights)(*x)
        torch.testing.assert_close(wrapped, found, rtol=1e-12, atol=1e-12)


def test_prefixes_pass_keywords_on():
    x, prior = features(11, 8, True), torch.linspace(0.0, 0.2, 11)
    found = memeff.MatryoshkaLoss(memeff.MemoryEfficientQwen3Loss(), (4, 8))(*x, tau_plus=prior)
    torch.testing.assert_close(found, memeff_loss("Qwen3", *x, dims=(4, 8), tau_plus=prior))
    none = memeff.MatryoshkaLoss(memeff.MemoryEfficientQwen3Loss(), (4, 8))(x[0], x[1], None)
    torch.testing.assert_close(none, memeff_loss("Qwen3", *x[:2], dims=(4, 8)))


# ---- as modules


@pytest.mark.parametrize("name", NAMES)
def test_distributed_classes_are_their_namesakes_on_one_process(name):
    dims = {"dims": (4, 8)} if "Matryoshka" in name else {}
    x = features(9, 8, False)
    loss = getattr(memeff, f"Distributed{name}")(**dims, tau_plus=0.1)
    assert torch.equal(loss(*x), getattr(memeff, name)(**dims, tau_plus=0.1)(*x))
    assert_module(loss)
    with pytest.raises(TypeError, match="temprature"):
        type(loss)(**dims, temprature=0.1)

    class Own(type(loss)):
        def __init__(self):
            super().__init__(**dims, tau_plus=0.1)

    assert torch.equal(Own()(*x), loss(*x))


@pytest.mark.parametrize("name", NAMES)
def test_modules_keep_nothing_and_show_their_options(name):
    dims = ((4, 8),) if "Matryoshka" in name else ()
    loss = getattr(memeff, name)(*dims, temperature=0.1)
    assert_module(loss)
    assert "temperature=0.1" in repr(loss) and repr(loss).startswith(name)
    assert_module(getattr(memeff, f"Distributed{name}")(*dims))
    loss.temperature, x = 0.3, features(9, 8, False)  # attributes count at every call, as in the package
    assert torch.equal(loss(*x), getattr(memeff, name)(*dims, temperature=0.3)(*x))


@DTYPES
@EVERY_KIND
def test_a_training_is_theirs(kind, dtype, rtol):
    """In the package's own kernels: kernels.py."""
    loss, options = loss_class(kind)(tau_plus=0.05), {"tau_plus": 0.05}
    assert_trains_alike(lambda x, _: loss(*x), lambda x, _: memeff_loss(kind, *x, **options), 2, dtype, rtol * 10)


# ---- edges


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "hard", "options"), CASES, ids=str)
def test_half_precision(kind, hard, options, dtype):
    """Of unit rows as they are rounded: float32 loss, gradients in the features' type."""
    options = options | {"normalized_inputs": True, "stable": False}
    leaves = [x.requires_grad_() for x in features(32, 16, hard, dtype)]
    truth = [x.detach().double().requires_grad_() for x in leaves]
    found, expected = ours(kind, options)(*leaves), memeff_loss(kind, *truth, **options)
    found.backward()
    expected.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    for x, true in zip(leaves, truth, strict=True):
        if true.grad is not None:
            assert x.grad.dtype == dtype
            assert (x.grad - true.grad).abs().max() <= 0.01 * true.grad.abs().max()


@pytest.mark.parametrize("options", [{}, {"tau_plus": 0.1}, {"label_smoothing": 0.1}], ids=str)
@EVERY_KIND
def test_batches_of_one_and_none(kind, options):
    for n in (0, 1):
        leaves = [x.requires_grad_() for x in features(max(n, 1), 8, False)]
        value = loss_class(kind)(**options)(*(x[:n] for x in leaves))
        value.backward()
        assert value.abs() < 1e-15 and leaves[0].grad.abs().max() < 1e-14


def test_rows_whose_negatives_are_all_dropped():
    """Duplicated pairs: every similarity is above the margin's limit or equal to the positive's."""
    x = features(1, 8, True)
    q, d, h = (f.expand(6, *f.shape[1:]).clone().requires_grad_() for f in x)
    far = F.normalize(-q.detach() + 0.5 * d.detach(), dim=1)
    for prior, smoothing in product((0.0, 0.1), (0.0, 0.1)):
        options = {"margin": 0.0, "use_qq_negatives": True, "tau_plus": prior, "label_smoothing": smoothing}
        value = memeff.MemoryEfficientQwen3Loss(**options)(q, far, h)
        value.backward()
        assert value.isfinite() and all(f.grad is None or f.grad.isfinite().all() for f in (q, h))


def test_margins_up_to_infinity_drop_nothing():
    x = features(9, 8, True)
    found = [memeff.MemoryEfficientQwen3Loss(margin=margin, use_qq_negatives=True)(*x) for margin in (2.5, torch.inf)]
    torch.testing.assert_close(*found)


def test_wrong_arguments_are_named():
    x, qwen3 = features(5, 8, True), memeff.MemoryEfficientQwen3Loss
    for call, error, message in [
        (lambda: memeff.MemoryEfficientCLIPLoss(tau_plus=1.0), ValueError, r"tau_plus must be in \[0, 1\), got 1.0"),
        (lambda: qwen3(label_smoothing=-0.1), ValueError, r"label_smoothing must be in \[0, 1\)"),
        (lambda: qwen3(temperature=0.0), ValueError, "temperature must be finite and > 0"),
        (lambda: qwen3(temperature=torch.tensor(0.1)), TypeError, "temperature must be a number"),
        (lambda: qwen3(margin=-0.1), ValueError, "margin must be >= 0"),
        (lambda: qwen3()(*x, tau_plus=torch.ones(4)), ValueError, r"tau_plus must be a number or have shape \(5,\)"),
        (lambda: qwen3()(x[0], x[1][:3]), ValueError, "doc_features must have the shape of query_features"),
        (lambda: qwen3()(x[0], x[1], x[2][:3]), ValueError, r"hard_negative_features must have shape \(5, K, 8\)"),
        (lambda: memeff.MatryoshkaLoss(qwen3(), (8, 4)), ValueError, "dims must be positive and strictly increasing"),
        (lambda: memeff.MatryoshkaLoss(qwen3(), (4,), (1, 2)), ValueError, "weights must be 1 numbers"),
        (lambda: memeff.MatryoshkaLoss(qwen3(), (4, 16))(*x), ValueError, "dims must be at most the width"),
        (
            lambda: memeff.MatryoshkaLoss(qwen3(normalized_inputs=True), (4,)),
            ValueError,
            "base_loss must have normalized_inputs=False",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("options", [{}, {"tau_plus": 0.1, "label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_size_of_all_pairs_is_kept(name, options, monkeypatch):
    extra = {"use_qq_negatives": True} if "Qwen3" in name else {}
    dims = {"dims": (8, 16)} if "Matryoshka" in name else {}
    loss = getattr(memeff, name)(**options, **extra, **dims)
    assert_saves_rows(loss, lambda n: [torch.randn(n, 16), torch.randn(n, 16)], monkeypatch)


def test_a_second_pass_and_a_second_derivative():
    leaves = [x.requires_grad_() for x in features(5, 3, False)]
    loss = memeff.MemoryEfficientCLIPLoss()
    value = loss(*leaves)
    first, second = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert torch.autograd.gradgradcheck(loss, leaves)
