"""Symile beyond what every catalog row gets: any number of modalities, slabs, converged and odd inputs, memory."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.library import opcheck

import contrastile
from contrastile import mip_similarity, reference, symile_loss
from contrastile.catalog import CATALOG
from contrastile.catalog.modalities import mips
from contrastile.ops import multilinear
from contrastile.testing import compare
from support.combinations import by_default, each_once
from support.loss_cases import HALF, id_of, usable

CARD = next(card for card in CATALOG if card.name == "symile_loss")
NEGATIVES = ("n", "n_squared")
BACKENDS = [name for name, _ in usable("cpu", (torch.float32,))]
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_backend_and_dtype = pytest.mark.parametrize("backend, dtype", usable("cpu"), ids=id_of)
with_both = pytest.mark.parametrize("negatives", NEGATIVES)


def case_of(k, n, d, dtype=torch.float32, negatives="n_squared", scale=14.3, radius=1.0):
    """Matched modalities; a budget for scores of some size or none."""
    options = {} if negatives == "n" else {"negatives": negatives}
    return mips(k, scale, radius, **options)(n, d, torch.Generator().manual_seed(100 * n + k), dtype)


def assert_right(case, **options):
    found = compare(CARD, case, **options)
    assert found.ok, found.detail


def modalities(k, n, d, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(n, d, generator=g), dim=1).to(dtype).requires_grad_() for _ in range(k)]


def identity(k, n):
    return torch.arange(n).expand(k, k - 1, n)


def shifts(k, n):
    """Permutations that differ between modalities and anchors, and are easy to follow."""
    rows = [torch.arange(n).roll(1 + index) for index in range(k * (k - 1))]
    return torch.stack(rows).view(k, k - 1, n)


# ---- the reference against loops over Python floats


def loop_logit(lists, scale, index):
    return scale * sum(math.prod(x[t][d] for x, t in zip(lists, index, strict=True)) for d in range(len(lists[0][0])))


def loop_loss(lists, scale, tuples_of):
    """Mean over items and anchors; tuples_of(m, i) are the index tuples of the denominator."""
    k, n, total = len(lists), len(lists[0]), 0.0
    for m, i in itertools.product(range(k), range(n)):
        logits = [loop_logit(lists, scale, t) for t in tuples_of(m, i)]
        total += math.log(sum(map(math.exp, logits))) - loop_logit(lists, scale, (i,) * k)
    return total / (k * n)


@pytest.mark.parametrize("k, n", [(2, 4), (3, 3), (4, 2)])
def test_the_reference_equals_literal_loops(k, n):
    batches = modalities(k, n, 3, torch.float64)
    lists = [x.tolist() for x in batches]
    orders = shifts(k, n)

    def mixed(m, i):
        for j in range(n):
            others = [i if j == i else int(order[j]) for order in orders[m]]
            yield (*others[:m], i, *others[m:])

    def every(m, i):
        return [t for t in itertools.product(range(n), repeat=k) if t[m] == i]

    for options, tuples_of in (({"permutations": orders}, mixed), ({"negatives": "n_squared"}, every)):
        found = reference.symile_loss(*batches, logit_scale=2.5, **options)
        assert abs(found.item() - loop_loss(lists, 2.5, tuples_of)) < 1e-12


@with_both
def test_the_gradients_of_the_reference(negatives):
    batches, scale = modalities(3, 3, 2, torch.float64), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    options = {"permutations": shifts(3, 3)} if negatives == "n" else {"negatives": negatives}
    assert gradcheck(
        lambda s, *x: reference.symile_loss(*x, logit_scale=s, reduction="none", **options), (scale, *batches)
    )


def test_the_reference_refuses_other_negatives():
    with pytest.raises(ValueError, match="got 'm'"):
        reference.symile_loss(*modalities(2, 2, 2), logit_scale=1.0, negatives="m")


# ---- values and every gradient


@with_both
@on_every_backend_and_dtype
@pytest.mark.parametrize("k, n, d", [(2, 9, 5), (3, 17, 1), (3, 40, 33), (4, 2, 3), (4, 12, 8), (5, 5, 7), (6, 3, 4)])
def test_any_number_of_modalities(backend, dtype, negatives, k, n, d):
    for reduction in ("mean", "none"):
        assert_right(case_of(k, n, d, dtype, negatives), backend=backend, reduction=reduction)


@on_every_backend
@pytest.mark.parametrize("rows", [1, 30, 100])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_slabs_may_share_a_call_or_not(backend, rows, k, monkeypatch):
    monkeypatch.setattr(multilinear, "GROUP_ROWS", rows)
    assert_right(case_of(k, 10, 6), backend=backend)


@with_both
@on_every_backend
@pytest.mark.parametrize("budget", [0, 100, 5_000, 1 << 40])
def test_any_memory_budget_is_right(backend, negatives, budget):
    assert_right(case_of(3, 21, 8, negatives=negatives), backend=backend, memory_budget=budget)


@on_every_backend
@with_both
def test_the_memory_budget_is_used_and_kept(backend, negatives):
    """Scores that fit are saved for backward, and nothing beyond the budget."""
    batches, every = modalities(3, 32, 8), 3 * 4 * 32**2 if negatives == "n" else 4 * 32**3

    def saved(budget):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            symile_loss(*batches, logit_scale=3.0, negatives=negatives, memory_budget=budget, backend=backend)
        return sum(sizes)

    assert saved(every) == saved(0) + every
    assert saved(0) < saved(999) <= saved(0) + 999


@on_every_backend
@pytest.mark.parametrize("scale", [0.0, -9.0, 1000.0, 200])
@with_both
def test_scales_of_any_size_and_sign(backend, negatives, scale):
    case = case_of(3, 18, 6, negatives=negatives, scale=abs(scale) or 1.0)
    case.kwargs["logit_scale"] = torch.tensor(float(scale))
    assert_right(case, backend=backend)
    if scale == 0.0:
        expected = math.log(18 if negatives == "n" else 18**2)
        assert abs(contrastile.symile_loss(*case.args, **case.kwargs, backend=backend).item() - expected) < 1e-5


@on_every_backend
@with_both
def test_features_of_layer_norm(backend, negatives):
    """Models without L2 normalisation have logits of hundreds; some rows then hold all the weight of others' sums."""
    case = case_of(3, 24, 96, negatives=negatives, scale=1.0, radius=math.sqrt(96))
    logits = torch.stack(case.args).prod(0).sum(1)
    assert logits.abs().max() > 50
    assert_right(case, backend=backend)
    assert_right(case, backend=backend, reduction="none")


@on_every_backend
@pytest.mark.parametrize("scale", [3.0, 300.0])
def test_every_item_has_its_own_upstream_gradient(backend, scale):
    """Of any sign, and zero: the anchors' statistics are folded into one per row, whatever their weights."""
    weight = torch.tensor([0.0, 0.0, -3.0, 1e-3, 2.0, 0.0, 1e4, -1.0])
    case = case_of(4, 8, 5, scale=scale)

    def gradients(function, dtype, **options):
        leaves = [x.to(dtype).detach().requires_grad_() for x in (*case.args, case.kwargs["logit_scale"])]
        rows = function(*leaves[:-1], logit_scale=leaves[-1], negatives="n_squared", reduction="none", **options)
        return torch.autograd.grad((rows * weight.to(dtype)).sum(), leaves)

    exact, twin = (gradients(reference.symile_loss, dtype) for dtype in (torch.float64, torch.float32))
    for x, right, plain in zip(gradients(symile_loss, torch.float32, backend=backend), exact, twin, strict=True):
        size = right.abs().max()
        allowed = 4 * (plain - right).abs().max() + 4e-7 * size + 1e-7 * scale * size
        assert (x - right).abs().max() <= allowed


def separated(k, n, margin):
    """Rows that make each true tuple `margin` heavier than all others: orthogonal, of norm margin^(1/k)."""
    return [(torch.eye(n, n + 2) * margin ** (1 / k)).requires_grad_() for _ in range(k)]


@on_every_backend
@with_both
@pytest.mark.parametrize("margin", [20.0, 60.0])
def test_small_losses_of_a_converged_model_keep_their_digits(backend, negatives, margin):
    """1 - softmax is never formed: e^-60 of weight on the negatives is a loss of e^-60, with its gradients."""
    options = {"permutations": shifts(3, 8)} if negatives == "n" else {"negatives": negatives}
    batches = separated(3, 8, margin)
    value = symile_loss(*batches, logit_scale=1.0, backend=backend, **options)
    found = torch.autograd.grad(value, batches)
    count = 7 if negatives == "n" else 63
    assert abs(value.item() / math.log1p(count * math.exp(-margin)) - 1) < 1e-4
    wide = [x.detach().double().requires_grad_() for x in batches]
    exact = symile_loss(*wide, logit_scale=1.0, **options)
    for x, right in zip(found, torch.autograd.grad(exact, wide), strict=True):
        assert right.abs().max() > 0
        torch.testing.assert_close(x.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


@on_every_backend
def test_two_modalities_with_all_negatives_are_clip(backend):
    x, y = modalities(2, 30, 8)
    found = symile_loss(x, y, logit_scale=9.0, negatives="n_squared", backend=backend)
    expected = contrastile.clip_loss(x, y, 9.0, backend=backend)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    pairs = (torch.autograd.grad(value, (x, y)) for value in (found, expected))
    for ours, clips in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, clips, rtol=1e-5, atol=1e-7)


@on_every_backend
def test_the_order_of_the_modalities_does_not_matter(backend):
    """Each takes another way through the sweep: rows, columns, slabs."""
    batches = modalities(4, 7, 6)
    expected = symile_loss(*batches, logit_scale=9.0, negatives="n_squared", backend=backend)
    grads = torch.autograd.grad(expected, batches)
    for order in itertools.permutations(range(4)):
        found = symile_loss(*(batches[i] for i in order), logit_scale=9.0, negatives="n_squared", backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        for x, y in zip(torch.autograd.grad(found, batches), grads, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


# ---- odd inputs


@on_every_backend
@with_both
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_negatives_no_loss(backend, negatives, n, reduction):
    batches, scale = modalities(3, n, 4), torch.tensor(5.0, requires_grad=True)
    value = symile_loss(*batches, logit_scale=scale, negatives=negatives, reduction=reduction, backend=backend)
    assert torch.equal(value, torch.zeros(n if reduction == "none" else ()))
    value.sum().backward()
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in (scale, *batches))


@on_every_backend
def test_the_operator_alone_takes_one_item(backend):
    batches, scale = modalities(3, 1, 4), torch.tensor(5.0, requires_grad=True)
    margins = multilinear.tuple_margins(batches, scale, memory_budget=0, backend=backend)
    assert torch.equal(margins, torch.full((3, 1), -torch.inf))
    torch.logaddexp(margins, torch.zeros(())).sum().backward()
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in (scale, *batches))


@on_every_backend
@with_both
def test_equal_items_are_told_apart_by_chance(backend, negatives):
    batches = [x.detach()[:1].expand(11, -1).clone().requires_grad_() for x in modalities(3, 1, 5)]
    value = symile_loss(*batches, logit_scale=80.0, negatives=negatives, backend=backend)
    assert abs(value.item() - math.log(11 if negatives == "n" else 121)) < 1e-4
    assert all(g.abs().max() < 1e-5 for g in torch.autograd.grad(value, batches))


@on_every_backend
def test_large_logits_leave_the_loss_its_digits(backend):
    """Peak and log total travel apart: 1024 + log 121 in one float32 would be off by 6e-5."""
    x = torch.zeros(11, 5)
    x[:, 0] = 1.0
    value = symile_loss(x, x, x, logit_scale=1024.0, negatives="n_squared", backend=backend)
    assert abs(value.item() - math.log(121)) < 1e-6


@on_every_backend
@with_both
def test_zero_rows_and_no_features(backend, negatives):
    case = case_of(3, 9, 5, negatives=negatives)
    for x in case.args:
        x[3] = 0.0
    assert_right(case, backend=backend)
    empty = [torch.zeros(6, 0, requires_grad=True) for _ in range(3)]
    value = symile_loss(*empty, logit_scale=2.0, negatives=negatives, backend=backend)
    assert abs(value.item() - math.log(6 if negatives == "n" else 36)) < 1e-5
    value.backward()
    assert empty[0].grad.shape == (6, 0)


@on_every_backend
@with_both
def test_the_layout_of_inputs_does_not_matter(backend, negatives):
    plain = case_of(3, 13, 6, negatives=negatives)
    kwargs = dict(plain.kwargs)
    if negatives == "n":
        kwargs["permutations"] = kwargs["permutations"].movedim(2, 0).contiguous().movedim(0, 2)
    x, y, z = plain.args
    strided = (x.T.contiguous().T, torch.stack([y, y], 1)[:, 1], z.flip(0).flip(0))
    found, expected = (symile_loss(*args, **kwargs, backend=backend) for args in (strided, plain.args))
    assert torch.equal(found, expected)


@with_both
def test_one_tensor_may_be_every_modality(negatives):
    x = modalities(1, 9, 5)[0]
    copies = [x.detach().clone().requires_grad_() for _ in range(3)]
    options = {"permutations": shifts(3, 9)} if negatives == "n" else {"negatives": negatives}
    (found,) = torch.autograd.grad(symile_loss(x, x, x, logit_scale=6.0, **options), x)
    parts = torch.autograd.grad(symile_loss(*copies, logit_scale=6.0, **options), copies)
    torch.testing.assert_close(found, sum(parts), rtol=1e-5, atol=1e-7)


@with_both
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@on_every_backend
def test_what_is_not_a_number_is_not_lost(backend, negatives, position, value):
    batches = [x.detach().clone() for x in modalities(3, 9, 5)]
    batches[position][4, 2] = value
    options = {"permutations": shifts(3, 9)} if negatives == "n" else {"negatives": negatives}
    loss = symile_loss(*batches, logit_scale=6.0, **options, backend=backend)
    assert loss.isnan() if math.isnan(value) else not loss.isfinite()


@with_both
@pytest.mark.parametrize("dtypes", [(torch.float32, *HALF), (torch.bfloat16, torch.float64, torch.float16)], ids=str)
def test_mixed_types_promote_like_torch(negatives, dtypes):
    options = {"permutations": shifts(3, 9)} if negatives == "n" else {"negatives": negatives}
    given = [x.detach().to(dtype) for x, dtype in zip(modalities(3, 9, 5), dtypes, strict=True)]
    wide = max(dtypes, key=lambda dtype: dtype.itemsize)
    found, expected = (symile_loss(*x, logit_scale=6.0, **options) for x in (given, [x.to(wide) for x in given]))
    assert torch.equal(found, expected) and found.dtype == expected.dtype


@pytest.mark.unpoisoned
def test_two_runs_give_equal_bits(two_threads):
    batches = modalities(3, 60, 16)
    runs = []
    for _ in range(2):
        value = symile_loss(*batches, logit_scale=9.0, negatives="n_squared")
        runs.append([value, *torch.autograd.grad(value, batches)])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


# ---- permutations


def test_permutations_come_from_the_generator():
    batches = modalities(3, 20, 6)

    def loss(seed):
        return symile_loss(*batches, logit_scale=9.0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(loss(3), loss(3))
    assert not torch.equal(loss(3), loss(4))


def test_permutations_are_drawn_as_in_the_official_code():
    """Without a generator: from torch's own, anchor by anchor, one for each other modality."""
    batches = modalities(3, 20, 6)
    torch.manual_seed(5)
    drawn = torch.stack([torch.randperm(20) for _ in range(6)]).view(3, 2, 20)
    expected = symile_loss(*batches, logit_scale=9.0, permutations=drawn)
    torch.manual_seed(5)
    assert torch.equal(symile_loss(*batches, logit_scale=9.0), expected)
    assert torch.equal(
        reference.symile_loss(*batches, logit_scale=9.0, permutations=drawn), seeded(reference.symile_loss, batches)
    )
    assert not torch.equal(symile_loss(*batches, logit_scale=9.0), expected)  # fresh ones for every call


def seeded(function, batches):
    return function(*batches, logit_scale=9.0, generator=torch.Generator().manual_seed(5))


def test_the_true_tuple_is_a_negative_only_off_the_diagonal():
    """Permutations that change nothing make column j the true tuple of j, for every anchor."""
    batches = modalities(3, 12, 6)
    anchors = []
    for m in range(3):
        x, product = batches[m], batches[(m + 1) % 3] * batches[(m + 2) % 3]
        anchors.append(F.cross_entropy(9.0 * x @ product.T, torch.arange(12), reduction="none"))
    found = symile_loss(*batches, logit_scale=9.0, permutations=identity(3, 12), reduction="none")
    torch.testing.assert_close(found, torch.stack(anchors).mean(0), rtol=1e-5, atol=1e-5)


# ---- errors

X = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
BAD = {
    "no modality": ((), {}, ValueError, "^modalities must be at least two tensors, got 0"),
    "one modality": ((X[0, 0],), {}, ValueError, "^modalities must be at least two tensors, got 1"),
    "third one shorter": ((*X[0, :2], X[0, 2, :5]), {}, ValueError, r"modalities\[2\] must have the shape .*\(5, 5\)"),
    "third one on another device": ((*X[0, :2], X[0, 2].to("meta")), {}, ValueError, r"modalities\[2\] .*got meta"),
    "a list": ((list(X[0]),), {}, ValueError, "got 1"),
    "negatives": (X[0], {"negatives": "all"}, ValueError, "^negatives must be one of 'n', 'n_squared', got 'all'"),
    "permutations of a list": (X[0], {"permutations": [[0]]}, TypeError, "^permutations must be a torch.Tensor"),
    "permutations of floats": (X[0], {"permutations": torch.zeros(3, 2, 6)}, TypeError, "int64, got torch.float32"),
    "permutations too short": (X[0], {"permutations": identity(3, 5)}, ValueError, r"\(3, 2, 6\), got \(3, 2, 5\)"),
    "permutations elsewhere": (X[0], {"permutations": identity(3, 6).to("meta")}, ValueError, "^permutations .*meta"),
    "both": (X[0], {"permutations": identity(3, 6), "generator": torch.Generator()}, ValueError, "^generator must"),
    "idle generator": (X[0], {"negatives": "n_squared", "generator": torch.Generator()}, ValueError, "draws nothing"),
    "idle orders": (X[0], {"negatives": "n_squared", "permutations": identity(3, 6)}, ValueError, "draws nothing"),
}  # fmt: skip


@pytest.mark.parametrize("args, kwargs, error, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        symile_loss(*args, logit_scale=2.0, **kwargs)


def test_the_scale_must_be_given():
    with pytest.raises(TypeError, match="logit_scale"):
        symile_loss(*X[0])


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_named_backend_never_falls_back(backend):
    call = {"logit_scale": 2.0, "negatives": "n_squared", "backend": backend}
    if backend == "cpu":
        with pytest.raises(contrastile.BackendUnsupported, match=r"torch\.float64"):
            symile_loss(*X[0].double(), **call)
    else:
        assert symile_loss(*X[0].double(), **call).dtype == torch.float64


# ---- inside PyTorch


def test_double_backward_is_refused():
    batches = modalities(3, 6, 4)
    value = symile_loss(*batches, logit_scale=2.0, negatives="n_squared")
    first = torch.autograd.grad(value, batches, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        first[0].sum().backward()


def test_function_transforms_are_refused():
    x, y, z = (x.detach() for x in modalities(3, 6, 4))
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.func.grad(lambda x: symile_loss(x, y, z, logit_scale=2.0, negatives="n_squared"))(x)
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.vmap(lambda x: symile_loss(x, y, z, logit_scale=2.0, negatives="n_squared"))(x[None])


def test_two_backward_passes_and_one_alone():
    batches, scale = modalities(3, 9, 4), torch.tensor(3.0, requires_grad=True)
    value = symile_loss(*batches, logit_scale=scale, negatives="n_squared")
    leaves = (scale, *batches)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    assert all(torch.equal(x, y) for x, y in zip(first, torch.autograd.grad(value, leaves), strict=True))
    for index, expected in enumerate(first):
        alone = [x.detach().clone() for x in leaves]
        alone[index].requires_grad_()
        value = symile_loss(*alone[1:], logit_scale=alone[0], negatives="n_squared")
        torch.testing.assert_close(*torch.autograd.grad(value, alone[index]), expected)


def test_no_grad_keeps_nothing_and_changes_nothing(monkeypatch):
    batches, make, sizes = modalities(3, 9, 4), multilinear.new_buffer, []
    monkeypatch.setattr(multilinear, "new_buffer", lambda *args: sizes.append(len(make(*args))) or make(*args))
    expected = symile_loss(*batches, logit_scale=3.0, negatives="n_squared")
    with torch.no_grad():
        silent = symile_loss(*batches, logit_scale=3.0, negatives="n_squared", memory_budget=1 << 20)
    assert not silent.requires_grad and torch.equal(silent, expected)
    assert sizes == [0, 0]


@on_every_backend
@pytest.mark.parametrize("budget", [0, 3_000, 1 << 20])
def test_the_operators_pass_opcheck(backend, budget):
    batches, scale = [x.detach() for x in modalities(4, 5, 4)], torch.tensor(3.0)
    ops = torch.ops.contrastile
    opcheck(ops.tuple_margins.default, (batches, scale, backend, budget))
    _, parts, scores = ops.tuple_margins.default(batches, scale, backend, budget)
    for needs in ([True] * 5, [False, True, False, False, True], [True, *[False] * 4]):
        arguments = (batches, scale, backend, parts, scores, torch.rand(4, 5), needs)
        opcheck(ops.tuple_margins_backward.default, arguments)


def test_one_tensor_for_all_compiles():
    torch._dynamo.reset()
    x = modalities(1, 9, 5)[0]
    compiled = torch.compile(symile_loss, backend="aot_eager", fullgraph=True)
    found = compiled(x, x, x, logit_scale=4.0, negatives="n_squared")
    expected = symile_loss(x, x, x, logit_scale=4.0, negatives="n_squared")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (found, expected)), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "k, dynamic",
    [*each_once((3, 4), (None, True)), *(pytest.param(2, x, marks=pytest.mark.slow) for x in (None, True))],
)
def test_all_tuples_compile_into_one_graph(k, dynamic):
    torch._dynamo.reset()

    def loss(scale, *x):
        return symile_loss(*x, logit_scale=scale, negatives="n_squared", normalize=True)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (7, 9, 10):
        leaves = [torch.tensor(4.0, requires_grad=True), *modalities(k, n, 5)]
        found, expected = compiled(*leaves), loss(*leaves)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        for x, y in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_drawn_permutations_compile_too():
    torch._dynamo.reset()
    compiled = torch.compile(symile_loss, backend="aot_eager", fullgraph=True)
    batches = modalities(3, 9, 5)
    torch.manual_seed(0)
    found = compiled(*batches, logit_scale=4.0)
    torch.manual_seed(0)
    torch.testing.assert_close(found, symile_loss(*batches, logit_scale=4.0), rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


# ---- memory

PROBE = """
import re, torch, torch.nn.functional as F
from pathlib import Path
from contrastile import MODULE

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def step(n):
    x = [F.normalize(torch.randn(n, 64), dim=1).requires_grad_() for _ in range(3)]
    FUNCTION(*x, logit_scale=10.0, negatives="NEGATIVES"BACKEND).backward()

step(20)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
step(ROWS)
print(peak() - before)
"""
needs_linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")


def peak_bytes(rows, negatives, backend=None):
    """Peak memory of forward and backward of three modalities with D = 64, of the reference without a backend."""
    module, function = ("symile_loss", "symile_loss") if backend else ("reference", "reference.symile_loss")
    names = {"MODULE": module, "FUNCTION": function, "NEGATIVES": negatives, "ROWS": str(rows)}
    code = PROBE.replace("BACKEND", f", backend={backend!r}" if backend else "")
    for name, value in names.items():
        code = code.replace(name, value)
    path = str(Path(contrastile.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@needs_linux
@pytest.mark.parametrize("backend", by_default(BACKENDS, "cpu"))
def test_the_peak_is_far_below_the_tuples(backend):
    """200^3 logits take 32 MB, the products of two modalities 10 MB."""
    assert peak_bytes(200, "n_squared", backend) < 16 * 10**6


@needs_linux
def test_the_reference_holds_the_tuples():
    assert peak_bytes(200, "n_squared") > 2 * 4 * 200**3


@needs_linux
def test_the_peak_of_shuffled_negatives_is_below_the_matrix():
    assert peak_bytes(8192, "n", "cpu") < 8192**2 * 4 / 2


@on_every_backend
@pytest.mark.parametrize("k, negatives, copies", [(3, "n", 16), (3, "n_squared", 4), (4, "n_squared", 5)])
def test_rows_are_saved_for_backward_not_tuples(backend, k, negatives, copies):
    """At most so many (N, D) float32 tensors, each storage counted once, and some numbers per row."""
    n, d = (64, 16) if negatives == "n_squared" and k == 4 else (256, 16)
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        symile_loss(*modalities(k, n, d), logit_scale=3.0, negatives=negatives, backend=backend)
    assert sum(storages.values()) <= copies * n * d * 4 + 40 * k * k * n


# ---- retrieval


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=id_of)
def test_scores_of_candidates(dtype):
    candidates, *queries = (x.detach() for x in modalities(4, 6, 5, dtype))
    queries = [x[:3] for x in queries]
    found = mip_similarity(candidates, queries, logit_scale=3.0)
    wide = [x.double() for x in queries]
    expected = [
        [3.0 * sum(c[d] * math.prod(q[i, d] for q in wide) for d in range(5)) for c in candidates.double()]
        for i in range(3)
    ]
    assert found.shape == (3, 6) and found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    twin = reference.mip_similarity(candidates.double(), wide, logit_scale=3.0)
    torch.testing.assert_close(found.double(), twin, rtol=1e-6, atol=1e-6)


def test_queries_that_are_one_vector():
    candidates, x, y = (x.detach() for x in modalities(3, 6, 5))
    one = mip_similarity(candidates, [x[2], y[2]])
    assert one.shape == (1, 6)
    torch.testing.assert_close(one, mip_similarity(candidates, [x, y])[2:3])
    shared = mip_similarity(candidates, [x[2], y])
    torch.testing.assert_close(shared, mip_similarity(candidates, [x[2].expand(6, 5), y]))


def test_scores_leave_the_queries_alone_and_have_gradients():
    candidates, x, y = modalities(3, 6, 5, torch.float64)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    assert gradcheck(lambda c, x, y, s: mip_similarity(c, [x, y], logit_scale=s), (candidates, x, y, scale))
    assert torch.equal(x, before)


def test_scores_under_autocast_stay_float32():
    candidates, x, y = (x.detach() for x in modalities(3, 6, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mip_similarity(candidates, [x, y])
    assert torch.equal(found, mip_similarity(candidates, [x, y]))


C, Q = X[0, 0], X[1, 0]
BAD_QUERIES = {
    "a tensor": ((C, Q), TypeError, "^queries must be a list of tensors.*got Tensor"),
    "nothing": ((C, []), ValueError, "^queries must hold at least one"),
    "a number": ((C, [Q, 1.0]), TypeError, r"^queries\[1\] must be a torch.Tensor, got float"),
    "widths": ((C, [Q[:, :4]]), ValueError, r"^queries\[0\] must have the width of candidates, 5, got 4"),
    "lengths": ((C, [Q, Q[:4]]), ValueError, r"^queries must have one number of rows, got \[4, 6\]"),
    "devices": ((C, [Q.to("meta")]), ValueError, r"^queries\[0\] must be on cpu .*got meta"),
    "candidates": ((C[0], [Q]), ValueError, "^candidates must have shape"),
}


@pytest.mark.parametrize("args, error, message", BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
def test_bad_queries_are_named(args, error, message):
    with pytest.raises(error, match=message):
        mip_similarity(*args)


def test_given_permutations_must_be_permutations():
    x = [torch.randn(5, 4) for _ in range(3)]
    for wrong in (torch.zeros(3, 2, 5, dtype=torch.int64), torch.arange(5).expand(3, 2, 5) + 1):
        with pytest.raises(ValueError, match=r"^permutations must hold every row number from 0 to 4"):
            contrastile.symile_loss(*x, logit_scale=1.0, permutations=wrong)
