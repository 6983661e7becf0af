"""The drop-ins across processes against the packages' own losses across processes: ranks_worker.py has the cases."""

import pytest

from distributed.launch import gather_from

from . import ranks_worker

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def found():
    """World size: what each rank found; one start of processes for each world size."""
    results = {}

    def of(world):
        if world not in results:
            with pytest.MonkeyPatch.context() as patch:  # packages of kernels run in Triton's interpreter
                patch.setenv("TRITON_INTERPRET", "1")
                patch.setenv("MEMEFF_INPUT_PRECISION", "ieee")
                results[world] = gather_from(world, ranks_worker.run, new=True)
        return results[world]

    return of


@pytest.mark.parametrize("world", ranks_worker.WORLDS)
@pytest.mark.parametrize("key", ranks_worker.MAKERS)
def test_every_rank_finds_nothing_wrong(found, world, key):
    for rank, result in enumerate(found(world)):
        assert isinstance(result, dict), result
        if result[key].startswith("missing"):
            pytest.skip(result[key])
        assert not result[key], f"rank {rank}: {result[key]}"
