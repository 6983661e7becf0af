"""Blocks with random rules and operands, and whether a backend's tiles of them agree with those in torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from contrastile.backends.base import Backend
from contrastile.backends.torch_pairs import affine, dot_products, score_of
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.spec import (
    NUMBERS,
    PARTNER_TESTS,
    PARTS,
    Needs,
    PairBlock,
    PairSpec,
    PairTest,
    Reduce,
    Score,
    Side,
    Target,
)
from contrastile.testing import EPS, largest
from support.cases import between

LOW = EPS[torch.float32]
ALL = Needs(True, [True], True, True, True, True)
SECOND_WIDTH = 5


def all_of(spec: PairSpec) -> Needs:
    return replace(ALL, second_a=spec.second, second_scale=bool(spec.target))


def random_block(spec: PairSpec, n: int, m: int, tiles: int, extras: bool, both: bool) -> PairBlock:
    """Small multiples of powers of two, so that the z of dot products is exact. Sides have all that gradients need."""
    d = 8
    a = (torch.randn(n, d) * 2).round() / 4
    b = (torch.randn(tiles, m, d) * 2).round() / 4
    sides = []
    for features, size, origin, on in ((a, n, 40, True), (b, m, 37, both)):
        side = Side(
            features, origin, on=on, ids=torch.randint(0, 4, (size,)), groups=torch.randint(0, 3, (size,)),
            labels=torch.randint(0, 2**62, (size, 2)) & torch.randint(0, 2**62, (size, 2)) & 0x40000010001000,
            order=torch.randint(-5, 5, (size,)),
        )  # fmt: skip
        if extras or not spec.biased:
            side.bias = (torch.rand(size) * 16).round() / 4 + (-2.0 if spec.biased else 40.0)
        if extras:
            side.scale = 2.0 ** torch.randint(-1, 2, (size,))
        side.weight, side.positive_weight = torch.randn(size), torch.randn(size)
        if spec.split:
            side.positive_stat_weight = torch.randn(size)
        sides.append(side)
    if (spec.keep | spec.positives) & PARTNER_TESTS:  # some are elsewhere, some named twice
        partner = torch.randint(-1, 40 + m, (n, 3))
        partner[: n // 2, 1] = partner[: n // 2, 0]
        share = torch.randint(0, 8, (n, 3)) / 4 if spec.positives & PairTest.PARTNER else None
        sides[0] = replace(sides[0], partner=partner, share=share)
    if spec.second:
        add_second(spec, *sides)
    block = PairBlock(spec, *sides)
    z = [logits(double(block), dim) for dim in (1, 0)]
    for side, peak in zip(sides, (z[0].amax(1), z[1].amax(0)), strict=True):
        side.stat = random_stat(peak)
        side.positive_stat = random_stat(peak) if spec.split else None
    if extras:
        block.mask = torch.rand(n, m + 5)[:, 3 : m + 3] < 0.7
        for side, x in zip(sides, (z[0], z[1].T), strict=True):
            side.low, side.high = -between(-x).float(), between(x).float()
    return block


def add_second(spec: PairSpec, row: Side, col: Side) -> None:
    """Second operands and what their gradients need; of a gate positive, but for a row and a column without any."""
    for side in (row, col):
        size = len(side)
        side.second = (torch.randn(size, SECOND_WIDTH) * 2).round() / 4
        if spec.score == Score.GATED:
            side.second = side.second.abs() + 0.25
            side.second[size // 2] = 0.0
        if spec.target:
            side.mean_weight, side.mean_offset = torch.randn(2, size)
        if spec.target == Target.SOFTMAX:
            side.logit_weight, side.target_stat = torch.randn(size), random_stat(2.0 * torch.rand(size))
    if spec.target:
        row.second_scale = 2.0 ** torch.randint(-1, 2, (len(row),))
    if spec.target == Target.AFFINE:
        row.second_bias = torch.rand(len(row))


def random_stat(peak: Tensor) -> Tensor:
    """In parts, not those of these scores."""
    return torch.stack([peak.float() + torch.randn(len(peak)), torch.rand(len(peak)) + 3.0], 1)


def logits(block: PairBlock, dim: int) -> Tensor:
    """As the statistics along dim see them."""
    return affine(block, score_of(block, dot_products(block, fill=False)), dim)


def double(block: PairBlock) -> PairBlock:
    names = ("features", *NUMBERS, *PARTS, "share", "second", "second_scale", "second_bias")
    sides = [
        replace(side, **{k: x.double() for k in names if (x := getattr(side, k)) is not None})
        for side in (block.row, block.col)
    ]
    return PairBlock(block.spec, *sides, block.mask)


def statistics(backend: Backend, block: PairBlock) -> dict[str, Tensor]:
    """All that stats returns."""
    sides = zip(("row", "col"), backend.stats(block), strict=True)
    return {f"{side} {k}": x for side, stats in sides if stats is not None for k, x in stats.present().items()}


def numbers(backend: Backend, block: PairBlock) -> dict[str, Tensor]:
    """All that stats and score_grad return."""
    found = statistics(backend, block)
    if block.spec.reduce != Reduce.MAX:
        apart = replace(block, saved=None)  # the sides' own statistics are not those of these scores
        found |= vars(backend.score_grad(apart, all_of(block.spec)))
    return {k: x for k, x in found.items() if x is not None}


def agree(found: dict[str, Tensor], block: PairBlock) -> None:
    """At most four times the error of float32 tiles in torch, and eight roundings of the largest number."""
    truth, twin = numbers(TorchBackend(), double(block)), numbers(TorchBackend(), block)
    assert found.keys() == truth.keys()
    for name, x in found.items():
        assert x.is_floating_point() or torch.equal(x, truth[name]), name
        finite = truth[name].isfinite()
        assert x.shape == truth[name].shape, name
        assert torch.equal(x[~finite].double(), truth[name][~finite].double()), name
        error, measured = (largest((y.double() - truth[name])[finite]) for y in (x, twin[name]))
        limit = 4 * measured + 8 * LOW * max(largest(truth[name][finite]), 1.0)
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g}"


# ---- positives apart, counts

SPLIT = partial(PairSpec, cols=True, split=True, counts=True)
# name: specification, whether with scales, limits and a mask, rows and columns, directions
APART: dict[str, tuple[PairSpec, bool, int, int, int]] = {
    "one pair": (SPLIT(positives=PairTest.SAME_ID | PairTest.SAME_INDEX), False, 1, 4, 1),
    "index": (SPLIT(positives=PairTest.SAME_INDEX), False, 70, 67, 1),
    "index, all rules": (SPLIT(positives=PairTest.SAME_INDEX), True, 67, 131, 1),
    "none is kept": (SPLIT(keep=PairTest.OTHER_ID, positives=PairTest.SAME_ID), False, 37, 70, 1),
    "ids": (SPLIT(keep=PairTest.OTHER_INDEX, positives=PairTest.SAME_ID), False, 130, 70, 1),
    "some are dropped": (SPLIT(positives=PairTest.SAME_GROUP), True, 65, 131, 1),
    "all are kept": (SPLIT(keep=PairTest.OTHER_ID, positives=PairTest.SAME_ID, keep_positives=True), True, 37, 150, 1),
    "no others": (SPLIT(keep=PairTest.SAME_GROUP, positives=PairTest.KEPT), True, 37, 70, 1),
    "mirrored": (SPLIT(cols=False, square=True, positives=PairTest.SAME_ID), True, 37, 70, 1),
    "rows alone": (SPLIT(cols=False, positives=PairTest.SAME_INDEX, keep=PairTest.OTHER_ID), True, 37, 70, 1),
    "not counted": (SPLIT(counts=False, positives=PairTest.SAME_ID), True, 37, 70, 1),
    "partners": (SPLIT(keep=PairTest.OTHER_ID, positives=PairTest.PARTNER), True, 65, 131, 1),
    "distances": (SPLIT(positives=PairTest.SAME_ID, score=Score.DISTANCE), True, 37, 70, 3),
    "own scales": (SPLIT(keep=PairTest.OTHER_ID, positives=PairTest.SAME_INDEX, own_scales=True), True, 67, 131, 1),
    "own scales, distances": (
        SPLIT(split=False, positives=PairTest.SAME_ID, score=Score.DISTANCE, own_scales=True), True, 37, 70, 3,
    ),
    "own scales, sums": (
        SPLIT(Reduce.SOFTPLUS, PairTest.OTHER_INDEX, PairTest.SAME_ID, split=False, own_scales=True), True, 65, 70, 1,
    ),
    "counts": (SPLIT(split=False, positives=PairTest.SAME_ID), True, 37, 70, 1),
    "counts of sums": (SPLIT(Reduce.SOFTPLUS, PairTest.OTHER_INDEX, PairTest.SAME_INDEX, split=False), True, 37, 70, 1),
    "counts of maxima": (SPLIT(Reduce.MAX, PairTest.OTHER_ID, split=False), True, 70, 131, 1),
    "counts without rules": (SPLIT(Reduce.RELU, split=False), False, 37, 70, 1),
}  # fmt: skip


# ---- second operands

WITH_SECOND = partial(PairSpec, cols=True)
RULES = {"keep": PairTest.OTHER_ID, "positives": PairTest.SAME_GROUP, "keep_positives": True, "counts": True}
SECOND: dict[str, tuple[PairSpec, bool, int, int, int]] = {
    "softmax": (WITH_SECOND(positives=PairTest.SAME_INDEX, target=Target.SOFTMAX), False, 20, 30, 1),
    "softmax, all rules": (WITH_SECOND(target=Target.SOFTMAX, **RULES), True, 35, 70, 1),
    "softmax, own scales": (WITH_SECOND(target=Target.SOFTMAX, own_scales=True, **RULES), True, 35, 70, 1),
    "affine, own scales": (WITH_SECOND(target=Target.AFFINE, own_scales=True, **RULES), True, 35, 70, 1),
    "gated, own scales": (WITH_SECOND(score=Score.GATED, own_scales=True, **RULES), True, 35, 70, 1),
    "softmax of rows": (WITH_SECOND(target=Target.SOFTMAX, cols=False, keep=PairTest.OTHER_INDEX), False, 37, 70, 1),
    "softmax of one pair": (WITH_SECOND(target=Target.SOFTMAX), False, 1, 1, 1),
    "affine": (WITH_SECOND(positives=PairTest.SAME_INDEX, target=Target.AFFINE), False, 20, 30, 1),
    "affine, all rules": (WITH_SECOND(target=Target.AFFINE, **RULES), True, 35, 70, 1),
    "affine of rows": (WITH_SECOND(target=Target.AFFINE, cols=False, keep=PairTest.OTHER_ID), True, 1, 70, 1),
    "gated": (WITH_SECOND(positives=PairTest.SAME_INDEX, score=Score.GATED), False, 20, 30, 1),
    "gated, all rules": (WITH_SECOND(score=Score.GATED, **RULES), True, 35, 70, 1),
    "gated sums": (WITH_SECOND(Reduce.SOFTPLUS, score=Score.GATED, **RULES), True, 35, 70, 1),
    "gated sums of rows": (WITH_SECOND(Reduce.RELU, score=Score.GATED, cols=False), False, 37, 1, 1),
}  # fmt: skip


def apart(name: str) -> PairBlock:
    spec, extras, n, m, tiles = (APART | SECOND)[name]
    return random_block(spec, n, m, tiles, extras, both=spec.cols or spec.square)


def nan_in(block: PairBlock, value: float) -> PairBlock:
    """With a row and a column that are not finite."""
    block.row.features[min(3, len(block.row) - 1), 2] = value
    block.col.features[..., -1, 1] = value
    return block


def close(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """Where numbers are not finite. NaN is in a total; what its peak is then nobody asks."""
    assert found.keys() == truth.keys()
    for name, x in truth.items():
        total = truth.get(name.replace("peak", "total"))
        if name.endswith("peak") and total is not None:
            x = torch.where(total.isnan(), found[name], x)
        torch.testing.assert_close(
            found[name], x, equal_nan=True, rtol=1e-4, atol=1e-4, msg=lambda t, k=name: f"{k}: {t}"
        )
