"""Steps of cached_backward that every rank must refuse, and what else must hold beside the gradients of a step."""

import copy
import functools
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrastile.distributed import cached_backward

from .caching_worker import CASES, WIDTH, Case, Towers, attempt, full, sharded, towers, trainings

# ---- refused on all ranks before a gradient is touched ---------------------------------------------------------------


def refused(wrapped: Any, net: nn.Module, pieces: Any = None, encoder: Any = None) -> tuple[str, bool]:
    """The error, and whether gradients are still those of before."""
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    before = [full(p.grad) for p in net.parameters()]
    loss = Case(scale=True).loss(net, dist.group.WORLD)
    columns = [[(route, y) for y in (pieces or x.split(2))] for route in ("q", "d")]
    text = attempt(lambda: cached_backward(encoder or wrapped, columns, loss))
    return str(text), before == [full(p.grad) for p in net.parameters()]


def static_graph(rank: int) -> Any:
    net = towers()
    return refused(DistributedDataParallel(net, static_graph=True), net)


def mixed_precision(rank: int) -> Any:
    from torch.nn.parallel.distributed import _MixedPrecision

    net = towers()
    wrapped = DistributedDataParallel(net)
    wrapped.mixed_precision = _MixedPrecision(param_dtype=torch.float32)
    return refused(wrapped, net)


def frozen_later(rank: int) -> Any:
    net = towers()
    wrapped = DistributedDataParallel(net)
    net.q.layers[2].weight.requires_grad_(False)
    return refused(wrapped, net)


def unfrozen_later(rank: int) -> Any:
    net = towers()
    wrapped = DistributedDataParallel(net, find_unused_parameters=True)
    net.ice.requires_grad_(True)
    return refused(wrapped, net)


def joined(rank: int) -> Any:
    net = towers()
    wrapped = DistributedDataParallel(net)
    with wrapped.join():
        return refused(wrapped, net)


def sharded_uneven(rank: int) -> Any:
    net = towers()
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    return refused(sharded(net), net, x.split(2 + 2 * (rank == 0)))


def batch_norm_uneven(rank: int) -> Any:
    net = Towers()
    net.q.layers[1] = nn.BatchNorm1d(6)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net.double())
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    return refused(net, net, x.split(2 + 2 * (rank == 0)))  # DistributedDataParallel takes these on GPUs alone


def one_rank_within_no_sync(rank: int) -> Any:
    net = towers()
    wrapped = DistributedDataParallel(net)
    with wrapped.no_sync() if rank == 0 else nullcontext():
        return refused(wrapped, net)


def one_rank_fails(rank: int) -> Any:
    net = towers()
    wrapped = DistributedDataParallel(net)
    route = "no such tower" if rank == 0 else "d"
    return refused(wrapped, net, encoder=[wrapped, lambda piece: wrapped((route, piece[1]))])


def other_modules(rank: int) -> Any:
    net = towers()
    first, second = DistributedDataParallel(net.q), DistributedDataParallel(net)
    return refused(second, net, encoder=[second, (lambda piece: first(piece[1])) if rank == 0 else second])


REFUSALS = {
    static_graph: "static_graph=True",
    mixed_precision: "mixed_precision",
    joined: "join()",
    frozen_later: "q.layers.2.weight required gradients",
    unfrozen_later: "ice.layers.0.weight did not require gradients",
    sharded_uneven: "encode the same number of pieces, since fully_shard",
    batch_norm_uneven: "encode the same number of pieces, since SyncBatchNorm",
    one_rank_within_no_sync: "no_sync",
    one_rank_fails: "no such tower",
    other_modules: "same modules",
}


# ---- other things that must hold -------------------------------------------------------------------------------------


def reductions(rank: int) -> tuple[int, int]:
    """How often a communication hook runs in a step: as often as in a step of one piece without cache."""
    counts = []
    for cached in (True, False):
        net = towers()
        wrapped = DistributedDataParallel(net, find_unused_parameters=True)
        seen: list[int] = []

        def hook(state: Any, bucket: dist.GradBucket, seen: list[int] = seen) -> torch.futures.Future[torch.Tensor]:
            seen.append(1)
            future = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
            return future.then(lambda f: f.value()[0])

        wrapped.register_comm_hook(None, hook)
        x = torch.ones(4, WIDTH, dtype=torch.float64)
        if cached:
            cached_backward(wrapped, [[("q", y) for y in x.split(1)]] * 2, Case().loss(net, dist.group.WORLD))
        else:
            wrapped(("q", x)).sum().backward()
        counts.append(len(seen))
    return counts[0], counts[1]


def unused_stays_none(rank: int) -> list[str]:
    """Parameters with a gradient after a step in which rank 0 alone reaches tower d, and nobody a third."""
    net = towers()
    net.ice.requires_grad_(True)
    wrapped = DistributedDataParallel(net, find_unused_parameters=True)
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    pieces = [("q", x[:2]), ("d" if rank == 0 else "q", x[2:])]
    cached_backward(wrapped, [pieces, pieces], Case().loss(net, dist.group.WORLD))
    return sorted({name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None})


def flags_come_back(rank: int) -> list[bool]:
    net = towers()
    sharded(net, nested=True)
    net.set_requires_gradient_sync(True)
    net.q.set_requires_gradient_sync(False)
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    cached_backward(net, [[("q", y) for y in x.split(2)]] * 2, Case().loss(net, dist.group.WORLD))
    return [part._get_fsdp_state()._fsdp_param_group.reduce_grads for part in (net, net.q, net.d.layers)]


def statistics(rank: int) -> float:
    """Running statistics of rank 0 against those of forward passes without cache, on every rank after the next call,
    and gradients; ranks begin with statistics of their own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4)).double()
    twin = copy.deepcopy(net)
    net[1].running_mean += rank
    wrapped = DistributedDataParallel(net)
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cached_backward(wrapped, [x.split(4)] * 2, Case().loss(net, dist.group.WORLD))
    for part in (*x.split(4), *x.split(4)):
        twin(part)
    return float((net[1].running_mean - twin[1].running_mean).abs().max() + (net[1].num_batches_tracked - 4).abs())


OTHERS = (reductions, unused_stays_none, flags_come_back, statistics)


def everything(rank: int) -> dict[str, Any]:
    found = trainings(rank, CASES)
    for function in (*OTHERS, *REFUSALS):
        found[function.__name__] = attempt(functools.partial(function, rank))
        dist.barrier()
    return found
