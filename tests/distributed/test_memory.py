"""Memory of a rank: with "ring" it does not grow with the number of ranks, with "gather" it does."""

from __future__ import annotations

import pytest
import torch

import contrastile
from contrastile.benchmark.memory import resident_peak
from contrastile.distributed import Ranks
from support.launch import own_processes

pytestmark = pytest.mark.dist
N, D = 256, 8192  # rows of a rank: 8 MiB of features, so that these outweigh the workspace of scores
WORLDS = {"ring": (4, 5), "gather": (2, 3)}  # below four, fewer transfers of a ring are under way at a time


def peak(rank: int, strategy: str) -> int:
    """Bytes beyond the inputs of one forward and backward pass, in a process that did little before."""

    def step(n: int) -> int:
        x, y = (torch.randn(n, D, requires_grad=True) for _ in range(2))

        def run() -> None:
            contrastile.clip_loss(x, y, 0.1, group=Ranks(strategy=strategy), backend="cpu").backward()

        return resident_peak(run).peak_bytes

    step(8)  # what is set up once
    return step(N)


def peaks(strategy: str) -> list[int]:
    """Of each world the largest of all ranks; the last one is always new."""
    with pytest.MonkeyPatch.context() as patch, own_processes() as gather:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # glibc gives each freed block back at once
        return [max(gather(world, peak, strategy)) for world in WORLDS[strategy]]


def test_ring_memory_is_flat_in_the_number_of_ranks():
    small, large = peaks("ring")
    assert large < 1.05 * small


@pytest.mark.slow
def test_gather_memory_grows_with_the_number_of_ranks():
    """So that the test above could fail: features and float32 gradients of one more rank's columns, at least."""
    small, large = peaks("gather")
    assert large > small + (4 + 4) * N * D
