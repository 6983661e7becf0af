"""A small problem on a CPU as one native call, from the record of its arguments straight to the packed struct: what is
between would cost as much as the work. Every tensor whose address is taken lives until the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import FLOOR, Score
from .base import SmallExtras, SmallWeights
from .native_block import GRAD_TYPES, dtype_code, threads_for
from .native_small import set_numbers, set_operands
from .native_struct import packer
from .small import features, numbers

SMALL_PAIRS = 1 << 20  # pairs up to which the whole problem is one native call
PLACES = ("first", "second", "third", "fourth")  # of blocks of columns, in csrc/cpu/block.h
BLOCKS = [(f"{name}.b", f"{name}.m", f"{name}.grad") for name in PLACES]
# as record.inputs has what wants a gradient: rows, their scale, that of columns, biases of both, blocks
GRADS = (
    "grad_a", "grad_scale", "block.col.grad_score_sum", "block.row.grad_sum", "block.col.grad_sum",
    "no second rows", "no second scale",
    *(grad for _, _, grad in BLOCKS),
)  # fmt: skip
WEIGHTS = ("row_weight", "row_positive_weight", "col_weight", "col_positive_weight")


def fits(args: Any) -> bool:
    """Whether a call is small."""
    return len(args.blocks) <= len(BLOCKS) and args.n * args.m * directions(args) <= SMALL_PAIRS


def directions(args: Any) -> int:
    """Products of a pair."""
    return args.blocks[0].shape[0] if args.blocks and args.blocks[0].dim() == 3 else 1


def loss_fits(args: Any, weights: SmallWeights, extras: SmallExtras) -> bool:
    private = extras.private
    if private is not None and (private.numel() > SMALL_PAIRS * private.shape[2] or args.score != Score.DOT):
        return False
    # columns that weigh nothing have no slopes
    return fits(args) and (weights[2] is not None or not args.cols)


def described(args: Any, kind: torch.dtype) -> tuple[dict[str, Any], list[Tensor]]:
    """The problem as fields of a SmallCall, without what is to be done, and what has to live until then. kind: the type
    features are multiplied in."""
    a = features(args.a, args.compute, kind)
    blocks = [a] if args.square else [features(x, args.compute, kind) for x in args.blocks]
    (n, d), m, scale = a.shape, args.m, numbers(args.scale)
    values = {
        "block.a": a.data_ptr(), "block.n": n, "block.m": m, "block.d": d, "block.dtype": dtype_code(a),
        "block.threads": threads_for(n * m * max(d, 16)), "block.row_scale": scale.data_ptr(),
        "one_scale": scale.dim() == 0, "square": args.square, "block.keep": args.keep,
        "block.positives": args.positives, "block.reduce": args.reduce, "block.keep_positives": args.keep_positives,
        "block.split": args.split, "block.cross_entropy": args.cross_entropy, "block.row.on": True,
        "block.col.on": args.cols, "block.own_scales": args.own_scales, "block.grad_type": GRAD_TYPES[kind],
        "blocks": len(blocks),
    }  # fmt: skip
    for (place, count, _), block in zip(BLOCKS, blocks, strict=False):
        values[place], values[count] = block.data_ptr(), block.shape[-2]
    alive = [a, *blocks, scale, *set_numbers(values, args, "block."), *set_operands(values, args, "block.")]
    if args.without_ids or args.without_groups:
        set_missing(values, args)
    if args.score != Score.DOT:
        set_distance(values, args)
    return values, alive


def set_distance(values: dict[str, Any], args: Any) -> None:
    """What are biases of a product are squared norms here."""
    for side in ("row", "col"):
        values[f"block.{side}_norm"] = values.pop(f"block.{side}_bias", 0)
    values["block.score"], values["block.offset"], values["block.floor"] = args.score, args.offset, FLOOR[torch.float32]
    values["block.directions"] = directions(args)


def run(module: Any, values: dict[str, Any]) -> None:
    module.small_call(packer(module, "SmallCall", tuple(values))(*values.values()))


def small_loss(
    module: Any, args: Any, kind: torch.dtype, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
) -> tuple[Tensor, list[Tensor]]:
    values, alive = described(args, kind)
    values["loss"] = (loss := torch.empty((), dtype=torch.float32, device=args.a.device)).data_ptr()
    alive += set_weights(values, weights)
    grads = set_gradients(values, args, needs)
    if extras.sets > 1:
        values["sets"] = extras.sets
    if (private := extras.private) is not None:
        alive.append(private := features(private, args.compute, kind))
        values["private_columns"], values["private_count"] = private.data_ptr(), private.shape[1]
        if needs[-1]:
            grads.append(grad := torch.empty_like(private, dtype=torch.float32))
            values["grad_private"] = grad.data_ptr()
    run(module, values)
    del alive
    return loss, grads


def set_weights(values: dict[str, Any], weights: SmallWeights) -> list[Tensor]:
    alive = []
    for name, weight in zip(WEIGHTS, weights, strict=True):
        if isinstance(weight, Tensor):
            alive.append(weight := numbers(weight))
            values[f"{name}.each"] = weight.data_ptr()
        elif weight is not None:
            values[f"{name}.all"] = weight
    return alive


def set_missing(values: dict[str, Any], args: Any) -> None:
    """Blocks of columns that have no ids or groups."""
    for field, blocks in (("without_ids", args.without_ids), ("without_groups", args.without_groups)):
        for index, name in enumerate(PLACES):
            values[f"{name}.{field}"] = bool(blocks >> index & 1)


def set_gradients(values: dict[str, Any], args: Any, needs: Sequence[bool]) -> list[Tensor]:
    """Memory for what is wanted, in the order of record.inputs."""
    likes = (args.a, args.scale, args.col_scale, args.row_bias, args.col_bias, None, None, *args.blocks)
    grads = []
    for place, like, need in zip(GRADS, likes, needs, strict=False):
        if need:
            grads.append(grad := torch.empty_like(like, dtype=torch.float32, memory_format=torch.contiguous_format))
            values[place] = grad.data_ptr()
    return grads
