"""FeatureQueue: first in, first out, its memory is what losses read, and MoCo."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import contrastile
from contrastile import FeatureQueue

D = 4


def rows(start, n, dim=D):
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, dim)


def test_the_last_features_stay_in_the_order_of_a_ring():
    queue, told = FeatureQueue(7, D, ids=True), []
    for n in (3, 2, 4, 0, 7, 5, 16, 1):
        queue.enqueue(rows(len(told), n), torch.arange(len(told), len(told) + n))
        told += range(len(told), len(told) + n)
        assert len(queue) == len(queue.features) == len(queue.ids) == min(len(told), 7)
        assert sorted(queue.ids.tolist()) == told[-7:]
        assert torch.equal(queue.features, queue.ids[:, None].float().expand(-1, D))


def test_what_a_loss_reads_is_the_queue_itself():
    queue = FeatureQueue(512, D)
    queue.enqueue(torch.randn(512, D))
    address = queue.features.data_ptr()
    queue.enqueue(torch.randn(100, D, requires_grad=True))
    assert queue.features.data_ptr() == queue.features.data_ptr() == address and not queue.features.requires_grad

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.data_ptr() != address:
                self.numbers = max(self.numbers, out.numel())
            return out

    with Largest() as seen:
        query = torch.randn(3, D, requires_grad=True)
        contrastile.info_nce(query, torch.randn(3, D), negatives=queue.features, memory_budget=0).backward()
    assert seen.numbers < 512 * D  # 3 x 515 scores are not it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_state_dict_and_types(dtype):
    queue = FeatureQueue(6, D, dtype=dtype, ids=True)
    queue.enqueue(torch.randn(4, D), torch.arange(4))
    other = FeatureQueue(6, D, dtype=dtype, ids=True)
    other.load_state_dict(queue.state_dict())
    for twin in (other, copy.deepcopy(queue), copy.deepcopy(queue).double()):
        assert twin.features.dtype == dtype and torch.equal(twin.features, queue.features)
        assert torch.equal(twin.ids, queue.ids) and not list(twin.buffers())
        twin.enqueue(torch.randn(3, D), torch.arange(3))
        assert len(twin) == 6 and len(queue) == 4


def test_moco():
    """Three steps of momentum contrast with the queue alone as negatives, beside its own dense code."""
    torch.manual_seed(0)
    first, inputs = F.normalize(torch.randn(8, D, dtype=torch.float64), dim=1), torch.randn(3, 2, 4, 6).double()
    found = {}
    for kind in ("ours", "dense"):
        torch.manual_seed(1)
        encoder = torch.nn.Linear(6, D).double()
        slow = copy.deepcopy(encoder).requires_grad_(False)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.5)
        queue = FeatureQueue(8, D, dtype=torch.float64)
        queue.enqueue(first)
        dense, place, losses = first.clone(), 0, []
        for x, y in inputs:
            with torch.no_grad():
                for p, q in zip(slow.parameters(), encoder.parameters(), strict=True):
                    p.mul_(0.9).add_(q, alpha=0.1)
                key = F.normalize(slow(y), dim=1)
            query = F.normalize(encoder(x), dim=1)
            if kind == "ours":
                alone = torch.zeros(4, dtype=torch.int64)  # equal ids: the other keys of the batch are no negatives
                loss = contrastile.info_nce(query, key, temperature=0.2, negatives=queue.features, query_ids=alone)
            else:
                logits = torch.cat([(query * key).sum(1, keepdim=True), query @ dense.clone().T], dim=1) / 0.2
                loss = F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            queue.enqueue(key)
            dense[place : place + 4], place = key, (place + 4) % 8
            losses.append(loss.detach())
        found[kind] = torch.stack(losses), encoder.weight.detach()
    for ours, dense in zip(found["ours"], found["dense"], strict=True):
        torch.testing.assert_close(ours, dense)


def nnclr(predicted, projected, memory):
    """Dwibedi et al. 2021: the nearest neighbour of each view in the queue must find the other view's prediction."""
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        neighbour = memory[(projected[own] @ memory.T).argmax(1)]
        total = total + F.cross_entropy(neighbour @ predicted[other].T / 0.1, torch.arange(len(neighbour))) / 2
    return total


def interclr(predicted, projected, memory):
    """The part within images of InterCLR's loss: the key of the other view against the queue."""
    logits = torch.cat([(predicted[0] * projected[1]).sum(1, keepdim=True), predicted[0] @ memory.T], 1) / 0.2
    return 0.75 * F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def of_queue(name, predicted, projected, memory):
    """The same in a few calls."""
    if name == "InterCLR":
        far = dict(negatives=memory, in_batch=False, temperature=0.2)
        return 0.75 * contrastile.info_nce(predicted[0], projected[1], **far)
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        nearest = contrastile.pair_reduce(projected[own], memory, reduce="max").row_argmax
        total = total + contrastile.info_nce(memory[nearest], predicted[other], temperature=0.1) / 2
    return total


@pytest.mark.parametrize("name", ["NNCLR", "InterCLR"])
def test_steps_of_methods_with_a_queue(name):
    """Value and gradients in each of five steps, while the queue goes round, beside a queue that is cut off."""
    torch.manual_seed(0)
    queue, encoder = FeatureQueue(10, D, dtype=torch.float64), torch.nn.Linear(6, D).double()
    predictor = torch.nn.Linear(D, D).double()
    memory = F.normalize(torch.randn(10, D, dtype=torch.float64), dim=1)
    queue.enqueue(memory)
    parameters, losses = [*encoder.parameters(), *predictor.parameters()], []
    for views in torch.randn(5, 2, 4, 6, dtype=torch.float64):
        features = encoder(views)
        predicted, projected = F.normalize(predictor(features), dim=2), F.normalize(features, dim=2).detach()
        truth = (nnclr if name == "NNCLR" else interclr)(predicted, projected, memory)
        loss = of_queue(name, predicted, projected, queue.features)
        torch.testing.assert_close(loss, truth, rtol=1e-12, atol=0)
        true = torch.autograd.grad(truth, parameters, retain_graph=True)
        for p, found, wanted in zip(parameters, torch.autograd.grad(loss, parameters), true, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)
            p.data.sub_(found)
        queue.enqueue(projected[0])
        memory = torch.cat([memory, projected[0]])[-10:]
        losses.append(loss.item())
    assert len(set(losses)) == 5


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_enqueued_before_backward_it_is_right_or_refused(reduction):
    """A scalar loss has formed its gradients; one of rows still reads the queue, and torch sees that it changed."""
    queue, query, key = FeatureQueue(8, D), torch.randn(3, D, requires_grad=True), torch.randn(3, D)
    queue.enqueue(torch.randn(8, D))

    def loss():
        return contrastile.info_nce(query, key, negatives=queue.features, reduction=reduction).sum()

    (truth,) = torch.autograd.grad(loss(), query)
    late = loss()
    queue.enqueue(key)
    if reduction == "mean":
        assert torch.equal(torch.autograd.grad(late, query)[0], truth)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            late.backward()


def test_an_empty_queue_is_no_negatives():
    query, key = torch.randn(2, 3, D)
    queue = FeatureQueue(8, D)
    assert torch.equal(contrastile.info_nce(query, key, negatives=queue.features), contrastile.info_nce(query, key))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FeatureQueue(0, D), ValueError, "size must be an int >= 1, got 0"),
        (lambda: FeatureQueue(8, 2.0), ValueError, r"dim must be an int >= 1, got 2\.0"),
        (lambda: FeatureQueue(8, D, dtype=torch.int64), TypeError, "dtype must be float32"),
        (lambda: FeatureQueue(8, D).enqueue(torch.zeros(3, 5)), ValueError, "features must have the width"),
        (lambda: FeatureQueue(8, D).enqueue(torch.zeros(3)), ValueError, "features must have shape"),
        (lambda: FeatureQueue(8, D).enqueue(rows(0, 2), torch.arange(2)), ValueError, "ids must be None"),
        (lambda: FeatureQueue(8, D, ids=True).enqueue(rows(0, 2)), ValueError, "ids must be given"),
        (lambda: FeatureQueue(8, D, ids=True).enqueue(rows(0, 2), torch.arange(3)), ValueError, "ids must have shape"),
        (lambda: FeatureQueue(8, D).ids, ValueError, "ids are not kept"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
