"""Machine instructions that a pair costs on sm_90, in tiles without an edge and off the diagonal: SigLIP and GRAM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):  # it would replace the compiler when the kernels are imported
    pytest.skip("needs TRITON_INTERPRET unset", allow_module_level=True)

from contrastile.spec import Score
from contrastile.triton_kernels.config import Tile
from support import aot, machine_code

pytestmark = pytest.mark.aot
# instructions after the products, those of them that go to the slow units for exponentials and roots
LIMITS = {("score_grad", "siglip"): (40, 2.1), ("stats", "gram"): (42, 3.1), ("score_grad", "gram"): (48, 4.3)}
WIDTHS = {"siglip": 64, "gram": 128}  # columns that a tensor-core instruction takes


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """A cached binary would be no proof that this source compiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def faults(kernel: str, name: str, variant: aot.Variant, tile: Tile | None = None) -> Iterator[str]:
    tile = tile or aot.tile_of(kernel, "sm_90", "half", variant)
    found = aot.build(kernel, "sm_90", "half", variant, tile)
    yield from found.faults("sm_90", "half")
    way, (all_, slow) = machine_code.way(found.code), LIMITS[kernel, name]
    size = tile.rows, tile.cols, tile.warps
    if way.per_pair(*size) > all_:
        yield f"{way.per_pair(*size):.1f} instructions a pair"
    if way.per_pair(*size, "MUFU") > slow:
        yield f"{way.per_pair(*size, 'MUFU'):.1f} slow ones"
    if f"HGMMA.64x{WIDTHS[name]}x16" not in found.code:
        yield "narrow products"


@pytest.mark.parametrize("kernel, name", LIMITS)
def test_a_pair_takes_few_instructions(kernel, name):
    assert not list(faults(kernel, name, aot.VARIANTS[name]))


def test_the_gate_notices_what_is_not_lean():
    """Rules that ask of every pair, roots beside exponentials, a tile of few columns."""
    variant = replace(aot.VARIANTS["siglip"], score=Score.DISTANCE)
    variant = replace(variant, given=(*variant.given, "Mask"))
    found = list(faults("score_grad", "siglip", variant, Tile(64, 64, 64, 8, 3)))
    assert [fault.split(" ", 1)[-1] for fault in found] == ["instructions a pair", "slow ones", "products"]


@pytest.mark.slow
@pytest.mark.parametrize("kernel, name", LIMITS)
def test_the_gate_notices_a_mask(kernel, name):
    masked = replace(aot.VARIANTS[name], given=(*aot.VARIANTS[name].given, "Mask"))
    assert any("instructions" in fault for fault in faults(kernel, name, masked, Tile(64, 128, 64, 8, 3)))


@pytest.mark.slow
@pytest.mark.skipif("CONTRASTILE_OLDER_TRITON" not in os.environ, reason="needs a folder with an older Triton")
def test_with_an_older_triton():
    """In a process of its own: pip install --no-deps --target FOLDER triton==3.6.0, CONTRASTILE_OLDER_TRITON=FOLDER."""
    check = [sys.executable, "-m", "pytest", __file__, "-q", "-k", "few_instructions"]
    environment = os.environ | {"PYTHONPATH": os.environ["CONTRASTILE_OLDER_TRITON"]}
    done = subprocess.run(check, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
