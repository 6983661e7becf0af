"""Rows of zeros (an empty caption) where rows are normalised: the value is 0, and so is the gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import metrics
from contrastile.catalog import CATALOG
from contrastile.losses.common import unit
from contrastile.reference._dense import unit as dense_unit
from support.loss_cases import DTYPES, call, differentiable, each_tensor, id_of, leaves, make, takes

N, D, ZERO = 12, 8, 3
every_type = pytest.mark.parametrize("dtype", DTYPES, ids=id_of)


every_normalising_variant = pytest.mark.parametrize(
    "card, variant",
    [(card, variant) for card in CATALOG if takes(card, "normalize") for variant in card.variants],
    ids=id_of,
)


def emptied_row(x):
    """x with zeros in the row ZERO, of the first batch if there are several."""
    x = x.clone()
    if x.dim() > 1:
        x.flatten(0, -2)[ZERO] = 0.0
    return x


def row_gradients(tensors):
    """Of the row, and of everything else."""
    grads = [x.grad for x in tensors if x.grad is not None]
    rows = [g.flatten(0, -2)[ZERO] for g in grads if g.dim() > 1]
    return rows, grads


def normalising_call(card, case):
    return call(card, replace(case, kwargs={**case.kwargs, "normalize": True}))


@every_normalising_variant
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, *(pytest.param(x, marks=pytest.mark.slow) for x in (torch.float64, torch.bfloat16))],
    ids=id_of,
)
def test_the_gradient_of_a_row_of_zeros_is_zero(card, variant, dtype):
    case = differentiable(each_tensor(make(card, variant, N, D, dtype), emptied_row))
    value = normalising_call(card, case)
    value.backward()
    rows, every = row_gradients(leaves(case))
    assert value.isfinite() and all(g.isfinite().all() for g in every)
    assert rows and not any(g.any() for g in rows)


@every_normalising_variant
def test_values_and_other_gradients_are_those_of_the_dense_loss(card, variant):
    case = each_tensor(make(card, variant, N, D, torch.float64), torch.Tensor.double)
    case = replace(case, args=(emptied_row(case.args[0]), *case.args[1:]))
    case, twin = differentiable(case), differentiable(case)
    value, true = normalising_call(card, case), card.reference(*twin.args, **{**twin.kwargs, "normalize": True})
    torch.testing.assert_close(value, true, rtol=1e-9, atol=1e-9)
    value.backward()
    true.backward()
    for x, y in zip(leaves(case), leaves(twin), strict=True):
        found, expected = x.grad, y.grad
        if card.name == "pmrl_loss" and x.dim() > 1:  # torch.linalg.svd has no derivative where a singular value is 0
            found, expected = (torch.cat([g[:ZERO], g[ZERO + 1 :]]) for g in (found, expected))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@every_type
def test_other_rows_keep_their_bits(dtype):
    """Long rows whose squares leave float16, short ones, and NaN, which stays."""
    generator = torch.Generator().manual_seed(0)
    x, gout = (torch.randn(40, 33, generator=generator).to(dtype) for _ in range(2))
    x[2], x[3], x[4], x[5], x[6] = 0.0, 1e-14, x[4] * 1e4, x[5] * 1e-5, torch.nan
    rows, twin = (x.clone().requires_grad_() for _ in range(2))
    found = unit(rows, True)
    wide = twin if dtype == torch.float64 else twin.float()
    expected = F.normalize(wide, dim=-1).to(dtype)
    found.backward(gout)
    expected.backward(gout)
    others = torch.ones(40, dtype=torch.bool).index_fill(0, torch.tensor([2, 3]), False)
    assert torch.equal(found[others].nan_to_num(7.0), expected[others].nan_to_num(7.0)) and found[6].isnan().all()
    assert torch.equal(rows.grad[others].nan_to_num(7.0), twin.grad[others].nan_to_num(7.0))
    assert not found[~others].any() and not rows.grad[~others].any()


def test_the_dense_rule_is_the_same_and_differentiable_twice():
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[2], x[3] = 0.0, 1e-13
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(dense_unit(leaf, True), unit(leaf, True), rtol=1e-15, atol=0)
    (first,) = torch.autograd.grad(dense_unit(leaf, True)[:, 0].sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    assert second.isfinite().all() and second[0].any() and not second[2:4].any()
    for dtype in (torch.float16, torch.bfloat16):
        assert not dense_unit(x.to(dtype), True)[2].any()


def test_many_rows_of_zeros_compile():
    x = torch.zeros(6, 4)
    x[0] = 1.0
    y = torch.randn(6, 4).requires_grad_()
    leaf = x.requires_grad_()
    compiled = torch.compile(contrastile.clip_loss, backend="aot_eager", fullgraph=True)
    compiled(leaf, y, 10.0, normalize=True).backward()
    assert leaf.grad[0].any() and not leaf.grad[1:].any() and y.grad.isfinite().all()


FUNCTIONS = {
    "maxsim": lambda x, y: contrastile.maxsim(x.unsqueeze(1), y.unsqueeze(1), normalize=True).mean(),
    "singular_alignment": lambda x, y: contrastile.singular_alignment(x, y, normalize=True),
    "centroid_distance": metrics.centroid_distance,
    "centroid_cosine": metrics.centroid_cosine,
    "positive_cosine": metrics.positive_cosine,
    "gram_volume": lambda x, y: contrastile.gram_volume(x, y).mean(),
    "gram_volume_matrix": lambda x, y: contrastile.gram_volume_matrix(x, y).mean(),
    "area": lambda x, y: contrastile.area(x, y, y.flip(0)).mean(),
    "alignment": lambda x, y: contrastile.alignment(x, y, alpha=1.0),
    "alignment, steep": lambda x, y: contrastile.alignment(x, y, alpha=1.5),
    "uniformity": contrastile.uniformity,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@every_type
def test_gradients_at_zero_and_equal_rows_are_finite(name, dtype):
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(N, D, generator=generator).to(dtype) for _ in range(2))
    x[ZERO], x[5], y[6], y[7], x[7] = 0.0, y[5], y[6], 0.0, 0.0
    x, y = x.requires_grad_(), y.requires_grad_()
    value = FUNCTIONS[name](x, y)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all() and y.grad.isfinite().all()
    assert x.grad.abs().max() < 10 and y.grad.abs().max() < 10
    if name not in {"alignment", "alignment, steep", "uniformity", "gram_volume", "gram_volume_matrix", "area"}:
        assert not x.grad[ZERO].any()


def test_a_word_of_zeros_has_a_gradient_by_its_attention_alone():
    """That of its cosine, a direction divided by the least length, would be a million times as large."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for function in (contrastile.word_region_loss, contrastile.reference.word_region_loss):
        regions, words = (torch.randn(3, n, D, generator=generator.manual_seed(n)) for n in (4, 5))
        words[1, 2] = 0.0
        words.requires_grad_()
        function(regions, words).backward()
        assert words.grad.abs().max() < 10
        found.append(words.grad)
    torch.testing.assert_close(*found)


def test_centroids_that_vanish():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    for metric in (metrics.centroid_cosine, metrics.centroid_distance):
        value = metric(x, y)
        grads = torch.autograd.grad(value, (x, y))
        assert value.isfinite() and all(g.abs().max() < 10 for g in grads)
    assert metrics.centroid_cosine(x, y) == 0.0
