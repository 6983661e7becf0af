"""One GPU is a group of one: the same code on NCCL, with the default group (gloo beside it) and with NCCL alone."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from contrastile.catalog import CATALOG
from contrastile.distributed import Ranks
from contrastile.testing import compare
from support.loss_cases import make, moved
from support.pairing import Pairing
from support.sharding import SIZES, jointly

from .catalog_worker import STRATEGIES, offered

pytestmark = [pytest.mark.gpu, pytest.mark.dist]


@pytest.fixture(scope="module", params=["cpu:gloo,cuda:nccl", "nccl"])
def group(request, tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group(request.param, store=store, rank=0, world_size=1, device_id=torch.device("cuda", 0))
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("card", [card for card in CATALOG if offered(card, "default")], ids=lambda card: card.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_gpu_is_a_group_of_one(group, card, dtype, strategy):
    case = moved(make(card, "default", sum(SIZES[1]), 64, dtype))
    found = compare(Pairing(jointly(card, case, Ranks(strategy=strategy)), card.reference), case)
    assert found.ok, found.detail
