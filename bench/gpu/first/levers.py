"""Which lever pays: one chunk with several tiles, with fewer registers, and with lean kernels where there are some."""

from __future__ import annotations

from typing import Any

import torch

from contrastile.triton_kernels.config import Tile

from . import block
from .look import Look, milliseconds

AGREE = 1e-2  # relative; coefficients are bfloat16


def run(look: Look) -> None:
    chunk = block.clip(look)
    for name, tiles in block.TILES.items():
        truth = results(block.kernel(name, chunk)())
        for lever, tile in look.some(tuple(tiles.items())):
            names = {"kernel": name, "lever": lever, "tile": tile and tile.numbers()}
            look.attempt(lambda n=name, t=tile, r=truth: timed(look, chunk, n, t, r), **names)
        if not block.has_lean():
            look.results.add(kernel=name, lever="lean", outcome="skipped", why=f"there is no {block.LEAN}")
            continue
        with block.lean(name):
            for lever, tile in tiles.items():
                names = {"kernel": name, "lever": f"lean, {lever}", "tile": tile and tile.numbers()}
                look.attempt(lambda n=name, t=tile, r=truth: timed(look, chunk, n, t, r), **names)


def timed(look: Look, chunk: Any, name: str, tile: Tile | None, truth: list[torch.Tensor]) -> dict[str, Any]:
    with block.tiled(tile):
        call = block.kernel(name, chunk)
        worst = max(float((x - y).norm() / y.norm()) for x, y in zip(results(call()), truth, strict=True))
        ms = milliseconds(call)
    pairs = len(chunk.row) * len(chunk.col)
    right = look.dry or worst < AGREE
    found = {"ms": ms, "tflops": 2 * pairs * chunk.row.features.shape[1] / ms / 1e9, "difference": worst}
    return {"outcome": "ok" if right else "wrong"} | found


def results(found: Any) -> list[torch.Tensor]:
    """What does not depend on the tile."""
    if isinstance(found, tuple):  # coefficients
        return [found[0].grad.float(), found[0].row_scale]
    merged = [partials.merged() for partials in found]
    return [x.peak + x.total.log() for x in merged]
