"""Losses across ranks inside one graph of torch.compile: value and all gradients against the float64 reference of the
global batch, on two equal ranks and on three uneven ones."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import contrastile
from contrastile import reference
from contrastile.catalog import CATALOG
from contrastile.distributed import Ranks
from contrastile.testing import compare
from support.launch import gather_from
from support.loss_cases import make
from support.pairing import Pairing
from support.sharding import jointly

from .catalog_worker import STRATEGIES, WIDTH, offered

pytestmark = pytest.mark.dist
SIZES = {2: (6, 6), 3: (5, 2, 4)}
CARDS = {card.name: card for card in CATALOG}
Key = tuple[str, str]


def cases() -> Iterator[tuple[int, Key]]:
    """Every variant on two ranks, the first of each loss on three."""
    for card in CATALOG:
        for index, variant in enumerate(card.variants):
            if offered(card, variant):
                yield 2, (card.name, variant)
                if not index:
                    yield 3, (card.name, variant)


def wrong(rank: int, world: int, key: Key) -> str:
    """What is wrong, or nothing."""
    card = CARDS[key[0]]
    sizes, place = SIZES[world], CATALOG.index(card) + list(card.variants).index(key[1])
    case = make(card, key[1], sum(sizes), WIDTH, torch.float64)
    rows = [case.versions * size for size in sizes]
    whole = world == 3 or any(isinstance(x, Tensor) and x.dim() and len(x) % world for x in case.kwargs.values())
    ranks = Ranks(strategy=STRATEGIES[place % 2], replicated_negatives=whole, sizes=rows)
    torch._dynamo.reset()
    compiled = Pairing(torch.compile(card.function, backend="aot_eager", fullgraph=True), card.reference)
    try:
        found = compare(Pairing(jointly(compiled, case, ranks, sizes=sizes), card.reference), case)
        return "" if found.ok else found.detail
    except Exception:
        return traceback.format_exc()


@pytest.mark.slow
@pytest.mark.parametrize("world, key", list(cases()), ids=lambda x: "-".join(x) if isinstance(x, tuple) else str(x))
def test_one_graph_has_the_loss_of_the_joint_batch(world, key):
    assert gather_from(world, wrong, world, key) == [""] * world


# ---- several losses in one program, several promises, a group with a name


def program(package: Any, x: Tensor, y: Tensor, log_scale: Tensor, **options: Any) -> Tensor:
    """Neither loss needs the other's value: nothing but the order of the program orders them."""
    scale = log_scale.exp()
    return package.alignment(x, y, **options) * scale + package.clip_loss(x, y, scale, **options)


def difference(compiled: Any, ranks: Ranks) -> float:
    """Of value and gradients from those of one process."""
    g, rank, sizes = torch.Generator().manual_seed(7), ranks.rank, ranks.sizes
    whole = [*torch.randn(2, sum(sizes), 6, generator=g, dtype=torch.float64), torch.tensor(0.5).double()]
    own = [x.split(sizes)[rank] if x.dim() else x for x in whole]
    leaves, truths = ([x.clone().requires_grad_() for x in given] for given in (own, whole))
    value, truth = compiled(contrastile, *leaves, group=ranks), program(reference, *truths)
    found, wanted = [value.detach().clone()], [truth.detach()]
    for x, y in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(truth, truths), strict=True):
        found.append(x)
        wanted.append(y.split(sizes)[rank] if y.dim() else y)
    for x in (found[0], found[-1]):
        dist.all_reduce(x, group=ranks.process_group)
    return max(float((x / ranks.size - y).abs().max()) for x, y in zip(found, wanted, strict=True))


def programs(rank: int) -> tuple[list[float], list[int], str]:
    """Errors, and graphs so far, of one function whose promises change, in a group with a name; then without a
    promise."""
    torch._dynamo.reset()
    counter, group = CompileCounterWithBackend("aot_eager"), dist.new_group([0, 1])
    compiled = torch.compile(program, backend=counter, fullgraph=True, dynamic=True)
    errors, graphs = [], []
    for sizes in ((5, 2), (2, 3), (4, 7)):
        errors.append(difference(compiled, Ranks(group, sizes=sizes)))
        graphs.append(counter.frame_count)
    x = torch.ones(2, 3)
    try:
        torch.compile(contrastile.clip_loss, backend="eager", fullgraph=True)(x, x, 1.0, group=group)
        refusal = ""
    except torch._dynamo.exc.Unsupported as error:
        refusal = str(error)
    apart = torch.compile(contrastile.clip_loss, backend="eager")(x, x, 1.0, group=group)
    return [*errors, abs(float(apart) - math.log(4))], graphs, refusal


def test_losses_of_one_graph_meet_in_the_order_of_the_program():
    """One graph serves every promise. Without one the loss runs outside."""
    for errors, graphs, refusal in gather_from(2, programs):
        assert max(errors[:-1]) < 1e-12 and errors[-1] < 1e-6
        assert len(set(graphs)) == 1
        assert "the ranks compare sizes first, which no graph can hold; Ranks(sizes=...) promises them" in refusal
