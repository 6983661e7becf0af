"""Second derivatives against the dense references in float64, and what refuses to be differentiated twice."""

from functools import partial

import pytest
import torch

import contrastile
from contrastile import pair_loss, pair_reduce
from contrastile.catalog import CATALOG
from contrastile.catalog.card import Case
from support.combinations import by_default
from support.loss_cases import call, default, differentiable, each_tensor, every_pair_loss, id_of, leaves, make, takes
from support.memory import needs_linux, peak_bytes

# scores of distances and second operands
REFUSED = (
    "clip_distill_loss", "cwcl_loss", "dino_loss", "distill_info_nce", "gram_loss", "hydra_loss", "pmrl_loss",
    "softclip_loss", "triangle_loss",
)  # fmt: skip
OFFERED = [card for card in CATALOG if card.gemm and card.name not in REFUSED]
# the same of some variants: kernels that are no exponential of a dot product, all tuples of an item
OTHER_SCORES = {"kcl": ("log", "imq", "riesz"), "symile_loss": ("n_squared",)}
VARIANTS = [
    pytest.param(card, variant, marks=() if index % 3 == 0 else pytest.mark.slow)
    for card in OFFERED
    for index, variant in enumerate(card.variants)
    if not any(word in variant for word in OTHER_SCORES.get(card.name, ()))
]


def second(function, case, **options):
    """Gradients of a scalar made of all first gradients, each in a direction of its own."""
    case = differentiable(case)
    inputs, generator = leaves(case), torch.Generator().manual_seed(1)
    value = function(*case.args, **case.kwargs, **options).sum()
    first = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
    ways = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in first]
    total = sum((x * way).sum() + x.square().sum() for x, way in zip(first, ways, strict=True))
    return torch.autograd.grad(total, inputs, materialize_grads=True)


def assert_equal(found, expected, rtol, magnitude=1.0):
    for x, y in zip(found, expected, strict=True):
        assert x.isfinite().all()
        if y.isnan().any():  # torch's own second derivative of a log-sum-exp over nothing
            continue
        assert (x.double() - y).norm() <= rtol * y.norm() + 1e-12 * magnitude**2


@pytest.mark.parametrize("card, variant", VARIANTS, ids=id_of)
def test_second_derivatives_are_those_of_the_reference(card, variant):
    case = each_tensor(make(card, variant, 9, 5, torch.float64), torch.Tensor.double)
    options = {"reduction": "none"} if takes(card, "reduction") and len(variant) % 2 else {}
    found, expected = (second(function, case, **options) for function in (card.function, card.reference))
    assert_equal(found, expected, 1e-9, case.magnitude)


@pytest.mark.parametrize("card", OFFERED, ids=id_of)
def test_float32(card):
    case = default(card, 9, 5)
    expected = second(card.reference, each_tensor(case, torch.Tensor.double))
    assert_equal(second(card.function, case), expected, 3e-6 * max(case.magnitude, 1.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=id_of)
def test_halves(dtype):
    case = default(next(card for card in CATALOG if card.name == "clip_loss"), 9, 5, dtype)
    expected = second(contrastile.reference.clip_loss, each_tensor(case, torch.Tensor.double))
    found = second(contrastile.clip_loss, case)
    assert_equal(found, expected, 0.05)
    assert [x.dtype for x in found] == [x.dtype for x in leaves(case)]


@pytest.mark.parametrize("own_scales", [False, True])
def test_chunks_and_blocks_are_joined(monkeypatch, own_scales):
    """Every operand that has a gradient, several blocks, thresholds, a mask, positives apart and of both directions."""
    monkeypatch.setattr(contrastile.ops.twice, "CHUNK", 40)
    n, d, generator = 11, 4, torch.Generator().manual_seed(3)
    names = {
        "a": (n, d),
        "b": (n, d),
        "c": (7, d),
        "scale": (n,),
        "col_scale": (18,),
        "row_bias": (n,),
        "col_bias": (18,),
    }
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in names.values()]
    ids, mask = torch.arange(18) % 4, torch.rand(n, 18, generator=generator) < 0.8
    high = torch.full((n,), 2.0, dtype=torch.float64)

    def ours(a, b, c, scale, col_scale, row_bias, col_bias):
        stats = pair_reduce(
            a, [b, c], scale=scale, col_scale=col_scale, row_bias=row_bias, col_bias=col_bias, positives="same_id",
            row_ids=ids[:n], col_ids=[ids[:n], ids[n:]], mask=mask, row_high=high, split=True, cols=True,
            own_scales=own_scales,
        )  # fmt: skip
        found = (
            stats.row_negatives,
            stats.row_positives_lse,
            stats.row_positives,
            stats.col_negatives,
            stats.col_positives,
        )
        return sum(x[x.isfinite()].square().sum() for x in found)

    def dense(a, b, c, scale, col_scale, row_bias, col_bias):
        both = (scale[:, None], col_scale) if own_scales else (scale[:, None] * col_scale,) * 2
        z, z_cols = (x * (a @ torch.cat([b, c]).T) + row_bias[:, None] + col_bias for x in both)
        positive = ids[:n, None] == ids
        rows, cols = z.masked_fill(~mask | (z > 2.0), -torch.inf), z_cols.masked_fill(~mask, -torch.inf)
        found = (
            torch.where(positive, z, 0.0).sum(1), torch.where(positive, z_cols, 0.0).sum(0),
            rows.masked_fill(positive, -torch.inf).logsumexp(1), cols.masked_fill(positive, -torch.inf).logsumexp(0),
            rows.masked_fill(~positive, -torch.inf).logsumexp(1),
        )  # fmt: skip
        return sum(x[x.isfinite()].square().sum() for x in found)

    results = []
    for function in (ours, dense):
        own = [x.clone().requires_grad_() for x in inputs]
        first = torch.autograd.grad(function(*own), own, create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(x.sin().sum() for x in first), own)])
    assert_equal(*results, 1e-10)


@pytest.mark.parametrize("reduce", ["lse", "softplus"])
def test_gradgradcheck(reduce):
    a, b = torch.randn(2, 5, 3, dtype=torch.float64).requires_grad_().unbind()
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def function(a, b, scale):
        return pair_loss(a, b, scale=scale, reduce=reduce, positives="same_index", cols=True, row_positive_weight=-1.0)

    assert torch.autograd.gradgradcheck(function, (a, b, scale))


def test_rows_that_keep_nothing():
    a, b = torch.randn(2, 4, 3, dtype=torch.float64).unbind()
    mask = torch.eye(4, dtype=torch.bool)
    mask[1] = False
    a.requires_grad_()
    (first,) = torch.autograd.grad(pair_loss(a, b, mask=mask, cols=True, col_weight=0.5), a, create_graph=True)
    (found,) = torch.autograd.grad(first.square().sum(), a)
    assert found.isfinite().all()


MASK = torch.tensor([[False, False], [True, True], [False, False]])
NOTHING = {  # a function of (n, 3), (n, 2, 3), and of how many items
    "mil_nce, one video": (
        partial(contrastile.mil_nce, temperature=1.0), partial(contrastile.reference.mil_nce, temperature=1.0), 1,
    ),
    "mil_nce, no texts": (
        partial(contrastile.mil_nce, mask=MASK), partial(contrastile.reference.mil_nce, mask=MASK), 3,
    ),
    "hard negatives alone": (
        lambda x, y: contrastile.info_nce(x, x + 1.0, hard_negatives=y),
        lambda x, y: contrastile.reference.info_nce(x, x + 1.0, hard_negatives=y), 1,
    ),
    "no other candidate": (
        lambda x, y: pair_reduce(x, y.flatten(0, 1), keep="same_index", positives="same_index", split=True).rows.sum(),
        lambda x, y: (x * y[:, 0]).sum(), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_nothing_or_little_beside_the_positive(name):
    """torch's own second derivatives of logaddexp are NaN there."""
    function, reference, n = NOTHING[name]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, 3), (n, 2, 3))]
    found = [second(each, Case(tuple(given), {}, 1.0)) for each in (function, reference)]
    assert_equal(*found, 1e-9)


def test_a_gradient_penalty_trains():
    """Double backward on the way of an optimizer: two steps of unrolled descent."""
    x, y = torch.randn(2, 8, 4).unbind()
    shift = torch.zeros(4, requires_grad=True)
    results = []
    for loss_of in (contrastile.clip_loss, contrastile.reference.clip_loss):
        inner = x + shift
        for _ in range(2):
            (step,) = torch.autograd.grad(loss_of(inner, y, 3.0), inner, create_graph=True)
            inner = inner - 0.5 * step
        results += torch.autograd.grad(loss_of(inner, y, 3.0), shift)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("card", [card for card in CATALOG if card.name in REFUSED], ids=id_of)
def test_other_losses_refuse(card, reduction):
    """It would be silently wrong: the other terms of what is differentiated hide the missing one."""
    case = differentiable(default(card))
    x = leaves(case)[0]
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    (gradient,) = torch.autograd.grad(call(card, case, **options).sum(), x, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match="double backward"):
        (gradient.square().sum() + x.square().sum()).backward()


@every_pair_loss
def test_third_derivatives_are_refused(card):
    if card.name in REFUSED:
        pytest.skip("refuses the second")
    case = differentiable(default(card, 5, 4))
    x = leaves(case)[0]
    (first,) = torch.autograd.grad(call(card, case), x, create_graph=True)
    (second_derivative,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative.square().sum().backward()


@needs_linux
@pytest.mark.parametrize("rows", by_default((2048, 4096), 2048))
def test_memory_is_that_of_chunks(rows):
    """All pairs in float32 would be 17 and 67 MB, and autograd would hold a dozen times that."""
    step = "torch.autograd.grad(contrastile.clip_loss(x, y, 10.0), x, create_graph=True)[0].square().sum()"
    assert peak_bytes(step, rows=rows) < 100 << 20
