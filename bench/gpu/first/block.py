"""One chunk of a large loss, and its two kernels, which are lean, with any tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from contrastile.backends import triton as backend
from contrastile.backends import triton_launch
from contrastile.backends.base import Backend
from contrastile.monoid import finish
from contrastile.spec import Needs, PairBlock, PairSpec, PairTest, Reduce, Side
from contrastile.triton_kernels.config import Tile

from .look import Look

ROWS, COLUMNS, FEATURES = 4096, 65_536, 768
NEEDS = Needs(True, [True], row_scale=True)
# None: as the package chooses it
TILES: dict[str, dict[str, Tile | None]] = {
    "stats": {
        "table": None,
        "64x128, 4 warps": Tile(64, 128, 64, 4, 3),
        "64x128, 168 registers": Tile(64, 128, 64, 4, 3, 0, 168),
        "128x128": Tile(128, 128, 64, 8, 3),
    },
    "score_grad": {
        "table": None,
        "64x128, 4 warps": Tile(64, 128, 64, 4, 3),
        "128x128": Tile(128, 128, 64, 8, 3),
        "128x128, 128 registers": Tile(128, 128, 64, 8, 3, 0, 128),
    },
}


def clip(look: Look, by: Backend | None = None) -> PairBlock:
    """Of clip_loss, with statistics finished by this backend. None: by `triton`."""
    n, m = look.rows(ROWS), look.rows(COLUMNS)
    generator = torch.Generator(look.device).manual_seed(0)
    sides = []
    for count in (n, m):
        x = torch.randn(count, look.rows(FEATURES), generator=generator, device=look.device)
        sides.append(Side(F.normalize(x, dim=1).to(torch.bfloat16)))
    row, col = sides
    row.scale = torch.full((n,), 14.3, device=look.device)
    for side in sides:
        side.weight = torch.full((len(side),), 0.5 / m, device=look.device)
        side.positive_weight = -side.weight
    spec = PairSpec(reduce=Reduce.LSE, positives=PairTest.SAME_INDEX, cols=True)
    block = PairBlock(spec, row, col)
    for side, found in zip(sides, (by or backend.TritonBackend()).stats(block), strict=True):
        assert found is not None
        side.stat = finish(found)
    return block


def kernel(name: str, block: PairBlock) -> Callable[[], Any]:
    triton = backend.TritonBackend()
    if name == "stats":
        return lambda: triton.stats_tiles(block)
    return lambda: triton.score_grad_tiles(block, NEEDS)


@contextmanager
def tiled(tile: Tile | None) -> Iterator[None]:
    """Inside, the kernels take this tile."""
    before = triton_launch.tile_for
    if tile is not None:
        triton_launch.tile_for = lambda *_: tile
    try:
        yield
    finally:
        triton_launch.tile_for = before


@contextmanager
def general() -> Iterator[None]:
    """Inside, no epilogue is lean."""
    before = triton_launch.is_lean
    triton_launch.is_lean = lambda _: False
    try:
        yield
    finally:
        triton_launch.is_lean = before
