"""The drop-ins across processes against the packages' own losses across processes: ranks_worker.py has the cases."""

import pytest

from support.combinations import chosen
from support.launch import own_processes

from . import ranks_worker

pytestmark = pytest.mark.dist


def cases():
    """With three ranks all losses; with two, where both neighbours are the same rank, what travels between them."""
    for world in ranks_worker.WORLDS:
        for key in ranks_worker.MAKERS:
            quick = key not in ranks_worker.SLOW and (world == 3 or "siglip" in key.lower())
            yield pytest.param(world, key, marks=() if quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def found(request):
    """World size: what each rank found; one call for each world size."""
    results, wanted = {}, chosen(request, "test_every_rank_finds_nothing_wrong")
    with pytest.MonkeyPatch.context() as patch, own_processes() as gather:
        patch.setenv("TRITON_INTERPRET", "1")  # packages of kernels run in Triton's interpreter
        patch.setenv("MEMEFF_INPUT_PRECISION", "ieee")

        def of(world):
            if world not in results:
                keys = [x["key"] for x in wanted if x["world"] == world]
                results[world] = gather(world, ranks_worker.run, keys)
            return results[world]

        yield of


@pytest.mark.parametrize("world, key", list(cases()))
def test_every_rank_finds_nothing_wrong(found, world, key):
    for rank, result in enumerate(found(world)):
        assert isinstance(result, dict), result
        if result[key].startswith("missing"):
            pytest.skip(result[key])
        assert not result[key], f"rank {rank}: {result[key]}"
