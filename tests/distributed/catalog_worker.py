"""What every rank does in test_catalog.py: all losses, one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

from contrastile.catalog import CATALOG, Case, LossCard
from contrastile.distributed import Ranks
from contrastile.testing import compare
from support.loss_cases import FAMILIES, make, takes
from support.pairing import Pairing
from support.sharding import SIZES, jointly

Key = tuple[str, str, str, str]
STRATEGIES = ("gather", "ring")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
HOWS = ("float32", "bfloat16", "float16", "sum", "none")
WIDTH = 8


def offered(card: LossCard, variant: str) -> bool:
    return not variant.startswith(("n_squared", "gathered"))


FULL = 3  # the world size that runs everything; the others run the first variant of every loss


def keys(world: int) -> Iterator[tuple[Key, LossCard, dict[str, str], torch.dtype]]:
    """(strategy, loss, variant, how): every variant in float64; the first in every type and reduction."""
    for strategy in STRATEGIES:
        for card in CATALOG:
            for index, variant in enumerate(card.variants):
                if not offered(card, variant):
                    continue
                if index and world != FULL:
                    break
                yield (strategy, card.name, variant, "float64"), card, {}, torch.float64
                if index or world != FULL:
                    continue
                for dtype in TYPES:
                    yield (strategy, card.name, variant, str(dtype).removeprefix("torch.")), card, {}, dtype
                if takes(card, "reduction"):
                    for reduction in ("sum", "none"):
                        how = {"reduction": reduction}
                        yield (strategy, card.name, variant, reduction), card, how, torch.float64


def quick(world: int, key: Key, card: LossCard) -> bool:
    """In a world of three every variant of every loss meets one strategy by turns, the first loss of each module both;
    a type or a reduction of each loss, and the smaller worlds of first losses, are shared out, too."""
    strategy, _, variant, how = key
    place, index = CATALOG.index(card), list(card.variants).index(variant)
    turn = place + index + world if how == "float64" else place + HOWS.index(how)
    mine, first = strategy == STRATEGIES[turn % 2], card in FAMILIES.values()
    if how != "float64":
        return mine and how == HOWS[place % len(HOWS)]
    return (mine and world == FULL) or (first and world < 4 and (mine or (world == FULL and not index)))


def run(rank: int, world: int, wanted: list[Key]) -> dict[Key, str]:
    """What is wrong with each of those that are wanted, or nothing."""
    n, found = sum(SIZES[world]), {}
    for key, card, how, dtype in keys(world):
        if key in wanted:
            found[key] = check(card, make(card, key[2], n, WIDTH, dtype), key[0], how)
    return found


def check(card: LossCard, case: Case, strategy: str, how: dict[str, str]) -> str:
    try:
        loss = jointly(card, case, Ranks(strategy=strategy), **how)
        found = compare(Pairing(loss, card.reference), case, **how)
        return "" if found.ok else found.detail
    except Exception:
        return traceback.format_exc()
