"""The complete examples of docs/distributed.md, as two ranks run them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.distributed.tensor import Shard

from support.launch import gather_from
from support.pages import blocks

pytestmark = pytest.mark.dist


def examples(rank: int) -> tuple[list[list[float]], float, str, bool]:
    """Losses of the script with FSDP2 and with DistributedDataParallel; the loss of a compiled step; what a DTensor's
    gradient is."""
    compile_, found = torch.compile, []
    torch.compile = partial(compile_, backend="eager")  # no compiler of C++
    try:
        for block in filter(lambda x: "def main(" in x, blocks("docs/distributed.md", "py")):
            scope: dict[str, Any] = {"__name__": "example"}
            exec(block, scope)
            found.append(scope["main"])
        script, compiled, sharded = found
        histories = [script(sharded=kind).tolist() for kind in (True, False)]
        grad = sharded()
        return histories, float(compiled()), str(grad.placements), grad.shape == (101, 32)
    finally:
        torch.compile = compile_


def test_every_complete_example_runs_on_two_ranks():
    first, second = gather_from(2, examples)
    assert isinstance(first, tuple), first
    for (histories, compiled, placements, shape), others in ((first, second[0]), (second, first[0])):
        assert histories == others
        assert histories[0] == pytest.approx(histories[1], rel=1e-4)
        assert histories[0][-1] < 0.5 * histories[0][0]
        assert compiled > 0 and shape and placements == str((Shard(0),))
