"""The operators inside PyTorch: opcheck, fake tensors, double backward, torch.func, checkpointing."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

import contrastile
from contrastile import pair_reduce
from support.loss_cases import (
    call,
    default,
    differentiable,
    each_tensor,
    every_loss,
    every_pair_loss,
    every_variant_once,
    gradients,
    id_of,
    leaves,
    make,
    takes,
    usable,
)
from support.operators import TRANSFORMS, Recorder

N, M, D = 12, 7, 5
OPERATORS = ("pair_stats", "pair_stats_backward", "pair_loss")
BACKENDS = [name for name, _ in usable("cpu", (torch.float32,))]


# ---- opcheck


def use_everything(backend):
    """Calls that give every operator every argument that it can take."""
    x, y, z = torch.randn(N, D), torch.randn(M, D), torch.randn(3, D)
    rows, cols, ids = torch.rand(N), torch.rand(M + 3), torch.arange(N) % 3
    options = {"scale": rows, "col_scale": cols, "row_bias": -rows, "col_bias": cols, "cols": True}
    options |= {"row_high": rows + 1, "col_high": cols + 1, "mask": torch.rand(N, M + 3) < 0.8}
    options |= {"row_ids": ids, "col_ids": torch.arange(M + 3) % 4, "keep": "other_id", "positives": "same_id"}
    given = {name: v.requires_grad_() if name in ("scale", "row_bias") else v for name, v in options.items()}
    for value in (x, y):
        value.requires_grad_()
    for memory_budget in (0, 300, 4096):
        split = memory_budget == 300
        stats = pair_reduce(x, [y, z], **given, split=split, memory_budget=memory_budget, backend=backend)
        sum(s.sum() for s in stats if s is not None).backward()
    weights = {"row_weight": torch.rand(N), "col_weight": torch.rand(M + 3), "row_positive_weight": -0.5}
    contrastile.pair_loss(x, [y, z], **given, **weights, backend=backend).backward()
    square = {"keep": "other_index", "positives": "same_id", "row_ids": ids, "backend": backend}
    pair_reduce(x, **square).rows.sum().backward()
    contrastile.pair_loss(x, **square, row_positive_weight=-1.0).backward()
    for reduce in ("softplus", "relu"):
        pair_reduce(x, y, reduce=reduce, cols=True, backend=backend).rows.sum().backward()
    pair_reduce(x, y, reduce="max", cols=True, backend=backend)
    half = x.detach().bfloat16().requires_grad_()
    pair_reduce(half, y.bfloat16(), backend=backend).rows.sum().backward()
    contrastile.pair_loss(half, y.bfloat16(), backend=backend).backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators_pass_opcheck(backend):
    with Recorder() as recorder:
        use_everything(backend)
    assert {func._opname for func, _ in recorder.calls} == set(OPERATORS)
    for func, args in recorder.calls:
        detached = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone(), args)
        opcheck(func, detached)


def test_operators_are_opaque_to_the_dispatcher():
    """A mode that counts operators (a profiler, FLOP counters) sees the engine's, also in the fast path of losses."""
    case = differentiable(default(contrastile.catalog.CATALOG[0]))
    with Recorder() as recorder:
        call(contrastile.catalog.CATALOG[0], case).backward()
    assert [func._opname for func, _ in recorder.calls] == ["pair_loss"]


# ---- meta and fake tensors


def shapes(card, case, **options):
    value = call(card, case, **options)
    value.sum().backward()
    grads = (leaf.grad for leaf in leaves(case))  # frozen candidates have none
    return [None if x is None else (x.shape, x.dtype, x.device.type) for x in (value, *grads)]


@every_variant_once("reduction", ["mean", "none"])
def test_fake_tensors_have_the_shapes_of_real_ones(card, variant, reduction):
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    case = make(card, variant, 9, D)
    expected = shapes(card, differentiable(case), **options)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = each_tensor(case, mode.from_tensor)
        others = {k: x for k, x in case.kwargs.items() if isinstance(x, torch.Tensor) and not x.is_floating_point()}
        fake.kwargs.update({name: mode.from_tensor(x) for name, x in others.items() if name != "permutations"})
        assert shapes(card, differentiable(fake), **options) == expected


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=id_of)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_meta_tensors_have_the_shapes_of_real_ones(card, reduction, dtype):
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    case = default(card, dtype=dtype)
    expected = [(shape, dtype) for shape, dtype, _ in shapes(card, differentiable(case), **options)]
    args = tuple(x.to("meta") if isinstance(x, torch.Tensor) else x for x in case.args)
    kwargs = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in case.kwargs.items()}
    meta = differentiable(replace(case, args=args, kwargs=kwargs))
    found = shapes(card, meta, **options)
    assert [(shape, dtype) for shape, dtype, _ in found] == expected
    assert {device for *_, device in found} == {"meta"}


# ---- derivatives that the engine does not have


def test_the_first_gradient_with_create_graph_is_right():
    for card in contrastile.catalog.CATALOG:
        case = differentiable(default(card))
        found = torch.autograd.grad(call(card, case), leaves(case), create_graph=True, allow_unused=True)
        for x, y in zip(found, gradients(card, case), strict=True):
            assert torch.equal(x, y)


def test_the_maximum_can_be_differentiated_twice():
    x, y = torch.randn(N, D, requires_grad=True), torch.randn(M, D, requires_grad=True)
    scale = torch.tensor(1.5, requires_grad=True)
    grads = []
    for rows in (pair_reduce(x, y, scale=scale, reduce="max").rows, (scale * (x @ y.T)).amax(1)):
        first = torch.autograd.grad(rows.square().sum(), (x, y, scale), create_graph=True)
        grads.append(torch.autograd.grad(sum(g.square().sum() for g in first), (x, y, scale)))
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


@every_pair_loss
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_function_transforms_are_refused(card, transform):
    case = default(card)
    with pytest.raises(RuntimeError, match=r"torch\.func transforms .* are not supported.*contrastile\.reference"):
        TRANSFORMS[transform](lambda x: card.function(x, *case.args[1:], **case.kwargs), case.args[0])


@every_pair_loss
@pytest.mark.parametrize("trained", [False, True], ids=["constant", "requires grad"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_differentiation_is_refused(card, trained, reduction):
    """A tangent that is dropped is a derivative of zero, silently."""
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    case = default(card)
    x = case.args[0].clone().requires_grad_(trained)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises((RuntimeError, NotImplementedError), match=r"forward|jvp"):
            card.function(dual, *case.args[1:], **case.kwargs, **options)


def test_batched_gradients_are_right_or_refused():
    x, y = torch.randn(N, D, requires_grad=True), torch.randn(N, D)
    factors = torch.tensor([1.0, -2.0, 0.5])
    value = contrastile.info_nce(x, y)
    (many,) = torch.autograd.grad(value, x, factors, is_grads_batched=True, retain_graph=True)
    assert torch.equal(many, factors[:, None, None] * torch.autograd.grad(value, x)[0])
    rows = contrastile.info_nce(x, y, reduction="none")
    with pytest.raises(RuntimeError, match="contrastile"):
        torch.autograd.grad(rows, x, torch.eye(N), is_grads_batched=True)


# ---- checkpointing


@every_loss
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_equal_gradients(card, reentrant):
    case = default(card)
    expected = gradients(card, case)
    again = differentiable(case)

    def loss(*args):
        return card.function(*args, **again.kwargs)

    checkpoint(loss, *again.args, use_reentrant=reentrant).backward()
    for x, y in zip(leaves(again), expected, strict=True):
        assert torch.equal(torch.zeros_like(x) if x.grad is None else x.grad, y)
