"""The `torch` backend: tiles in plain torch on any device and dtype. Also what the other backends are tested
against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import Limits, Needs, PairBlock, ScoreGradients
from .base import CPU_LIMITS, Backend, gpu_limits, score_grad_dtype
from .products import HALVES, add_float_product, mixed_product, set_float_product
from .torch_pairs import Pairs, dot_products, own_scales, score_gradients
from .torch_rules import sides_of
from .torch_segments import TorchSegments


class TorchBackend(Backend):
    name = "torch"
    saves_scores = True
    takes_second = True
    writes_halves = True
    most_slices = 1 << 30

    def unavailable(self) -> str | None:
        return None

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None

    def limits(self, device: torch.device) -> Limits:
        # on a GPU less than the fused kernels: every elementwise step makes a matrix of its own
        return CPU_LIMITS if device.type == "cpu" else gpu_limits(device, 128 << 20)

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """Halves stay what they are where tensor cores take them; elsewhere they are widened, once."""
        return dtype if dtype == torch.float64 or mixed_product(device, dtype) else torch.float32

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def put(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        set_float_product(out, x, y)

    def segments(self) -> TorchSegments:
        return TorchSegments(self)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        pairs = Pairs(block, dot_products(block, fill=True))
        block.saved = pairs if block.again else None
        return sides_stats(block, pairs)

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        if not isinstance(pairs := block.saved, Pairs):
            pairs = Pairs(block, dot_products(block, fill=False))
        block.saved = None
        return rounded(block, sides_gradients(block, pairs, needs))

    def slice_stats(self, blocks: Sequence[PairBlock]) -> list[tuple[SideStats, SideStats | None]]:
        return [sides_stats(block, pairs) for block, pairs in zip(blocks, sliced(blocks, fill=True), strict=True)]

    def slice_score_grad(self, blocks: Sequence[PairBlock], needs: Needs) -> list[ScoreGradients]:
        every = zip(blocks, sliced(blocks, fill=False), strict=True)
        found = [sides_gradients(block, pairs, needs) for block, pairs in every]
        for shorter, longer in zip(found[-2::-1], found[:0:-1], strict=True):
            shorter.grad.add_(longer.grad)
        return [rounded(block, result) for block, result in zip(blocks, found, strict=True)]


def sliced(blocks: Sequence[PairBlock], fill: bool) -> Iterator[Pairs]:
    """Of blocks whose features are slices: the products of each are added to those of the block before."""
    dots: Tensor | None = None
    for block in blocks:
        before, dots = dots, dot_products(block, fill)
        if before is not None and (fill or block.scores is None):
            dots.add_(before)
        yield Pairs(block, dots)


def kept_logits(block: PairBlock) -> Tensor:
    """(n, m): z as the statistics of rows see it, -inf where a pair is dropped."""
    return Pairs(block, dot_products(block, fill=True)).sides[1].rules.kept(block.row, 1)


def sides_stats(block: PairBlock, pairs: Pairs) -> tuple[SideStats, SideStats | None]:
    row = pairs.stats(block.row, block.col, 1)
    return row, pairs.stats(block.col, block.row, 0) if block.both_sides else None


def sides_gradients(block: PairBlock, pairs: Pairs, needs: Needs) -> ScoreGradients:
    """In the type of the scores."""
    (g, of_t), of_cols = pairs.slopes(block.row, 1, needs.second), None
    if block.both_sides:
        of_cols, of_col_t = pairs.slopes(block.col, 0, needs.second)
        of_t = of_col_t if of_t is None else of_t if of_col_t is None else of_t.add_(of_col_t)
    if of_cols is not None and own_scales(block):
        for (side, dim), of_z in zip(sides_of(block), (g, of_cols), strict=True):
            pairs.sides[dim].rules.add_positive_slopes([(side, dim)], of_z)
    else:
        g = g if of_cols is None else g.add_(of_cols)
        pairs.sides[1].rules.add_positive_slopes(sides_of(block), g)
        of_cols = None
    return score_gradients(block, pairs.dots, pairs.s, g, of_cols, of_t, needs)


def rounded(block: PairBlock, result: ScoreGradients) -> ScoreGradients:
    """In the type that goes into the output products."""
    if block.row.features.dtype in HALVES:
        if block.factor is not None:
            result.grad = result.grad.mul_(block.factor)
        result.grad = result.grad.to(score_grad_dtype(block))
    return result
