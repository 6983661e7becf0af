"""Small calls on a CPU: one native call, few calls in Python."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import reference
from contrastile.backends import cpu_small, native

needs_cpu_module = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")
pytestmark = needs_cpu_module
PACKAGE = str(Path(contrastile.__file__).parent)
CALLS = {"recorded": 24, "as it is written": 186}  # of functions of the package in a step of clip_loss


@pytest.fixture
def at_once(monkeypatch):
    """The calls that were one native call."""
    made = []
    run = cpu_small.SmallCall.of_tensors
    monkeypatch.setattr(cpu_small.SmallCall, "of_tensors", lambda *given: (made.append(given), run(*given))[1])
    return made


def rows(*shape, dtype=torch.float32, seed=0):
    found = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(found, dim=-1).to(dtype)


def gradients(loss, dtype, inputs, **options):
    """The loss and its gradients of copies of the inputs in this type, of a learned temperature last."""
    copies = [x.detach().to(dtype).requires_grad_() for x in inputs]
    temperature = torch.tensor(0.1, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    value = loss(copies, temperature, **options)
    value.backward()
    return [value.detach(), *(x.grad for x in (*copies, temperature))]


def compare(loss, dense, inputs, **options):
    """Of the type of the inputs against the dense form in float64."""
    dtype = inputs[0].dtype
    found, right = gradients(loss, dtype, inputs, **options), gradients(dense, torch.float64, inputs, **options)
    # bfloat16: score gradients and gradients are rounded to it
    share = 2e-6 if dtype == torch.float32 else 2**-7
    for index, (x, y) in enumerate(zip(found, right, strict=True)):
        limit = 2e-6 if index == 0 else share  # the loss itself is float32
        # a temperature's is a sum over all pairs, which cancels: the terms of a row add up to about 1
        size = max(float(y.abs().max()), 1e-3 if index < len(inputs) + 1 else 0.1) if y.numel() else 0.0
        assert bool(((x - y).abs() <= limit * size).all()), index


def python_calls(step):
    """Functions of the package that a step enters."""
    names = []

    def count(frame, event, argument):
        if event == "call":
            names.append(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(before)
    return names


@pytest.mark.parametrize("way", CALLS)
def test_a_step_of_clip_loss_makes_few_calls(way):
    """Python between the call and the crossing costs as much as the products of a small batch."""
    image, text = (rows(64, 128, seed=seed).requires_grad_() for seed in (0, 1))
    loss = contrastile.clip_loss if way == "recorded" else contrastile.clip_loss.__wrapped__

    def step():
        loss(image, text, 20.0).backward()

    for _ in range(2):  # what is made once is there
        step()
    names = python_calls(step)
    assert sum(name.startswith((PACKAGE, "<string>")) for name in names) <= CALLS[way]


# ---- blocks of columns


@pytest.mark.parametrize("sizes", [(5, 3), (1, 70, 2), (33, 0, 31, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_columns_of_one_call(at_once, sizes, dtype):
    """Panels have columns of several blocks; an empty block is none."""
    n, d = 7, 19
    blocks = [rows(m, d, dtype=dtype, seed=k) for k, m in enumerate(sizes)]

    def loss(given, scale):
        return contrastile.pair_loss(given[0], given[1:], scale=scale, row_weight=1 / n, cols=True, col_weight=0.5)

    def dense(given, scale):
        z = scale * given[0] @ torch.cat(given[1:]).T
        return z.logsumexp(1).mean() + 0.5 * z.logsumexp(0).sum()

    compare(loss, dense, [rows(n, d, dtype=dtype, seed=9), *blocks])
    assert len(at_once) == 1


EXTREMES = torch.tensor([0, 1, 2**63 - 1, -(2**63), 5, 5, 0])


@pytest.mark.parametrize("kind", ["ids", "groups", "labels"])
def test_blocks_without_an_operand_are_like_no_row(at_once, kind):
    """Also where rows have the smallest and the largest number there is, and 0, which stands in their place."""
    n, d = 7, 12
    a, own, other, far = rows(n, d), rows(n, d, seed=1), rows(40, d, seed=2), rows(3, d, seed=3)
    numbers = torch.eye(n, dtype=torch.bool) if kind == "labels" else EXTREMES
    rule = {"ids": "other_id", "groups": "other_group", "labels": "no_shared_label"}[kind]
    operands = {f"row_{kind}": numbers, f"col_{kind}": [numbers, None, None]}
    same = numbers.float() @ numbers.float().T > 0 if kind == "labels" else numbers[:, None] == numbers

    def loss(given, scale):
        return contrastile.pair_loss(given[0], given[1:], scale=scale, keep=rule, **operands)

    def dense(given, scale):
        z = scale * given[0] @ torch.cat(given[1:]).T
        return z.masked_fill(F.pad(same, (0, 43)), -torch.inf).logsumexp(1).sum()

    compare(loss, dense, [a, own, other, far])
    assert len(at_once) == 1


def test_more_blocks_than_a_call_takes_go_the_general_way(at_once):
    a, blocks = rows(6, 8), [rows(3, 8, seed=k) for k in range(len(cpu_small.BLOCKS) + 1)]
    found = contrastile.pair_loss(a, blocks)
    assert not at_once
    assert float((found - (a @ torch.cat(blocks).T).logsumexp(1).sum()).abs()) < 1e-5


# ---- columns of each row alone, and rows that are one item


@pytest.mark.parametrize("n, k, d", [(33, 4, 17), (1, 3, 5), (6, 0, 8), (9, 40, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_private_columns(at_once, n, k, d, dtype, symmetric):
    inputs = [rows(n, d, dtype=dtype), rows(n, d, dtype=dtype, seed=1), rows(n, k, d, dtype=dtype, seed=2)]
    queue = rows(2 * n + 1, d, dtype=dtype, seed=3)

    def of(module):
        def loss(given, temperature):
            query, key, hard = given
            return module.info_nce(
                query, key, hard_negatives=hard, negatives=queue.to(query.dtype), temperature=temperature,
                symmetric=symmetric,
            )  # fmt: skip

        return loss

    compare(of(contrastile), of(reference), inputs)
    assert len(at_once) == 1


def test_private_columns_of_many_rows_go_the_general_way(monkeypatch, at_once):
    inputs = [rows(8, 6), rows(8, 6, seed=1), rows(8, 3, 6, seed=2)]

    def loss(given, temperature):
        return contrastile.info_nce(given[0], given[1], hard_negatives=given[2], temperature=temperature)

    small = gradients(loss, torch.float32, inputs)
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 0)
    large = gradients(loss, torch.float32, inputs)
    assert len(at_once) == 1
    for x, y in zip(small, large, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("k, n", [(2, 9), (3, 32), (5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_of_an_instance_are_one_item(at_once, k, n, dtype):
    def of(module):
        return lambda given, temperature, **options: module.mv_infonce(given, temperature=temperature, **options)

    inputs = [rows(n, 13, dtype=dtype, seed=seed) for seed in range(k)]
    compare(of(contrastile), of(reference), inputs)
    weights = torch.arange(float(n))
    compare(of(contrastile), of(reference), inputs, weights=weights, reduction="sum")
    assert len(at_once) == 2


def test_converged_views_keep_their_digits(at_once):
    """Two views, both the identity: log(1 + 12 / (2 e^(1 / t))), which is 6 e^(-1 / t) to 30 digits."""
    x, t = torch.eye(4, 8), torch.tensor(0.014, requires_grad=True)
    value = contrastile.mv_infonce([x, x], temperature=t)
    value.backward()
    right = 6.0 * math.exp(-1.0 / 0.014)
    assert float(value.detach()) == pytest.approx(right, rel=1e-4)
    assert float(t.grad) == pytest.approx(right / 0.014**2, rel=1e-4)
    assert len(at_once) == 1


# ---- the backward pass


def test_a_kept_graph_gives_its_gradients_again(at_once):
    """Gradients may be handed over as they are only where nobody asks for them again."""
    a, b = rows(5, 4).requires_grad_(), rows(5, 4, seed=1).requires_grad_()
    value = contrastile.info_nce(a, b)
    first = torch.autograd.grad(value, (a, b), retain_graph=True)
    expected = [x.clone() for x in first]
    for x in first:
        x.mul_(7.0)
    value.backward(retain_graph=True)
    a.grad.add_(1.0)
    again = torch.autograd.grad(3.0 * value, (a, b))
    for x, y in zip(again, expected, strict=True):
        torch.testing.assert_close(x, 3.0 * y)
    assert len(at_once) == 1


def test_upstream_gradients_in_batches():
    a, b = rows(5, 4).requires_grad_(), rows(5, 4, seed=1).requires_grad_()
    value = contrastile.info_nce(a, b)
    found = torch.autograd.grad(value, (a, b), torch.tensor([1.0, 2.0]), is_grads_batched=True, retain_graph=True)
    for x, y in zip(found, torch.autograd.grad(value, (a, b)), strict=True):
        torch.testing.assert_close(x, torch.stack([y, 2.0 * y]))


def test_inputs_changed_in_between_are_seen():
    a, b = rows(5, 4).requires_grad_(), rows(5, 4, seed=1).requires_grad_()
    value = contrastile.info_nce(a, b)
    with torch.no_grad():
        a.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_only_wanted_gradients_are_formed(at_once):
    a, b = rows(5, 4), rows(5, 4, seed=1).requires_grad_()
    contrastile.info_nce(a, b).backward()
    with torch.no_grad():
        contrastile.info_nce(a, b)
    assert [len(call.shapes) for call, _ in at_once] == [1, 0]
