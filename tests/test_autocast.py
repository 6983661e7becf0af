"""Autocast: neither values nor gradients depend on it, wherever forward and backward run."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import contrastile
from contrastile import metrics
from contrastile.distributed import cached_backward
from contrastile.losses.volume_computation import volume_computation
from contrastile.ops import matmul
from support.inside_autocast import REGIONS, assert_backward_is_the_same_inside
from support.loss_cases import call, differentiable, every_variant_once, id_of, leaves, make

N, D = 12, 8


@every_variant_once("region, dtype", REGIONS, [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(card, variant, region, dtype):
    """The type of the inputs decides, not the region: rounding logits of 100 to bfloat16 would be wrong by e^0.2."""
    case = differentiable(make(card, variant, 20, D, dtype))
    expected = call(card, case)
    with torch.autocast("cpu", dtype=region):
        found = call(card, case)
        inside = [
            torch.autograd.grad(value, leaves(case), retain_graph=True, allow_unused=True)
            for value in (found, expected)
        ]
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)
    true = torch.autograd.grad(expected, leaves(case), allow_unused=True)
    for grads in (*inside, torch.autograd.grad(found, leaves(case), allow_unused=True)):
        for x, y in zip(grads, true, strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


def test_features_made_under_autocast_are_taken_in_their_own_type():
    layer, x = torch.nn.Linear(D, D), torch.randn(N, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = layer(x)
        assert features.dtype == torch.bfloat16
        loss = contrastile.nt_xent(F.normalize(features, dim=-1), features, normalize=True)
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


FUNCTIONS = {  # beside the catalog: of x, y, z (N, D) and a positive number t
    "gram_volume": lambda x, y, z, t: contrastile.gram_volume(x, y, z),
    "gram_volume_matrix": lambda x, y, z, t: contrastile.gram_volume_matrix(x, y, z),
    "volume_computation": lambda x, y, z, t: volume_computation(x, y, z),
    "area": lambda x, y, z, t: contrastile.area(x, y, z),
    "singular_alignment": lambda x, y, z, t: contrastile.singular_alignment(x, y, z, normalize=True),
    "mip_similarity": lambda x, y, z, t: contrastile.mip_similarity(x, [y, z], logit_scale=t),
    "maxsim": lambda x, y, z, t: contrastile.maxsim(x.view(3, 4, D), y.view(4, 3, D), normalize=True) * t,
    "segment_reduce": lambda x, y, z, t: contrastile.segment_reduce(x, y, 4, reduce="softmax_mean", sharpness=t) * t,
    "pair_reduce, max": lambda x, y, z, t: contrastile.pair_reduce(x, y, scale=t, reduce="max").rows,
    "rows": lambda x, y, z, t: contrastile.info_nce(
        x, y, hard_negatives=z.view(N, 1, D), temperature=t, label_smoothing=0.1, reduction="none"
    ),
    "pairwise_aggregate": lambda x, y, z, t: contrastile.pairwise_aggregate(
        [x, y, z], contrastile.nt_xent, mode="average", temperature=t
    ),
    "centroid_distance": lambda x, y, z, t: metrics.centroid_distance(x, y),
    "centroid_cosine": lambda x, y, z, t: metrics.centroid_cosine(x, y),
    "positive_cosine": lambda x, y, z, t: metrics.positive_cosine(x, y),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=id_of)
def test_backward_of_other_functions(name, dtype):
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(N, D, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    given.append(torch.tensor(0.7, requires_grad=True))
    weights = torch.randn(FUNCTIONS[name](*given).shape, generator=generator)
    assert_backward_is_the_same_inside(lambda: (FUNCTIONS[name](*given) * weights).sum(), given)


def test_a_metric_that_trains_a_classifier_is_the_same_in_a_region():
    x, y = torch.randn(2, 200, D, generator=torch.Generator().manual_seed(0)).unbind()
    expected = metrics.linear_separability(x, y + 0.3)
    for region in REGIONS:
        with torch.autocast("cpu", region):
            assert metrics.linear_separability(x, y + 0.3) == expected


@pytest.mark.parametrize("region", REGIONS, ids=id_of)
def test_cached_backward_in_a_region(region):
    """Its backward pass runs inside. The encoder has no product of its own, so its gradient is that of the loss."""
    weight = torch.rand(D, requires_grad=True)
    pieces = torch.randn(3, 2, N // 2, D, generator=torch.Generator().manual_seed(2)).unbind()

    def loss(*views):
        return contrastile.mv_infonce(list(views), temperature=0.1, normalize=True)

    def encoder(piece):
        return piece * weight

    cached_backward(encoder, [x.unbind() for x in pieces], loss)
    expected, weight.grad = weight.grad, None
    with torch.autocast("cpu", region):
        cached_backward(encoder, [x.unbind() for x in pieces], loss)
    assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_in_a_region(backend):
    generator = torch.Generator().manual_seed(0)
    views, hard = torch.randn(3, N, D, generator=generator), torch.randn(N, 2, D, generator=generator)
    views, hard = views.requires_grad_(), hard.requires_grad_()

    def function():
        loss = contrastile.pvc(views, normalize=True)
        return loss + contrastile.info_nce(views[0], views[1], hard_negatives=hard, normalize=True)

    expected = torch.autograd.grad(function(), (views, hard))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(torch.compile(function, backend=backend, fullgraph=True)(), (views, hard))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


# ---- the product itself

LAYOUTS = {
    "matrices": lambda: (torch.randn(3, 4), torch.randn(4, 2)),
    "batches": lambda: (torch.randn(5, 3, 4), torch.randn(5, 4, 2)),
    "transposed": lambda: (torch.randn(5, 4, 3).mT, torch.randn(2, 4, 5).permute(2, 1, 0)),
    "no rows": lambda: (torch.randn(5, 0, 4), torch.randn(5, 4, 2)),
    "no width": lambda: (torch.randn(5, 3, 0), torch.randn(5, 0, 2)),
    "one by one": lambda: (torch.randn(1, 1), torch.randn(1, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_have_both_derivatives(layout):
    x, y = (z.double().requires_grad_() for z in LAYOUTS[layout]())
    assert torch.equal(matmul(x, y), x @ y)
    assert gradcheck(matmul, (x, y)) and gradgradcheck(matmul, (x, y))
    assert gradcheck(matmul, (x.detach(), y)) and gradcheck(matmul, (x, y.detach()))


def test_the_second_derivative_does_not_see_a_region_either():
    x, y = (torch.randn(N, N, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2))

    def second():
        (first,) = torch.autograd.grad(matmul(x, y).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, y))

    expected = second()
    with torch.autocast("cpu", torch.bfloat16):
        found = second()
    assert all(map(torch.equal, found, expected))


def test_products_under_torch_func_and_without_gradient():
    x, y = torch.randn(5, 3, 4), torch.randn(5, 4, 2)
    assert torch.equal(torch.func.grad(lambda x: matmul(x, y).sum())(x), torch.ones(5, 3, 2) @ y.mT)
    torch.testing.assert_close(torch.func.vmap(matmul)(x, y), x @ y)
    assert torch.func.jvp(matmul, (x, y), (x, y))[1].shape == (5, 3, 2)
    with torch.no_grad():
        assert not matmul(x.requires_grad_(), y).requires_grad


def test_products_keep_nothing_alive():
    x = torch.randn(4, 4, requires_grad=True)
    gc.disable()  # whatever goes must go by counting references, not by a search for cycles
    try:
        y = x * 2
        value = matmul(y, y.mT)
        kept = weakref.ref(y)
        value.sum().backward()
        del y, value
        assert kept() is None
    finally:
        gc.enable()
