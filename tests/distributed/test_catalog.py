"""Every loss of the catalog across ranks, against the float64 reference of the joint batch: value and all gradients,
both strategies, uneven ranks, ranks without rows."""

import pytest

from . import catalog_worker
from .launch import gather_from

WORLDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def found():
    """World size: what each rank found; one start of processes for each world size."""
    results = {}

    def of(world):
        if world not in results:
            results[world] = gather_from(world, catalog_worker.run, world)
        return results[world]

    return of


@pytest.mark.dist
@pytest.mark.parametrize(
    "world, key",
    [(world, key) for world in WORLDS for key, *_ in catalog_worker.keys(world)],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else str(x),
)
def test_ranks_agree_with_the_reference_of_the_joint_batch(found, world, key):
    for rank, result in enumerate(found(world)):
        assert isinstance(result, dict), result
        assert not result[key], f"rank {rank}: {result[key]}"
