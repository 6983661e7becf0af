"""Options with one number for each item across ranks, one of which has one item and one none; and what ranks refuse."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch

from contrastile import clip_loss, info_nce
from contrastile.catalog import CATALOG
from contrastile.distributed import Ranks
from contrastile.testing import compare
from support.launch import gather_from
from support.loss_cases import make
from support.pairing import Pairing
from support.sharding import jointly

pytestmark = pytest.mark.dist
WORLD = 3
ITEMS = (1, 0, 5)
VARIANTS = [
    ("clip_loss", "row scales"), ("clip_loss", "weights"), ("clip_loss", "detached"),
    ("info_nce", "both row temperatures"), ("info_nce", "pair temperatures"), ("info_nce", "sampled"),
    ("info_nce", "sampled positive"), ("info_nce", "symmetric weights"), ("info_nce", "detached"),
    ("sup_con", "some views"), ("nt_xent", "rows"), ("mv_infonce", "weights"), ("kcl", "some log"),
    ("uniformity", "some"), ("dclw", "weights"), ("multi_positive", "label sets"), ("mil_nce", "mask"),
    ("sup_con", "keys as positives"),
]  # fmt: skip
CARDS = {card.name: card for card in CATALOG}


def run_variants(rank: int) -> dict[tuple[str, str], str]:
    found = {}
    for index, (name, variant) in enumerate(VARIANTS):
        card = CARDS[name]
        ranks = Ranks(strategy=("gather", "ring")[index % 2], replicated_negatives=index % 3 == 0)
        case = make(card, variant, sum(ITEMS), 8, torch.float64)
        try:
            result = compare(Pairing(jointly(card, case, ranks, sizes=ITEMS), card.reference), case)
            found[name, variant] = "" if result.ok else result.detail
        except Exception:
            found[name, variant] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def found() -> list[Any]:
    return gather_from(WORLD, run_variants)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_uneven_ranks_agree_with_the_joint_batch(found, variant):
    for rank, result in enumerate(found):
        assert not result[variant], f"rank {rank}: {result[variant]}"


def all_missing(rank: int) -> tuple[float, bool]:
    """Every rank's share of a batch in which only one pair is there, on the last rank."""
    n = ITEMS[rank]
    x = torch.full((n, 4), torch.nan, requires_grad=True)
    here = torch.zeros(n, dtype=torch.bool)
    loss = clip_loss(x, x.detach(), 5.0, present=here, weights=torch.ones(n), group="world")
    loss.backward()
    return loss.item(), bool(x.grad is not None and not x.grad.any())


def test_a_batch_of_which_everything_is_missing():
    assert gather_from(WORLD, all_missing) == [(0.0, True)] * WORLD


def refusals(rank: int) -> list[str]:
    x = torch.eye(4)[: 2 + rank]
    n = len(x)
    attempts: list[dict[str, Any]] = [
        {"weights": torch.ones(n) if rank else None},
        {"present": torch.ones(n, dtype=torch.bool) if rank else None},
        {"key_log_prob": torch.zeros(n) if rank else None},
        {"key_temperature": 0.1 if rank else None, "symmetric": True},
        {"direction": "rows" if rank else "cols", "symmetric": True},
        {"detach_keys": bool(rank)},
        {"key": torch.eye(4)},
        {"key_offset": 1},
    ]
    messages = []
    for options in attempts:
        try:
            info_nce(x, **{"key": x, **options}, group="world")
            messages.append("")
        except Exception as error:
            messages.append(str(error))
    return messages


def test_ranks_that_disagree_are_refused():
    names = ("weights", "present", "key_log_prob", "key_temperature", "direction", "detach_keys")
    for messages in gather_from(2, refusals):
        for name, message in zip(names, messages, strict=False):
            assert f"all ranks must give the same {name}" in message
        assert all("nothing is to be gathered" in message for message in messages[-2:])
