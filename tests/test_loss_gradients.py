"""Losses as parts of a training step: scaled, repeated, accumulated, partial and switched-off gradients."""

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile.catalog import CATALOG
from support.loss_cases import (
    call,
    default,
    differentiable,
    each_tensor,
    every_loss,
    every_pair_loss,
    gradients,
    id_of,
    leaves,
    takes,
    usable,
)

BACKENDS = [name for name, _ in usable("cpu", (torch.float32,))]
MODES = [
    (card, reduction) for card in CATALOG for reduction in (("mean", "none") if takes(card, "reduction") else (None,))
]
in_every_mode = pytest.mark.parametrize("card, reduction", MODES, ids=id_of)


def mode(reduction):
    """The keyword of losses that have reductions: "mean" forms gradients in forward, "none" recomputes them."""
    return {} if reduction is None else {"reduction": reduction}


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


@in_every_mode
@pytest.mark.parametrize("factor", [-2.0, 0.0, 2.0**40])
def test_gradients_are_proportional_to_the_upstream_gradient(card, reduction, factor):
    """Powers of two scale float32 numbers exactly, so the gradients must be equal to the last bit."""
    case = default(card)
    expected = [g * factor for g in gradients(card, case, **mode(reduction))]
    assert_equal(gradients(card, case, upstream=factor, **mode(reduction)), expected)


@every_pair_loss
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_row_has_its_own_upstream_gradient(card, backend):
    """reduction="none" with weights: the loss is linear in them."""
    if not takes(card, "reduction"):
        pytest.skip("one number by definition")
    case = differentiable(each_tensor(default(card), torch.Tensor.double))
    rows = call(card, case, reduction="none")
    weight = torch.linspace(-1.0, 2.0, rows.numel(), dtype=torch.float64).view(rows.shape)
    expected = [torch.zeros_like(x) for x in leaves(case)]
    for i, w in enumerate(weight.flatten()):
        one = torch.autograd.grad(rows.flatten()[i], leaves(case), retain_graph=True, allow_unused=True)
        expected = [e if g is None else e + w * g for e, g in zip(expected, one, strict=True)]
    single = differentiable(default(card))
    (call(card, single, reduction="none", backend=backend) * weight.float()).sum().backward()
    for x, e in zip(leaves(single), expected, strict=True):
        torch.testing.assert_close(x.grad.double(), e, rtol=1e-4, atol=1e-4 * e.abs().max().item())


@pytest.mark.parametrize("name", ["info_nce", "clip_loss", "siglip_loss", "nt_xent"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_scale_saves_float16_gradients_from_underflow(name, reduction, backend):
    """Rows are orthogonal unit vectors, as after training: gradients are below the smallest float16 number.

    A row's gradient along a negative is that negative's score gradient. Along its own positive it is the small
    difference 1 - softmax, which no float32 softmax resolves.
    """
    rows, negatives = torch.eye(8), ~torch.eye(8, dtype=torch.bool)
    options = {"logit_scale": 22.0} if name == "clip_loss" else {"temperature": 1.0 / 22.0}
    if name == "siglip_loss":
        options = {"logit_scale": 40.0, "logit_bias": -20.0}

    def gradient(function, dtype, scale, **extra):
        x, y = (rows.to(dtype).requires_grad_() for _ in range(2))
        (function(x, y, **options, **extra, reduction=reduction).mean() * scale).backward()
        return x.grad.double()[negatives]

    exact = gradient(getattr(contrastile.reference, name), torch.float64, 1.0)
    loss = getattr(contrastile, name)
    assert 0 < exact.abs().max() < 2.0**-25
    assert not gradient(loss, torch.float16, 1.0, backend=backend).any()
    scaled = gradient(loss, torch.float16, 65536.0, backend=backend) / 65536.0
    torch.testing.assert_close(scaled, exact, rtol=2.0**-9, atol=2.0**-24 / 65536.0)


@in_every_mode
def test_a_retained_graph_gives_the_same_gradients_again(card, reduction):
    case = differentiable(default(card))
    value = call(card, case, **mode(reduction)).sum()
    inputs = leaves(case)
    first = torch.autograd.grad(value, inputs, retain_graph=True)
    assert_equal(torch.autograd.grad(value, inputs), first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, inputs)


@in_every_mode
def test_gradients_accumulate(card, reduction):
    case = differentiable(default(card))
    for x in leaves(case):
        x.grad = torch.ones_like(x)
    call(card, case, **mode(reduction)).sum().backward()
    expected = [1.0 + g for g in gradients(card, default(card), **mode(reduction))]
    assert_equal([x.grad for x in leaves(case)], expected)


@in_every_mode
def test_one_input_alone_can_require_grad(card, reduction):
    case = default(card)
    expected = gradients(card, case, **mode(reduction))
    for index in range(len(expected)):
        alone = each_tensor(case, torch.clone)
        chosen = leaves(alone)[index].requires_grad_()
        value = call(card, alone, **mode(reduction)).sum()
        torch.testing.assert_close(*torch.autograd.grad(value, chosen), expected[index])


@every_loss
@pytest.mark.parametrize("backend", BACKENDS)
def test_both_inputs_can_be_the_same_tensor(card, backend):
    """x against x: the gradient is the sum of both sides'."""
    case = default(card)
    if case.args[1:2] == () or case.args[1].shape != case.args[0].shape:
        pytest.skip("takes one batch")
    options = {"backend": backend} if card.gemm else {}
    x = case.args[0].clone().requires_grad_()
    y, z = (case.args[0].clone().requires_grad_() for _ in range(2))
    rest = case.args[2:]
    card.function(x, x, *rest, **case.kwargs, **options).backward()
    card.function(y, z, *rest, **case.kwargs, **options).backward()
    largest = max(y.grad.abs().max().item(), z.grad.abs().max().item(), 1.0)
    torch.testing.assert_close(x.grad, y.grad + z.grad, rtol=1e-5, atol=1e-6 * largest)


@in_every_mode
@pytest.mark.parametrize("backend", BACKENDS)
def test_switching_gradients_off_changes_no_value(card, reduction, backend):
    options = mode(reduction) | ({"backend": backend} if card.gemm else {})
    for n in (12, 530):
        case = differentiable(default(card, n))
        expected = call(card, case, **options)
        with torch.no_grad():
            silent = call(card, case, **options)
        with torch.inference_mode():
            inferred = call(card, case, **options)
        for found in (silent, inferred):
            assert not found.requires_grad
            torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6 * case.magnitude)


@in_every_mode
def test_inputs_made_in_inference_mode_can_be_compared(card, reduction):
    with torch.inference_mode():
        case = default(card)
        expected = call(card, case, **mode(reduction))
    assert torch.equal(call(card, case, **mode(reduction)), expected)


@in_every_mode
def test_inputs_are_not_changed(card, reduction):
    case = default(card)
    before = [x.clone() for x in leaves(case)]
    gradients(card, case, **mode(reduction))
    call(card, case, **mode(reduction))
    assert_equal(leaves(case), before)


def test_a_training_step_with_a_gradient_scaler_of_float16_features():
    """torch.amp.GradScaler sees finite gradients and unscales them to those of float32."""
    layer = torch.nn.Linear(8, 8, bias=False)
    x, y = torch.randn(2, 20, 8).unbind()
    grads = []
    for dtype, scale in ((torch.float32, 1.0), (torch.float16, 65536.0)):
        layer.zero_grad()
        q, k = (F.normalize(layer(z), dim=-1).to(dtype) for z in (x, y))
        (contrastile.clip_loss(q, k, 10.0) * scale).backward()
        grads.append(layer.weight.grad / scale)
    torch.testing.assert_close(grads[1], grads[0], rtol=0.02, atol=2e-3 * grads[0].abs().max().item())
