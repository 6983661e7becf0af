"""Every loss of the catalog across ranks, against the float64 reference of the global batch: value and all gradients,
both strategies, uneven ranks, ranks without rows."""

import pytest

from support.combinations import chosen
from support.launch import gather_from

from . import catalog_worker

WORLDS = (1, 2, 3, 4)
CASES = [
    pytest.param(world, key, marks=() if catalog_worker.quick(world, key, card) else pytest.mark.slow)
    for world in WORLDS
    for key, card, *_ in catalog_worker.keys(world)
]


@pytest.fixture(scope="module")
def found(request):
    """World size: what each rank found; one call for each world size."""
    results, wanted = {}, chosen(request, "test_ranks_agree_with_the_reference_of_the_joint_batch")

    def of(world):
        if world not in results:
            keys = [x["key"] for x in wanted if x["world"] == world]
            results[world] = gather_from(world, catalog_worker.run, world, keys)
        return results[world]

    return of


@pytest.mark.dist
@pytest.mark.parametrize("world, key", CASES, ids=lambda x: "-".join(x) if isinstance(x, tuple) else str(x))
def test_ranks_agree_with_the_reference_of_the_joint_batch(found, world, key):
    for rank, result in enumerate(found(world)):
        assert isinstance(result, dict), result
        assert not result[key], f"rank {rank}: {result[key]}"
