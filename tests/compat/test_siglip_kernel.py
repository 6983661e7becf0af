"""contrastile.compat.siglip_kernel against the formulas of the package siglip_kernel, and those against its kernels."""

import math
from functools import partial
from itertools import product
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import siglip_kernel
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS_AND_DTYPES

from .dropins import (
    assert_kernels_agree,
    assert_module,
    assert_same_signature,
    assert_saves_rows,
    assert_trains_alike,
    correlated,
)
from .kernel_formulas import siglip_loss, siglip_plus_loss

pytestmark = pytest.mark.peers

PLAIN = (
    "fused_siglip_loss", "chunked_siglip_loss", "fused_chunked_bf16_siglip_loss", "fully_fused_siglip_loss",
    "fused_chunked_bf16_pipelined_siglip_loss", "fused_chunked_epilogue_siglip_loss", "hopper_fused_siglip_loss",
    "fused_siglip_v2_loss",
)  # fmt: skip
MODULES = ("SigLIPPlusLoss", "DistributedSigLIPLoss", "DistributedSigLIPPlusLoss")
KERNELS = ("hopper", "fused", "fused_v2", "chunked", "chunked_bf16", "chunked_bf16_pipelined", "chunked_epilogue")


def package():
    """siglip_kernel asks for the GPU's compute capability while it is imported."""
    with patch.object(torch.cuda, "get_device_capability", lambda *_: (8, 0)):
        return load("siglip_kernel")


def case(n, m, d, dtype, log_temperature=2.3, bias=-4.0):
    x, y = (F.normalize(f, dim=1) for f in correlated([(n, d), (m, d)]))
    scale = math.exp(log_temperature)
    scalars = torch.tensor(log_temperature), torch.tensor(bias)
    return Case((x.to(dtype), y.to(dtype), *scalars), {}, scale + abs(bias))


@pytest.mark.slow  # the packages are of one version, and the tests below hold the drop-in against the formulas
@pytest.mark.interpret
def test_the_formulas_are_what_the_packages_kernels_compute():
    assert_kernels_agree("siglip_kernel")


@pytest.mark.parametrize("name", [*PLAIN, *MODULES, "fused_siglip_plus_loss", "siglip_loss_reference"])
def test_signatures_are_theirs(name):
    ours, theirs = (getattr(module, name) for module in (siglip_kernel, package()))
    assert_same_signature(ours, theirs)
    if name in MODULES:
        assert_same_signature(ours.forward, theirs.forward)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("log_temperature", "bias"), [(0.0, 0.0), (2.3, -10.0), (4.6, 3.0)])
@pytest.mark.parametrize("name", PLAIN)
def test_values_and_gradients_are_theirs(name, log_temperature, bias, dtype, backend):
    function = getattr(siglip_kernel, name)
    for n, d in ((2, 3), (17, 32)):
        assert_agreement(function, siglip_loss, case(n, n, d, dtype, log_temperature, bias), backend=backend)


@pytest.mark.parametrize("name", KERNELS)
def test_the_packages_names_of_kernels_are_understood(name):
    args = case(9, 9, 4, torch.float32).args
    assert torch.equal(siglip_kernel.fused_siglip_loss(*args, backend=name), siglip_kernel.fused_siglip_loss(*args))


def test_the_packages_own_reference():
    """It runs on the CPU; ours of that name is dense, too, and has second derivatives."""
    img, txt, log_temperature, bias = case(9, 9, 4, torch.float64).args
    args = img.requires_grad_(), txt.requires_grad_(), log_temperature.double().requires_grad_(), bias.double()
    expected = package().fused_siglip_loss(*args, backend="reference")
    for found in (
        siglip_kernel.fused_siglip_loss(*args, backend="reference"),
        siglip_kernel.siglip_loss_reference(*args[:2], args[2].exp(), args[3]),
        siglip_kernel.fused_siglip_loss(*args),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0.0)
    dense = siglip_kernel.fused_siglip_loss(*args, backend="reference")
    (grad,) = torch.autograd.grad(dense, args[0], create_graph=True)
    assert torch.autograd.grad(grad.square().sum(), args[1])[0].isfinite().all()


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("diag_offset", [0, 3, -3, 100, None])
def test_offsets_move_the_matched_pairs(diag_offset, dtype, backend):
    assert_agreement(
        lambda *x, **o: siglip_kernel.fused_chunked_bf16_siglip_loss(*x, diag_offset=diag_offset, **o),
        lambda *x: siglip_loss(*x, diag_offset=diag_offset),
        case(17, 17, 8, dtype),
        backend=backend,
    )


# ---- several positives

GROUPS = {
    "own": lambda n, m: (None, None),
    "some": lambda n, m: (torch.arange(n) % 4, torch.arange(m) % 6 - 1),
    "one": lambda n, m: (torch.zeros(n).int(), torch.zeros(m).int()),
    "none": lambda n, m: (torch.arange(n), -1 - torch.arange(m)),
    "captions": lambda n, m: (torch.arange(n), torch.arange(m) // 2),
}


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("groups", GROUPS)
def test_several_positives(groups, symmetric, soft_label, dtype, backend):
    for n, m, d in ((2, 2, 3), (12, 24, 8), (11, 7, 16)):
        ids = GROUPS[groups](n, m)
        assert_agreement(
            lambda *x, i=ids, **o: siglip_kernel.fused_siglip_plus_loss(*x, *i, symmetric, soft_label, **o),
            lambda *x, i=ids: siglip_plus_loss(*x, *i, symmetric, soft_label),
            case(n, m, d, dtype),
            backend=backend,
        )


@pytest.mark.parametrize("name", ["SigLIPPlusLoss", "DistributedSigLIPPlusLoss"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_modules_of_several_positives(name, use_bias):
    """Their parameters, their dictionary; the scale stays within its bounds. Run against theirs: kernels.py."""
    options = {"temperature": 0.1, "bias_init": -2.0, "use_bias": use_bias}
    module, theirs = (getattr(m, name)(**options) for m in (siglip_kernel, package()))
    assert_module(module, theirs.state_dict())
    assert [p.shape for p in module.parameters()] == [p.shape for p in theirs.parameters()]
    module.load_state_dict(theirs.state_dict())
    x, ids = correlated([(8, 5), (12, 5)], torch.float32), (torch.arange(8) % 5, torch.arange(12) % 5)
    found = module(x, *ids)
    bias = -2.0 if use_bias else 0.0
    expected = siglip_plus_loss(*(F.normalize(f, dim=1) for f in x), torch.tensor(10.0).log(), bias, *ids)
    torch.testing.assert_close(found["total_loss"], expected)
    assert list(found) == ["total_loss", "logit_scale", "n_positives"]
    assert found["n_positives"] == (ids[0][:, None] == ids[1]).sum() and not found["logit_scale"].requires_grad
    for start, bound in ((-9.0, 0.01), (9.0, 100.0)):
        torch.nn.init.constant_(module.logit_scale, start)
        torch.testing.assert_close(module(x, *ids)["logit_scale"], torch.tensor(bound))


def test_groups_are_counted_from_ids_of_any_type():
    args, ids = case(8, 12, 5, torch.float64).args, (torch.arange(8) % 5, torch.arange(12) % 5)
    expected = siglip_plus_loss(*args, *ids)
    for a, b, number in ((*ids, None), (*ids, 5), (*ids, 9), (ids[0].int() * 1000 - 7, ids[1] * 1000 - 7, None)):
        found = siglip_kernel.fused_siglip_plus_loss(*args, a, b, num_groups=number)
        torch.testing.assert_close(found, expected)


# ---- a module with open_clip's arguments


def test_distributed_siglip():
    img, txt, log_temperature, bias = case(9, 9, 4, torch.float64).args
    module, scale = siglip_kernel.DistributedSigLIPLoss(), log_temperature.exp()
    assert_module(module)
    torch.testing.assert_close(module(img, txt, scale, bias), siglip_loss(img, txt, log_temperature, bias))
    torch.testing.assert_close(module(img, txt, scale), siglip_loss(img, txt, log_temperature, 0.0))
    local = siglip_kernel.DistributedSigLIPLoss(strategy="local", rank=1, world_size=4)
    assert torch.equal(local(img, txt, scale), module(img, txt, scale))
    for strategy in ("ring", "gather"):
        several = siglip_kernel.DistributedSigLIPLoss(strategy=strategy, world_size=4)
        with pytest.raises(ValueError, match="init_process_group"):
            several(img, txt, scale)
    ids = torch.arange(9), torch.arange(9)
    with pytest.raises(ValueError, match="init_process_group"):
        siglip_kernel.DistributedSigLIPPlusLoss(world_size=2)([img, txt], *ids)


def test_a_training_with_the_packages_reference():
    """The eager loss of the package, with float64 steps equal to rounding; its kernels: kernels.py."""

    def of(module, **options):
        bias = torch.tensor(-2.0, dtype=torch.float64)
        return lambda features, log_scale: module.fused_siglip_loss(*features, log_scale, bias, **options)

    pair = of(siglip_kernel), of(package(), backend="reference")
    assert_trains_alike(*pair, 2, torch.float64, 1e-11)


@pytest.mark.parametrize(("symmetric", "soft_label"), list(product((True, False), repeat=2)))
def test_a_training_with_several_positives(symmetric, soft_label):
    ids = torch.arange(24) % 7, torch.arange(24) % 9
    bias = torch.tensor(-2.0, dtype=torch.float64)
    pair = (
        lambda x, scale, f=f: f(*x, scale, bias, *ids, symmetric, soft_label)
        for f in (siglip_kernel.fused_siglip_plus_loss, siglip_plus_loss)
    )
    assert_trains_alike(*pair, 2, torch.float64, 1e-11)


# ---- edges


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_losses_of_unrounded_logits(dtype):
    args = case(32, 48, 16, dtype).args
    ids = torch.arange(32) % 5, torch.arange(48) % 5
    square = (args[0], args[1][:32], *args[2:])
    calls = [(siglip_kernel.fused_siglip_loss, siglip_loss, square, ())]
    calls.append((partial(siglip_kernel.fused_siglip_loss, backend="reference"), siglip_loss, square, ()))
    for options in product((True, False), repeat=2):
        calls.append((siglip_kernel.fused_siglip_plus_loss, siglip_plus_loss, args, (*ids, *options)))
    for ours, formula, tensors, more in calls:
        leaves, truth = ([x.detach().to(t).requires_grad_() for x in tensors[:2]] for t in (dtype, torch.float64))
        found, expected = (f(*x, *tensors[2:], *more) for f, x in ((ours, leaves), (formula, truth)))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.0)
        found.backward()
        expected.backward()
        for x, true in zip(leaves, truth, strict=True):
            assert x.grad.dtype == dtype and (x.grad - true.grad).abs().max() <= 0.01 * true.grad.abs().max()


def test_the_dense_form_is_float32_under_autocast():
    args = case(32, 32, 16, torch.float32).args
    with torch.autocast("cpu", torch.bfloat16):
        found = siglip_kernel.fused_siglip_loss(*args, backend="reference")
    assert torch.equal(found, siglip_kernel.fused_siglip_loss(*args, backend="reference"))


def test_empty_batches():
    x = torch.zeros(0, 4, requires_grad=True)
    y = torch.ones(3, 4, requires_grad=True)
    for value in (
        siglip_kernel.fused_siglip_loss(x, x, torch.tensor(1.0), 0.0),
        siglip_kernel.fused_siglip_plus_loss(x, y, 1.0, torch.tensor(0.0)),
        siglip_kernel.SigLIPPlusLoss()([x, y])["total_loss"],
    ):
        assert value == 0 and value.requires_grad
        value.backward()


def test_wrong_arguments_are_named():
    x, y = torch.randn(5, 4), torch.randn(3, 4)
    one, plus = siglip_kernel.fused_siglip_loss, siglip_kernel.fused_siglip_plus_loss
    for call, error, message in [
        (lambda: one(x, y, 1.0, 0.0), ValueError, "text_features must have the shape of image_features"),
        (lambda: one(x, x, 1.0, 0.0, use_fp8=True), NotImplementedError, "use_fp8=True"),
        (lambda: one(x, x, 1.0, 0.0, backend="chunked_bf16_fp8"), NotImplementedError, "backend='chunked_bf16_fp8'"),
        (lambda: one(x, x, 1.0, 0.0, backend="quick"), ValueError, "backend must be one of"),
        (lambda: one(x, x, torch.ones(2), 0.0), ValueError, "log_temperature"),
        (lambda: siglip_kernel.chunked_siglip_loss(x, x, 1.0, 0.0, 2.5), TypeError, "chunk_size must be an int"),
        (lambda: siglip_kernel.hopper_fused_siglip_loss(x, x, 1.0, 0.0, True), NotImplementedError, "use_fp8"),
        (lambda: plus(x, y, 1.0, 0.0, torch.arange(3)), ValueError, r"img_gid must have shape \(5,\)"),
        (lambda: plus(x, y, 1.0, 0.0, None, torch.arange(5)), AssertionError, r"txt_gid must have shape \(3,\)"),
        (lambda: plus(x, y, 1.0, 0.0, num_groups=4), ValueError, "num_groups must be above every id"),
        (lambda: plus(x, y[:, :3], 1.0, 0.0), ValueError, "txt_features must have the width of img_features"),
        (lambda: siglip_kernel.DistributedSigLIPLoss(strategy="star"), ValueError, "strategy must be one of"),
        (
            lambda: siglip_kernel.SigLIPPlusLoss(soft_weighting=False),
            NotImplementedError,
            "soft_weighting=False without soft_label=True",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("soft_label", [False, True])
def test_nothing_of_the_size_of_all_pairs_is_kept(soft_label, monkeypatch):
    def loss(x, y):
        ids = torch.arange(len(x)) % 50, torch.arange(len(x)) % 50
        plus = siglip_kernel.fused_siglip_plus_loss(x, y, 1.0, 0.0, *ids, soft_label=soft_label)
        return plus + siglip_kernel.fused_siglip_loss(x, y, 1.0, 0.0)

    assert_saves_rows(loss, lambda n: [torch.randn(n, 16), torch.randn(n, 16)], monkeypatch)


def test_torch_compile():
    img, txt, log_temperature, bias = case(16, 16, 8, torch.float32).args
    compiled = torch.compile(siglip_kernel.fused_siglip_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(img, txt, log_temperature, bias), siglip_kernel.fused_siglip_loss(img, txt, log_temperature, bias)
    )
