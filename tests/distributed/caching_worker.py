"""What each rank does with cached_backward: several steps of training, against one process with the global batch."""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import contrastile
from contrastile.distributed import cached_backward

STEPS, WIDTH = 3, 5
EVEN, UNEVEN = (4, 4, 4), (3, 6, 1)  # rows of each rank, in pieces of two


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


class Towers(nn.Module):
    """Three towers, one of them frozen, and the scale of the loss; a piece says which tower encodes it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.d, self.ice = Tower(), Tower(), Tower().requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor([1.5]))  # FSDP2 takes no scalars

    def forward(self, piece: tuple[str, Tensor]) -> Tensor:
        return getattr(self, piece[0])(piece[1])


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, piece: Any) -> Tensor:
        return self.inner(piece)


def towers() -> Towers:
    torch.manual_seed(0)
    return Towers().double()


# ---- how gradients are averaged, and how encoders reach the module that does it --------------------------------------


def data_parallel(net: nn.Module, **options: Any) -> nn.Module:
    return DistributedDataParallel(net, **options)


def sharded(net: Towers, nested: bool = False) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (net.q, net.d.layers, net.d) if nested else ():
        fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


WRAPS: dict[str, Callable[[Towers], nn.Module]] = {
    "ddp": data_parallel,
    "ddp unused": functools.partial(data_parallel, find_unused_parameters=True),
    "ddp views": functools.partial(data_parallel, gradient_as_bucket_view=True),
    "fsdp": sharded,
    "fsdp nested": functools.partial(sharded, nested=True),
}


def routed(wrapped: nn.Module, route: str, x: Tensor) -> Tensor:
    return wrapped((route, x))


def called(wrapped: nn.Module, how: str, routes: tuple[str, ...], pieces: list[list[Tensor]]) -> tuple[Any, Any]:
    """Encoders and batches for cached_backward."""
    with_routes = [[(route, x) for x in column] for route, column in zip(routes, pieces, strict=True)]
    if how == "module":
        return wrapped, with_routes
    if how == "outer module":
        return Outer(Outer(wrapped)), with_routes
    if how == "lambda":
        return [lambda x, route=route: wrapped((route, x)) for route in routes], pieces
    assert how == "partial"
    return [functools.partial(routed, wrapped, route) for route in routes], pieces


@dataclass(frozen=True)
class Case:
    wrap: str = "ddp"
    routes: tuple[str, ...] = ("q", "d")
    how: str = "module"
    rows: tuple[int, ...] = EVEN
    scale: bool = False  # of the loss is a parameter of the module
    detach: bool = False  # the loss needs no gradient of the second column
    accumulate: bool = False  # two batches a step, averaged after the second

    def loss(self, net: Towers, group: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def value(a: Tensor, b: Tensor) -> Tensor:
            scale = net.log_scale.exp() if self.scale else 5.0
            b = b.detach() if self.detach else b
            if group is not None:
                return contrastile.clip_loss(a, b, scale, group=group, backend="torch")
            scores, own = scale * a @ b.T, torch.arange(len(a))
            return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

        return value


def batches(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    n = sum(case.rows[: dist.get_world_size()])
    while True:
        x = torch.randn(n, WIDTH, generator=g, dtype=torch.float64)
        yield x, x + 0.3 * torch.randn(x.shape, generator=g, dtype=torch.float64)


def unsynchronised(wrapped: Any, off: bool) -> Any:
    if hasattr(wrapped, "no_sync"):
        return wrapped.no_sync() if off else nullcontext()
    wrapped.set_requires_gradient_sync(not off)
    return nullcontext()


def full(x: Tensor | None) -> Tensor | None:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def difference(net: nn.Module, whole: nn.Module) -> float:
    """The largest relative error of a parameter's gradient; one that should be None and is not zero is infinitely off.

    DistributedDataParallel gives zeros to what nobody reached, unless it looks for unused parameters."""
    worst = 0.0
    for x, y in zip(net.parameters(), whole.parameters(), strict=True):
        found = full(x.grad)
        if y.grad is None:
            worst = max(worst, 0.0 if found is None or not found.any() else torch.inf)
        elif found is None:
            return torch.inf
        else:
            worst = max(worst, float((found - y.grad).norm() / y.grad.norm()))
    return worst


def train(case: Case) -> list[float]:
    """The error of gradients in every step."""
    rank = dist.get_rank()
    start = sum(case.rows[:rank])
    mine = slice(start, start + case.rows[rank])
    net, whole = towers(), towers()
    wrapped = WRAPS[case.wrap](net)
    optimizers = [torch.optim.SGD(x.parameters(), 0.3, momentum=0.9) for x in (net, whole)]
    found = []
    data = batches(case)
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for off in (True, False) if case.accumulate else (False,):
            columns = next(data)
            pieces = [list(x[mine].split(2)) for x in columns]
            with unsynchronised(wrapped, off):
                cached_backward(*called(wrapped, case.how, case.routes, pieces), case.loss(net, dist.group.WORLD))
            encoded = [whole((route, x)) for route, x in zip(case.routes, columns, strict=True)]
            case.loss(whole, None)(*encoded).backward()
        found.append(difference(net, whole))
        for optimizer in optimizers:
            optimizer.step()
    return found


CASES = {
    "scale of the loss in the module": Case(scale=True),
    "scale of the loss in the module, unused": Case("ddp unused", scale=True),
    "two towers in one module": Case(),
    "views of buckets": Case("ddp views", scale=True, accumulate=True),
    "frozen last": Case("ddp unused", ("q", "ice"), scale=True),
    "frozen first": Case("ddp", ("ice", "d"), "lambda"),
    "all frozen but the scale": Case("ddp", ("ice", "ice"), scale=True),
    "column without gradient": Case("ddp unused", detach=True),
    "same tower twice": Case(routes=("q", "q"), scale=True),
    "in a lambda": Case(how="lambda", scale=True),
    "in a partial": Case(how="partial", rows=UNEVEN),
    "in other modules": Case("ddp unused", how="outer module"),
    "accumulated": Case(scale=True, accumulate=True),
    "uneven": Case("ddp unused", rows=UNEVEN, scale=True, accumulate=True),
    "sharded": Case("fsdp", scale=True),
    "sharded, nested": Case("fsdp nested", scale=True, accumulate=True),
    "sharded, frozen last": Case("fsdp nested", ("q", "ice"), scale=True, how="lambda"),
    "sharded, all frozen but the scale": Case("fsdp", ("ice", "ice"), scale=True),
    "sharded, column without gradient": Case("fsdp", detach=True, how="outer module"),
}  # fmt: skip


def product(wrap: str) -> dict[str, Case]:
    """Every loss with frozen towers in any place, in the ways to call a module by turns."""
    found = {}
    routes = [("q", "d"), ("q", "ice"), ("ice", "q"), ("q", "q")]
    ways = itertools.cycle(("module", "lambda", "partial", "outer module", "module"))
    rows = (EVEN,) if wrap.startswith("fsdp") else (EVEN, UNEVEN)
    for route, scale, detach, accumulate, sizes in itertools.product(routes, *[(False, True)] * 3, rows):
        case = Case(wrap, route, next(ways), sizes, scale, detach, accumulate)
        if scale or route[0] != "ice" or not detach:  # something learns
            found[str(case)] = case
    return found


def trainings(rank: int, cases: dict[str, Case]) -> dict[str, Any]:
    return {name: attempt(functools.partial(train, case)) for name, case in cases.items()}


def attempt(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
