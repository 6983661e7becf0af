"""group="world": the default group at the time of a call, whenever a module was built."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

import contrastile
from contrastile.distributed import Ranks
from support.launch import gather_from

pytestmark = pytest.mark.dist


def modules() -> dict[str, nn.Module]:
    return {
        "clip": contrastile.ClipLoss(logit_scale=5.0, group="world"),
        "alignment": contrastile.Alignment(group="world"),
        "ring": contrastile.ClipLoss(logit_scale=5.0, group=Ranks("world", "ring")),
        "unset": contrastile.ClipLoss(logit_scale=5.0, group=Ranks(dist.group.WORLD)),  # None before the start
    }


def found(rank: int, built: bytes) -> dict[str, tuple[float, float, float]]:
    """Value of a module built before the group was, of the same call with the group itself, and of this rank alone."""
    x, y = torch.nn.functional.normalize(
        torch.randn(2, 3 + rank, 6, generator=torch.Generator().manual_seed(rank)), dim=2
    )
    values = {}
    for name, module in pickle.loads(built).items():
        options = {} if name == "alignment" else {"logit_scale": 5.0}
        with_group = type(module).function(x, y, **options, group=dist.group.WORLD)
        values[name] = tuple(float(v) for v in (module(x, y), with_group, type(module).function(x, y, **options)))
    return values


def test_modules_built_before_the_group_use_it():
    for result in gather_from(2, found, pickle.dumps(copy.deepcopy(modules()))):
        assert isinstance(result, dict), result
        for name, (joint, with_group, alone) in result.items():
            assert joint == pytest.approx(with_group, rel=1e-6) and joint != pytest.approx(alone, rel=1e-3), name


@pytest.mark.parametrize("group", ["world", Ranks(), Ranks("world"), Ranks(None, "ring")], ids=str)
def test_before_the_group_there_is_an_error_at_the_call(group):
    x, y = torch.randn(2, 4, 6)
    for call in (
        lambda: contrastile.ClipLoss(logit_scale=5.0, group=group)(x, y),
        lambda: contrastile.alignment(x, y, group=group),
        lambda: contrastile.pair_reduce(x, y, group=group),
    ):
        with pytest.raises(ValueError, match=r"needs torch\.distributed\.init_process_group\(\), which was not called"):
            call()


@pytest.mark.parametrize("group", ["all", "World", ""])
def test_other_words_are_refused_by_name(group):
    x, y = torch.randn(2, 4, 6)
    with pytest.raises(
        ValueError, match=f"group must be a process group, a DeviceMesh, 'world', .* or None, got '{group}'"
    ):
        contrastile.clip_loss(x, y, 5.0, group=group)
    with pytest.raises(
        ValueError, match=f"group must be a process group, a DeviceMesh, 'world' or None, got '{group}'"
    ):
        Ranks(group)
    with pytest.raises(TypeError, match="got int"):
        Ranks(3)


def test_the_repr_shows_the_group():
    assert "group=None" in repr(contrastile.InfoNCE())
    assert "group='world'" in repr(contrastile.InfoNCE(group="world"))
    shown = "group=Ranks(group='world', strategy='ring', replicated_negatives=False)"
    assert shown in repr(contrastile.InfoNCE(group=Ranks(strategy="ring")))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = contrastile.InfoNCE(group=dist.group.WORLD)
        assert f"group=<ProcessGroup '{dist.group.WORLD.group_name}' of 1 ranks>" in repr(module)
    finally:
        dist.destroy_process_group()
    assert "group=<ProcessGroup" in repr(module)  # a module may outlive its group
