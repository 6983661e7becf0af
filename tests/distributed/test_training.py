"""Training across ranks is training on the global batch: weights after ten steps against one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from contrastile.distributed import Ranks, cached_backward
from support.combinations import chosen
from support.launch import gather_from
from support.sharding import SIZES, span

from .two_towers import WORLD, batches, clip, model

pytestmark = pytest.mark.dist


def mine(*tensors: Tensor) -> list[Tensor]:
    return [x[span(SIZES[WORLD], dist.get_rank())] for x in tensors]


def train(step: Callable[[nn.Module, Tensor, Tensor], Any], net: nn.Module, dtype: torch.dtype) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.3, momentum=0.9)
    for image, text in batches(dtype):
        optimizer.zero_grad()
        step(net, image, text)
        optimizer.step()


@cache
def single(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    net = model(dtype)
    train(lambda n, image, text: clip(*n(image, text)).backward(), net, dtype)
    return [x.detach() for x in net.parameters()]


# ---- what each rank does: the largest difference of any weight from one process's ------------------------------------


def difference(net: nn.Module, dtype: torch.dtype = torch.float64) -> float:
    full = [x.full_tensor() if hasattr(x, "full_tensor") else x for x in net.parameters()]
    return max(float((x.detach() - y).abs().max()) for x, y in zip(full, single(dtype), strict=True))


def trained(net: nn.Module, strategy: str) -> float:
    def step(net: nn.Module, image: Tensor, text: Tensor) -> None:
        clip(*net(*mine(image, text)), group=Ranks(strategy=strategy)).backward()

    train(step, net, torch.float64)
    return difference(net)


def data_parallel(strategy: str) -> float:
    return trained(DistributedDataParallel(model()), strategy)


def sharded_parameters(strategy: str) -> float:
    net = model()
    mesh = init_device_mesh("cpu", (WORLD,))
    for part in (net.image, net.text):
        fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)

    return trained(net, strategy)


def checkpointed(strategy: str) -> float:
    net = DistributedDataParallel(model())

    def encode(encoder: nn.Module, x: Tensor) -> Tensor:
        features: Tensor = checkpoint(encoder, x, use_reentrant=False)
        return features

    net.module.image.forward = lambda x, f=net.module.image.forward: encode(f, x)

    return trained(net, strategy)


def compiled(strategy: str) -> float:
    """In one graph, with promised sizes."""
    net, sizes = DistributedDataParallel(model()), (5, 2, 4)
    ranks = Ranks(strategy=strategy, sizes=sizes)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return clip(image * 1.0, text * 1.0, scale, group=ranks) * 1.0

    def step(net: nn.Module, *both: Tensor) -> None:
        loss(*net(*(x[span(sizes, ranks.rank)] for x in both))).backward()

    train(step, net, torch.float64)
    return difference(net)


def cached(strategy: str) -> float:
    """In pieces of two rows; ranks have different numbers of pieces, one of them an empty one."""
    net = model()
    towers = [DistributedDataParallel(net.image), DistributedDataParallel(net.text)]
    scale = DistributedDataParallel(Scale(net.log_scale))

    def step(_: nn.Module, image: Tensor, text: Tensor) -> None:
        pieces = [list(x.split(2)) for x in mine(image, text)]
        cached_backward(towers, pieces, lambda a, b: clip(a, b, scale(), group=Ranks(strategy=strategy)))

    train(step, net, torch.float64)
    return difference(net)


class Scale(nn.Module):
    def __init__(self, log: nn.Parameter) -> None:
        super().__init__()
        self.log = log

    def forward(self) -> Tensor:
        return self.log.exp()


def accumulated(strategy: str) -> float:
    """Two joint batches a step, gradients added up without synchronising in between."""
    net, whole = DistributedDataParallel(model()), model()
    group = Ranks(strategy=strategy)
    (a, b), (c, d) = list(batches())[:2]
    with net.no_sync():
        clip(*net(*mine(a, b)), group=group).backward()
    clip(*net(*mine(c, d)), group=group).backward()
    for x in ((a, b), (c, d)):
        clip(*whole(*x)).backward()
    pairs = zip(net.parameters(), whole.parameters(), strict=True)
    return max(float((x.grad - y.grad).abs().max()) for x, y in pairs)


def under_autocast(strategy: str) -> float:
    """bfloat16 features: the same loss as one process under autocast, to the rounding of features."""
    net = model(torch.float32)
    image, text = next(batches(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        a, b, scale = net(image, text)
        whole = clip(a.bfloat16(), b.bfloat16(), scale)
        own = clip(*(x.bfloat16() for x in mine(a, b)), scale, group=Ranks(strategy=strategy))
    total = own.detach().clone()
    dist.all_reduce(total)
    return float((total / WORLD - whole).abs())


TRAININGS = (
    data_parallel, sharded_parameters, checkpointed, compiled, cached, accumulated, under_autocast
)  # fmt: skip


def cases() -> Iterator[Any]:
    """Each with one strategy by default, in turn."""
    strategies = ("ring", "gather")
    for place, training in enumerate(TRAININGS):
        for strategy in strategies:
            slow = strategy != strategies[place % 2]
            yield pytest.param(training, strategy, marks=pytest.mark.slow if slow else ())


def trainings(rank: int, wanted: list[tuple[Callable[[str], float], str]]) -> dict[tuple[str, str], float]:
    return {(f.__name__, strategy): f(strategy) for f, strategy in wanted}


@pytest.fixture(scope="module")
def found(request):
    wanted = chosen(request, "test_weights_equal_those_of_one_process")
    return gather_from(WORLD, trainings, [(x["training"], x["strategy"]) for x in wanted])


@pytest.mark.parametrize("training, strategy", list(cases()), ids=lambda x: getattr(x, "__name__", x))
def test_weights_equal_those_of_one_process(found, training, strategy):
    limit = 1e-6 if training is under_autocast else 1e-12
    for result in found:
        assert isinstance(result, dict), result
        assert result[training.__name__, strategy] < limit


def test_the_comparison_notices_a_rank_that_is_left_out():
    """Ten steps on a part of the batch end far from ten steps on all of it."""
    net = model()
    train(lambda n, image, text: clip(*n(image[:6], text[:6])).backward(), net, torch.float64)
    assert difference(net) > 1e-2
