"""Sub-groups, two groups at once, queues that all ranks hold, no gradients, second backward passes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile import reference
from contrastile.catalog import CATALOG
from contrastile.distributed import Ranks
from contrastile.testing import compare
from support.launch import gather_from
from support.loss_cases import make
from support.pairing import Pairing
from support.sharding import SIZES, jointly

pytestmark = pytest.mark.dist
WORLD = 4
STRATEGIES = ("gather", "ring")


def rows(rank: int, n: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(rank)
    return [F.normalize(torch.randn(n, 7, generator=g, dtype=torch.float64), dim=1) for _ in range(2)]


def share(loss: str, members: list[int], rank: int, ranks: Ranks, **options: float) -> float:
    """Largest difference of value and gradients from those of the members' global batch."""
    mine = [x.requires_grad_() for x in rows(rank)]
    value = getattr(contrastile, loss)(*mine, **options, group=ranks)
    value.backward()
    every = [torch.cat(x).requires_grad_() for x in zip(*map(rows, members), strict=True)]
    whole = getattr(reference, loss)(*every, **options)
    whole.backward()
    here = slice(5 * members.index(rank), 5 * members.index(rank) + 5)
    total = value.detach().clone()
    dist.all_reduce(total, group=ranks.process_group)
    errors = [(x.grad / len(members) - y.grad[here]).abs().max() for x, y in zip(mine, every, strict=True)]
    return float(torch.stack([(total / len(members) - whole).detach().abs(), *errors]).max())


def sub_groups(rank: int) -> dict[str, float]:
    halves = [[0, 2], [1, 3]]
    groups = [dist.new_group(members) for members in halves]
    members, group = halves[rank % 2], groups[rank % 2]
    found = {}
    for strategy in STRATEGIES:
        # the halves compute different losses at the same time; then each rank is in two groups within one step
        loss = "nt_xent" if rank % 2 else "info_nce"
        found[f"halves {strategy}"] = share(loss, members, rank, Ranks(group, strategy), temperature=0.2)
        found[f"all {strategy}"] = share("info_nce", list(range(WORLD)), rank, Ranks(None, strategy), temperature=0.2)
        found[f"two groups {strategy}"] = two_groups(rank, members, Ranks(group, strategy))
    try:
        contrastile.info_nce(*rows(rank), group=groups[1 - rank % 2])
    except ValueError as error:
        found["foreign"] = float("belongs to" not in str(error))
    return found


def two_groups(rank: int, members: list[int], half: Ranks) -> float:
    """One backward pass through a loss over all ranks and one over half of them."""
    x, y = (x.requires_grad_() for x in rows(rank))
    (contrastile.info_nce(x, y, group=Ranks()) + contrastile.nt_xent(x, y, group=half)).backward()
    grads = []
    for loss, who in ((reference.info_nce, list(range(WORLD))), (reference.nt_xent, members)):
        every = [torch.cat(z).requires_grad_() for z in zip(*map(rows, who), strict=True)]
        loss(*every).backward()
        start = 5 * who.index(rank)
        grads.append(len(who) * every[0].grad[start : start + 5])
    return float((x.grad - sum(grads)).abs().max())


def queues(rank: int) -> dict[str, str]:
    """Negatives that all ranks hold, against the reference that has them once."""
    cards, found = {card.name: card for card in CATALOG}, {}
    plain = ("negatives", "hard negatives", "margin", "smoothing", "symmetric smoothing", "row temperature")
    several = ("multi_positive", "queue"), ("sup_con", "keys")  # some of which are positives
    for name, variant in (*(("info_nce", variant) for variant in plain), *several):
        for dtype, strategy in product((torch.float64, torch.float32), STRATEGIES):
            card = cards[name]
            case = make(card, variant, sum(SIZES[WORLD]), 8, dtype)
            loss = jointly(card, case, Ranks(strategy=strategy, replicated_negatives=True))
            result = compare(Pairing(loss, card.reference), case)
            found[f"{name} {variant} {strategy} {dtype}"] = "" if result.ok else result.detail
    return found


def twice(rank: int) -> dict[str, str]:
    found = {}
    for strategy in STRATEGIES:
        x, y = (z.requires_grad_() for z in rows(rank))
        with torch.no_grad():
            quiet = contrastile.info_nce(x, y, group=Ranks(strategy=strategy))
        loss = contrastile.info_nce(x, y, group=Ranks(strategy=strategy))
        loss.backward(retain_graph=True)
        once = x.grad.clone()
        loss.backward()
        found[strategy] = "" if torch.equal(x.grad, 2 * once) and torch.equal(quiet, loss.detach()) else "differs"
        for reduction in ("mean", "none"):
            value = contrastile.info_nce(x, y, reduction=reduction, group=Ranks(strategy=strategy)).sum()
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            try:
                grad.sum().backward()
                found[f"{strategy} {reduction}"] = "differentiated twice"
            except RuntimeError as error:
                found[f"{strategy} {reduction}"] = "" if "double backward" in str(error) else str(error)
    return found


def own_lists(rank: int) -> dict[str, float]:
    """Private candidates, other numbers of them on every rank, from a bank of its own."""

    def lists(member: int, bank: Tensor) -> contrastile.Candidates:
        g = torch.Generator().manual_seed(50 + member)
        return contrastile.Candidates.of_bank(bank, torch.randint(-1, 5, (5, 2 + member), generator=g))

    found = {}
    for strategy, loss in product(STRATEGIES, ("info_nce", "grouped_info_nce")):
        x, y, bank = (z.clone().requires_grad_() for z in (*rows(rank), rows(rank)[1]))
        value = getattr(contrastile, loss)(x, y, hard_negatives=lists(rank, bank), group=Ranks(strategy=strategy))
        value.backward()
        every = [torch.cat(z).requires_grad_() for z in zip(*map(rows, range(WORLD)), strict=True)]
        banks = torch.cat([rows(member)[1] for member in range(WORLD)]).requires_grad_()
        indices = []
        for member in range(WORLD):
            own = lists(member, rows(member)[1]).index
            own = torch.where(own < 0, -1, own + 5 * member)
            indices.append(F.pad(own, (0, 1 + WORLD - own.shape[1]), value=-1))
        whole = contrastile.Candidates.of_bank(banks, torch.cat(indices))
        getattr(reference, loss)(*every, hard_negatives=whole).backward()
        here = slice(5 * rank, 5 * rank + 5)
        pairs = zip((x, y, bank), (*every, banks), strict=True)
        found[f"{loss} lists {strategy}"] = float(
            torch.stack([(one.grad / WORLD - other.grad[here]).abs().max() for one, other in pairs]).max()
        )
    return found


def everything(rank: int) -> dict[str, float | str]:
    return {**sub_groups(rank), **queues(rank), **twice(rank), **own_lists(rank)}


def test_groups_queues_and_repeated_backward_passes():
    for result in gather_from(WORLD, everything):
        assert isinstance(result, dict), result
        assert result["foreign"] == 0.0
        wrong = {name: x for name, x in result.items() if (x if isinstance(x, str) else x > 1e-12)}
        assert not wrong
