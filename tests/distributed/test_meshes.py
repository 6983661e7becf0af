"""Device meshes as groups, rows as DTensors, and promised sizes: what is taken, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import contrastile
from contrastile import reference
from contrastile.catalog import CATALOG
from contrastile.compat.grad_cache import SimpleContrastiveLoss
from contrastile.distributed import Ranks
from contrastile.ranks.sharded import WHOLE
from support.launch import gather_from
from support.loss_cases import make

pytestmark = pytest.mark.dist
WORLD = 3
N = (7, 4)  # rows: 3, 3, 1 and 2, 2, 0 for the ranks


def batch(n: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(n)
    return [F.normalize(torch.randn(n, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2)]


def mesh_of(*names: str) -> Any:
    return init_device_mesh("cpu", (WORLD, 1)[: len(names)], mesh_dim_names=names)


def losses(ids: Any, package: Any, **options: Any) -> dict[str, Callable[[Any, Any], Tensor]]:
    return {
        "clip_loss": lambda x, y: package.clip_loss(x, y, 5.0, image_ids=ids, **options),
        "others": lambda x, y: package.gram_loss(x, y, x + y, **options),
        "a list": lambda x, y: package.mv_infonce([x, y, y - x], **options),
        "itself": lambda x, y: package.uniformity(x, **options) + package.alignment(x, y, **options),
    }


def sharded(rank: int) -> dict[str, float]:
    """The largest difference of value and gradients from those of the whole batch in one process."""
    mesh, found = mesh_of("dp", "tp")["dp"], {}
    for n in N:
        whole, ids = [x.requires_grad_() for x in batch(n)], torch.arange(n) // 2
        rows = [distribute_tensor(x.detach(), mesh, [Shard(0)]).requires_grad_() for x in whole]
        own = torch.tensor_split(torch.arange(n), 1)[0].chunk(WORLD)
        own_ids = ids[own[rank]] if rank < len(own) else ids[:0]
        groups = {"none": None, "mesh": mesh, "world": "world", "ring": Ranks(mesh, "ring")}
        if n == N[0]:
            groups["promised"] = Ranks(mesh, sizes=list(map(len, own)))
        truths = losses(ids, reference)
        for place, (kind, group) in enumerate(groups.items()):
            given = distribute_tensor(ids, mesh, [Shard(0)]) if place % 2 else own_ids
            for name, loss in losses(given, contrastile, group=group).items():
                truth = truths[name](*whole)
                wanted = torch.autograd.grad(truth, whole, materialize_grads=True)
                value = loss(*rows)
                grads = torch.autograd.grad(value, rows, materialize_grads=True)
                assert all(x.placements == (Shard(0),) and x.shape == (n, 5) for x in grads)
                total = value.detach().clone()
                dist.all_reduce(total)
                errors = [(x.full_tensor() / WORLD - y).abs().max() for x, y in zip(grads, wanted, strict=True)]
                found[f"{name} {n} {kind}"] = float(
                    torch.stack([(total / WORLD - truth).detach().abs(), *errors]).max()
                )
        loss = SimpleContrastiveLoss()  # a drop-in of whose losses every rank has that of the whole batch
        found[f"drop-in {n}"] = float((loss(*rows) - loss(*whole)).detach().abs())
    return found


def refused(rank: int) -> dict[str, str]:
    both, dp = mesh_of("dp", "tp"), mesh_of("dp")
    x, y = batch(6)
    own, rows = [z.chunk(WORLD)[rank] for z in (x, y)], distribute_tensor(x, dp, [Shard(0)])
    halves = [dist.new_group([0, 1]), dist.new_group([2])]

    def text(other: Any, **options: Any) -> Tensor:
        return contrastile.clip_loss(rows, other, 5.0, **options)

    def promised(sizes: Any, *given: Tensor, loss: Any = contrastile.info_nce, **options: Any) -> Tensor:
        value: Tensor = loss(*given, group=Ranks(sizes=sizes), **options)
        return value

    attempts: dict[str, Callable[[], Any]] = {
        "two dimensions": lambda: contrastile.clip_loss(*own, 5.0, group=both),
        "two dimensions, Ranks": lambda: Ranks(both),
        "two dimensions, rows": lambda: contrastile.uniformity(distribute_tensor(x, both, [Shard(0), Replicate()])),
        "replicated": lambda: text(distribute_tensor(y, dp, [Replicate()])),
        "columns": lambda: text(distribute_tensor(y, dp, [Shard(1)]), group=dp),
        "partial": lambda: text(DTensor.from_local(y, dp, [Partial()]), group="world"),
        "other ranks": lambda: text(rows, group=halves[rank // 2]),
        "stacked": lambda: contrastile.mv_infonce(distribute_tensor(torch.stack([x, y, x]), dp, [Shard(0)])),
        "parameter": lambda: contrastile.clip_loss(rows, rows, distribute_tensor(torch.ones(1), dp, [Shard(0)])),
        "own size": lambda: promised((2, 3, 2) if rank == 1 else (2, 2, 3) if rank == 2 else (1, 2, 2), *own),
        "number of ranks": lambda: promised((2, 2), *own),
        "engine": lambda: promised((3, 3, 3), own[0], loss=contrastile.pair_reduce),
        "negatives": lambda: promised((4, 2, 2) if rank == 1 else (2, 4, 2), *own, negatives=torch.ones(3, 5)),
        "packed": lambda: promised((2, 2, 2), own[0], own[1], torch.tensor([0, 1, 2]), loss=contrastile.segment_reduce),
        "empty": lambda: Ranks(sizes=(2, 0, 2)),
        "no numbers": lambda: Ranks(sizes=(2, 2.0, 2)),
        "no sequence": lambda: Ranks(sizes=6),
    }  # fmt: skip
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except (TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def test_rows_of_a_mesh_are_those_of_one_process():
    for found in gather_from(WORLD, sharded):
        assert isinstance(found, dict), found
        assert len(found) == 38
        wrong = {name: error for name, error in found.items() if not error < 1e-12}
        assert not wrong


def test_what_is_no_rows_of_a_mesh_and_what_breaks_a_promise_is_refused_by_name():
    rows = "must be sharded by rows, Shard(0), got a DTensor with"
    mesh = "group must be a DeviceMesh of one dimension, got 2 dimensions (dp, tp): choose that of data parallelism"
    whole = "must be an ordinary tensor here, got a DTensor"
    wanted = {
        "two dimensions": mesh, "two dimensions, Ranks": mesh, "two dimensions, rows": mesh,
        "replicated": f"text_features {rows} Replicate()", "columns": f"text_features {rows} Shard(dim=1)",
        "partial": f"text_features {rows} Partial(sum): x.redistribute(placements=[Shard(0)])",
        "other ranks": "group must have the ranks of the features' DeviceMesh, [0, 1, 2], got [",
        "stacked": f"views {whole}", "parameter": f"logit_scale {whole}",
        "own size": "sizes of group promise ", "number of ranks": "a number for each of the 3 ranks, got 2",
        "engine": "got 2, which is no multiple", "negatives": "got 3, which is no multiple",
        "packed": "sizes of group must be None with segments of different lengths",
        "empty": "sizes must be >= 1, got 0", "no numbers": "sizes must be ints, got float",
        "no sequence": "sizes must be a sequence of ints, one for each rank, got int",
    }  # fmt: skip
    for rank, found in enumerate(gather_from(WORLD, refused)):
        assert isinstance(found, dict), found
        missing = {name: found.get(name) for name, words in wanted.items() if words not in found.get(name, "-")}
        assert not missing, rank


def test_no_tensor_that_all_ranks_have_as_a_whole_counts_as_rows():
    """Of arguments by place, the name is that of the function's signature."""
    for card in CATALOG:
        for variant in card.variants:
            case, code = make(card, variant, 4, 4), card.function.__wrapped__.__code__
            assert {x if isinstance(x, str) else code.co_varnames[x] for x in case.shared} <= WHOLE
