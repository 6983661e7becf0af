"""A small problem on the cuda backend: one crossing launches all kernels between the products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import FLOOR, Score
from .base import SmallWeights
from .native_block import GRAD_TYPES
from .native_small import set_numbers, set_operands
from .products import feature_gradients
from .small import features, gradients_in_order, numbers
from .underflow import bound_of, power_of_two

WEIGHTS = ("row.weight", "row.positive_weight", "col.weight", "col.positive_weight")
# of the rows' scale, the columns', the rows' bias, the columns', as record.inputs has them
SUMS = ("row.grad_score_sum", "col.grad_score_sum", "row.grad_sum", "col.grad_sum")


def small_loss(backend: Any, args: Any, weights: SmallWeights, needs: Sequence[bool]) -> tuple[Tensor, list[Tensor]]:
    """Every tensor whose address is taken lives until the end."""
    a, square = features(args.a, args.compute, args.compute), args.square
    b = a if square else features(args.blocks[0], args.compute, args.compute)
    (n, m), device, scale = (a.shape[0], b.shape[-2]), a.device, numbers(args.scale)
    narrow = a.dtype == torch.float16 and args.score == Score.DOT
    factor = power_of_two(bound_of(weights, [scale], [args.col_scale], args.own_scales, a)) if narrow else None
    row_scale = scale.expand(n).contiguous()
    scores = backend.products([(a, direction) for direction in (b if b.dim() == 3 else b.unsqueeze(0))], None)
    kind = a.dtype if narrow or a.dtype == torch.bfloat16 else torch.float32
    grad = scores if kind == torch.float32 else torch.empty(scores.shape, dtype=kind, device=device)
    loss = torch.empty((), dtype=torch.float32, device=device)
    values = {
        "directions": scores.shape[0], "n": n, "m": m, "row_scale": row_scale.data_ptr(), "keep": args.keep,
        "positives": args.positives, "reduce": args.reduce, "keep_positives": args.keep_positives,
        "split": args.split, "own_scales": args.own_scales, "cross_entropy": args.cross_entropy,
        "row.on": True, "col.on": args.cols,
        "scores": scores.data_ptr(), "score_stride": scores.stride(1), "score_direction": scores.stride(0),
        "grad": grad.data_ptr(), "grad_stride": grad.stride(1), "grad_direction": grad.stride(0),
        "grad_type": GRAD_TYPES[kind], "factor": 0 if factor is None else factor.data_ptr(), "loss": loss.data_ptr(),
    }  # fmt: skip
    alive = set_numbers(values, args) + set_operands(values, args) + set_weights(values, weights, n, m, device)
    of_one_block(values, args)
    sums: list[Tensor | None] = [None, None, None, None]
    for place, need in enumerate(wanted_sums(needs, square)):
        if need:
            sums[place] = total = torch.empty((n, m)[place % 2], dtype=torch.float32, device=device)
            values[SUMS[place]] = total.data_ptr()
    backend.launch_packed(values, device)
    del alive
    rows, cols = feature_gradients(a, b, grad[:, :, :m], needs[0], needs[-1], square)
    if (total_scale := sums[0]) is not None and scale.dim() == 0:
        sums[0] = total_scale.sum()
    return loss, gradients_in_order(rows, sums, cols, square, factor)


def wanted_sums(needs: Sequence[bool], square: bool) -> list[bool]:
    """A bias of the rows of a square call is that of the columns as well."""
    *first, row_bias, col_bias = needs[1:5]
    return [*first, row_bias, row_bias if square else col_bias]


def set_weights(values: dict[str, Any], weights: SmallWeights, n: int, m: int, device: torch.device) -> list[Tensor]:
    alive = []
    for name, weight, size in zip(WEIGHTS, weights, (n, n, m, m), strict=True):
        if weight is None:
            continue
        if isinstance(weight, Tensor):
            each = numbers(weight)
        else:
            each = torch.full((size,), weight, dtype=torch.float32, device=device)
        alive.append(each)
        values[name] = each.data_ptr()
    return alive


def of_one_block(values: dict[str, Any], args: Any) -> None:
    """What columns do not have, and what the score is made of."""
    for name in ("ids", "groups", "labels"):
        if getattr(args, f"without_{name}"):
            values.pop(f"col_{name}", None)
    if args.score != Score.DOT:
        for side in ("row", "col"):
            values[f"{side}_norm"] = values.pop(f"{side}_bias", 0)
        values |= {"score": args.score, "offset": args.offset, "floor": FLOOR[torch.float32]}
