"""Losses with a state for every sample and queues on two ranks: replicas equal bit for bit, any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastile import RGCL, FastCLIP, FeatureQueue, ISogCLR, SogCLR
from contrastile.distributed import Ranks
from support.launch import gather_from

pytestmark = pytest.mark.dist
SAMPLES, D, STEPS = 20, 5, 4
SIZES = ((4, 3), (2, 5), (7, 0), (3, 4))  # rows of both ranks in each step
MODULES = {
    "SogCLR": lambda **o: SogCLR(SAMPLES, temperature=0.1, **o),
    "iSogCLR": lambda **o: ISogCLR(SAMPLES, temperature=0.1, rho=1.0, eta=0.05, **o),
    "RGCL": lambda **o: RGCL(SAMPLES, temperature=0.1, t_max=0.5, rho=1.0, **o),
    "iSogCLR unimodal": lambda **o: ISogCLR(SAMPLES, temperature=0.1, rho=1.0, eta=0.05, unimodal=True, **o),
    "FastCLIP-v3": lambda **o: FastCLIP(SAMPLES, "v3", temperature=0.1, gamma_epochs=3, **o),
}


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The joint batch, with a sample that comes twice, on both ranks in some steps."""
    g = torch.Generator().manual_seed(step)
    x, y = F.normalize(torch.randn(2, sum(SIZES[step]), D, generator=g, dtype=torch.float64), dim=2)
    index = torch.randperm(SAMPLES, generator=g)[: len(x)]
    index[-1] = index[0]
    return x, y, index


def training(module: Any, steps: range, parts: slice | None = None, ranks: int = 1) -> list[Tensor]:
    """Losses and gradients of the features of the joint batch, with one step of a learned temperature each."""
    found = []
    for step in steps:
        module.set_epoch(step // 2)
        x, y, index = batch(step)
        own = slice(None)
        if ranks > 1:
            first = SIZES[step][0]
            own = slice(None, first) if dist.get_rank() == 0 else slice(first, None)
        x, y = x[own].clone().requires_grad_(), y[own].clone().requires_grad_()
        loss = module(x, y, index[own])
        loss.backward()
        values = [loss.detach(), *(p.grad for p in module.parameters())]
        if ranks > 1:
            for value in values:
                dist.all_reduce(value)
                value /= ranks
        for p in module.parameters():
            p.data -= 0.05 * p.grad
            p.grad = None
        found += [values[0], x.grad / ranks, y.grad / ranks]
    return found


def on_two_ranks(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in MODULES.items():
        for strategy in ("gather", "ring"):
            module = make(group=Ranks(strategy=strategy))
            steps = training(module, range(STEPS), ranks=2)
            found[name, strategy] = steps, module.state_dict()
    half = MODULES["iSogCLR"](group="world")
    training(half, range(2), ranks=2)
    found["half"] = half.state_dict()
    found["queue"] = queue(rank)
    found["ddp"] = wrapped(rank)
    found["refused"] = refused(rank)
    return found


def queue(rank: int) -> tuple[Tensor, Tensor]:
    kept = FeatureQueue(5, 1, ids=True, group="world")
    for step in range(3):
        ids = 10 * step + 5 * rank + torch.arange(2 - rank)
        kept.enqueue(ids[:, None].float(), ids)
    return kept.features, kept.ids


def wrapped(rank: int) -> dict[str, Any]:
    """The state of a loss within a model is not what rank 0 has."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.loss = nn.Linear(D, D), MODULES["SogCLR"]()

        def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            return self.loss(self.encoder(x), self.encoder(y), index)

    model = DistributedDataParallel(Model())
    x, y, _ = batch(rank)
    for _ in range(2):
        model(x.float(), y.float(), torch.arange(len(x)) + 7 * rank).backward()
    return model.module.loss.state_dict()


def refused(rank: int) -> list[str]:
    """One rank's bad index: both raise, no state has moved, and the next step works."""
    module = MODULES["iSogCLR"](group="world")
    x, y, index = (z[:3] for z in batch(0))
    said = []
    try:
        module(x, y, index + (SAMPLES if rank else 0))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    assert (module.state["log_mean"] == -torch.inf).all()
    module(x, y, index)
    assert module.state["log_mean"].isfinite().any()
    return said


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    found = gather_from(2, on_two_ranks)
    assert all(isinstance(x, dict) for x in found), found
    return found


@pytest.mark.parametrize("strategy", ["gather", "ring"])
@pytest.mark.parametrize("name", MODULES)
def test_two_ranks_train_as_one_process(ranks, name, strategy):
    module = MODULES[name]()
    truth = training(module, range(STEPS))
    (first, state), (second, other) = (r[name, strategy] for r in ranks)
    assert state.keys() == other.keys() and all(torch.equal(x, other[key]) for key, x in state.items())
    for key, x in module.state_dict().items():
        torch.testing.assert_close(state[key], x, rtol=1e-6, atol=1e-6)
    for place, true in enumerate(truth):
        mine = first[place] if true.dim() == 0 else torch.cat([first[place], second[place]])
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-6)


def test_training_goes_on_with_another_number_of_ranks(ranks):
    """Two steps on two ranks, then two in one process, from the state of the second rank."""
    whole, rest = MODULES["iSogCLR"](), MODULES["iSogCLR"]()
    truth = training(whole, range(STEPS))
    rest.load_state_dict(ranks[1]["half"])
    found = training(rest, range(2, STEPS))
    for f, t in zip(found, truth[6:], strict=True):
        torch.testing.assert_close(f, t, rtol=1e-6, atol=1e-6)
    for key, x in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[key], x, rtol=1e-6, atol=1e-6)


def test_every_rank_holds_the_queue_of_all(ranks):
    (features, ids), (others, other_ids) = (r["queue"] for r in ranks)
    assert torch.equal(features, others) and torch.equal(ids, other_ids)
    assert sorted(ids.tolist()) == [11, 15, 20, 21, 25] and torch.equal(features[:, 0], ids.float())


def test_data_parallelism_sends_no_state(ranks):
    for rank, found in enumerate(ranks):
        visited = found["ddp"]["state.log_mean"].isfinite()[0].nonzero()[:, 0]
        assert torch.equal(visited, torch.arange(7) + 7 * rank)


def test_a_refusal_is_everyones(ranks):
    assert ranks[1]["refused"][0].startswith("ValueError: index must be from 0 to 19")
    assert ranks[0]["refused"][0].startswith("RankError: rank 1 refused its arguments: ValueError: index must be")
