"""How often ranks talk and how much they send for one loss with its gradients: the formulas of docs/distributed.md."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist

import contrastile
from contrastile.distributed import Ranks
from contrastile.ranks import communication
from support.combinations import by_default
from support.launch import gather_from
from support.pages import PAGES

pytestmark = pytest.mark.dist
N, D = 6, 64  # rows of a rank, features: float32, and float32 gradients


class Counted:
    """Counts calls of the transport and the bytes of tensors as wide as features that leave this rank, as a ring of
    neighbours sends them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.wide = 0

    def note(self, name: str, x: torch.Tensor, parts: int) -> None:
        self.calls[name] += 1
        if x.dim() > 1 and x.shape[1] == D:
            self.wide += parts * x.numel() * x.element_size()

    def __enter__(self) -> Counted:
        self.saved = communication._all_gather, communication._reduce_scatter, dist.all_reduce, dist.batch_isend_irecv
        gather, scatter, reduce, batch = self.saved
        others = dist.get_world_size() - 1

        def all_gather(out: torch.Tensor, x: torch.Tensor, **rest: Any) -> Any:
            self.note("all_gather", x, others)
            return gather(out, x, **rest)

        def reduce_scatter(out: torch.Tensor, x: torch.Tensor, **rest: Any) -> Any:
            self.note("reduce_scatter", out, others)
            return scatter(out, x, **rest)

        def all_reduce(x: torch.Tensor, *more: Any, **rest: Any) -> Any:
            self.calls["all_reduce"] += 1
            return reduce(x, *more, **rest)

        def batch_isend_irecv(operations: list[dist.P2POp]) -> Any:
            self.calls["shift"] += 1
            for operation in operations:
                if operation.op is dist.isend and operation.tensor.dim() > 1 and operation.tensor.shape[1] == D:
                    self.wide += operation.tensor.numel() * operation.tensor.element_size()
            return batch(operations)

        communication._all_gather, communication._reduce_scatter = all_gather, reduce_scatter
        dist.all_reduce, dist.batch_isend_irecv = all_reduce, batch_isend_irecv
        return self

    def __exit__(self, *error: Any) -> None:
        communication._all_gather, communication._reduce_scatter, dist.all_reduce, dist.batch_isend_irecv = self.saved


LOSSES = ("clip_loss", "siglip_loss", "info_nce", "nt_xent")


def measured(rank: int) -> dict[tuple[str, str, bool], tuple[dict[str, int], int]]:
    found = {}
    for loss, strategy, promised in product(LOSSES, ("gather", "ring"), (False, True)):
        more = () if loss in ("info_nce", "nt_xent") else (5.0,)
        ranks = Ranks(strategy=strategy, sizes=[N] * dist.get_world_size() if promised else None)
        x, y = (torch.randn(N, D, requires_grad=True) for _ in range(2))
        with Counted() as counted:
            getattr(contrastile, loss)(x, y, *more, group=ranks).backward()
        found[loss, strategy, promised] = dict(counted.calls), counted.wide
    return found


def expected(loss: str, strategy: str, promised: bool, w: int) -> tuple[dict[str, int], int]:
    """Calls, and bytes of features and gradients a rank sends. Two all-gathers are the agreements, of sizes that are
    not promised."""
    n = 2 * N if loss == "nt_xent" else N
    own = 4 * n * D  # bytes of a rank's columns, or of their gradients
    numbers = {"clip_loss": 1, "siglip_loss": 0, "info_nce": 0, "nt_xent": 1}[loss]  # weights of columns
    ids = 1 if loss == "nt_xent" else 0
    agreements = 0 if promised else 2
    if strategy == "gather":
        statistics = 2 if loss in ("clip_loss", "nt_xent") else 0
        calls = {"all_gather": agreements + 1 + numbers + ids, "all_reduce": statistics, "reduce_scatter": 1}
        return {name: count for name, count in calls.items() if count}, 2 * (w - 1) * own
    if w == 1:
        return {"all_gather": agreements} if agreements else {}, 0
    steps = w // 2 + 1 if loss == "nt_xent" else w
    tours = 1 if loss == "siglip_loss" else 2
    left = steps if loss in ("clip_loss", "nt_xent") else 0  # statistics of columns on their way
    shifts = tours * (steps - 1) + left + steps
    calls = {"all_gather": agreements} if agreements else {}
    return {**calls, "shift": shifts}, tours * (steps - 1) * own + steps * own


@pytest.fixture(scope="module", params=by_default((1, 2, 3, 4), 2, 3))
def found(request):
    return request.param, gather_from(request.param, measured)


@pytest.mark.parametrize("promised", [False, True])
@pytest.mark.parametrize("strategy", ["gather", "ring"])
@pytest.mark.parametrize("loss", LOSSES)
def test_calls_and_bytes_are_those_of_the_documentation(found, loss, strategy, promised):
    world, results = found
    for result in results:
        assert isinstance(result, dict), result
        assert result[loss, strategy, promised] == expected(loss, strategy, promised, world)


def copies(loss: str, strategy: str, w: int) -> int:
    """Bytes a rank sends, in copies of its columns."""
    columns = 4 * D * (2 * N if loss == "nt_xent" else N)
    return expected(loss, strategy, False, w)[1] // columns


def test_the_table_of_bytes_is_that_of_the_formulas():
    lines = []
    for loss in ("clip_loss", "info_nce", "siglip_loss", "nt_xent"):
        least = [(1 if loss == "nt_xent" else 2) * (w - 1) for w in range(1, 5)]
        for name in ("gather", "ring"):
            sent = [copies(loss, name, w) for w in range(1, 5)]
            assert all(s >= bound for s, bound in zip(sent, least, strict=True))
            cells = [f"{s} / {bound}" for s, bound in zip(sent, least, strict=True)]
            lines.append(f"| `{loss}` | {name} | {' | '.join(cells)} |")
    assert "\n".join(lines) in PAGES["docs/distributed.md"], "\n".join(lines)


@pytest.mark.slow
def test_one_rank_sends_nothing():
    (result,) = gather_from(1, measured)
    assert all(sent == 0 for _, sent in result.values())
