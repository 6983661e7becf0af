"""Which lever pays: one chunk with several tiles, with fewer registers, and with kernels that are not lean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from contrastile.backends.torch_tiles import TorchBackend
from contrastile.cli.tune_measure import poisoned
from contrastile.monoid import SideStats
from contrastile.spec import PairBlock, ScoreGradients
from contrastile.triton_kernels.config import Tile

from . import block
from .look import Look, milliseconds

# A sum of float32 products, in another order, is off by about eps sqrt(D) |z| <= 6e-8 x 28 x 14.3 = 2.4e-5, a sum of
# M = 65,536 exponentials by eps sqrt(M) = 1.5e-5 of itself. A tile of 64 columns is 1e-3 of the sum.
LSE = 1e-4
POSITIVE = 1e-4  # one product: the first of these alone
COEFFICIENT = 2**-7  # relative: the most that two neighbours in bfloat16 are apart
TINY = 1e-6  # of the largest score gradient off the diagonal
SCALE = 1e-3  # of the largest gradient of a row's scale, a sum of M terms of both signs; 5 % of the columns: 7e-3


def run(look: Look) -> None:
    look.warm_up()
    chunk = block.clip(look, TorchBackend())  # the statistics that score_grad takes do not hang on a kernel on trial
    for name in block.TILES:
        for lever, tile, general in trials(look, name):
            names = {"kernel": name, "lever": lever, "tile": tile and tile.numbers()}
            look.attempt(lambda n=name, t=tile, g=general: timed(look, chunk, n, t, g), **names)


def trials(look: Look, name: str) -> Iterator[tuple[str, Tile | None, bool]]:
    """(lever, tile, whether not lean). The table's tile comes first and last, so that the spread is seen."""
    yield from ((lever, tile, False) for lever, tile in look.some(tuple(block.TILES[name].items())))
    yield "general", None, True
    yield "table", None, False


def timed(look: Look, chunk: PairBlock, name: str, tile: Tile | None, general: bool) -> dict[str, Any]:
    with block.tiled(tile), block.general() if general else nullcontext():
        call = block.kernel(name, chunk)
        with poisoned():
            found = call()
        worst = CHECKS[name](chunk, found)
        del found
        ms = milliseconds(call)
    pairs = len(chunk.row) * len(chunk.col)
    right = look.dry or worst <= 1.0
    rates = {"ms": ms, "tflops": 2 * pairs * chunk.row.features.shape[1] / ms / 1e9, "of_bound": worst}
    return {"outcome": "ok" if right else "wrong"} | rates


def stats_off(chunk: PairBlock, found: Sequence[Any]) -> float:
    """The largest difference from the backend `torch`, in bounds."""
    with poisoned():
        merged = [partials.merged() for partials in found]
    return max(of_side(x, y) for x, y in zip(merged, TorchBackend().stats(chunk), strict=True) if y is not None)


def of_side(x: SideStats, y: SideStats) -> float:
    assert x.positive is not None and y.positive is not None
    return max(off(lse(x), lse(y), LSE), off(x.positive, y.positive, POSITIVE))


def lse(x: SideStats) -> Tensor:
    assert x.peak is not None and x.total is not None
    return x.peak + x.total.log()


def score_grad_off(chunk: PairBlock, found: tuple[ScoreGradients, Any]) -> float:
    return of_score_gradients(found[0], TorchBackend().score_grad(chunk, block.NEEDS))


def of_score_gradients(x: ScoreGradients, y: ScoreGradients) -> float:
    """Elementwise: the diagonal is thousands of times the rest, and would hide it in a norm."""
    assert x.row_scale is not None and y.row_scale is not None
    truth = y.grad.float()
    size = truth.abs()
    rest = size.clone()
    rest.diagonal(dim1=-2, dim2=-1).zero_()
    bound = size.mul_(COEFFICIENT).add_(TINY * rest.max())
    return max(off(x.grad.float(), truth, bound), off(x.row_scale, y.row_scale, SCALE * y.row_scale.abs().max()))


def off(x: Tensor, y: Tensor, bound: Tensor | float) -> float:
    """The largest difference in bounds; of what is not finite, infinite."""
    worst = ((x - y).abs() / bound).max().item()
    return worst if math.isfinite(worst) else math.inf


CHECKS: dict[str, Any] = {"stats": stats_off, "score_grad": score_grad_off}
