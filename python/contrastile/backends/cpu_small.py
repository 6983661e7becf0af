"""A small problem on a CPU as one native call, from the record of its arguments straight to the packed struct: what is
between would cost as much as the work. Every tensor whose address is taken lives until the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import Score
from .base import WEIGHTS, SmallExtras, SmallLoss, SmallWeights, block_names
from .native_block import BFLOAT16, FLOAT32, GRAD_TYPES, threads_for
from .native_small import operand_fields
from .native_struct import packer
from .small import given_names, taken

SMALL_PAIRS = 1 << 20  # pairs up to which the whole problem is one native call
PLACES = ("first", "second", "third", "fourth")  # of blocks of columns, in csrc/cpu/block.h
BLOCKS = [(f"{name}.b", f"{name}.m", f"{name}.grad") for name in PLACES]
# as record.inputs has what wants a gradient: rows, their scale, that of columns, biases of both, blocks
GRADS = (
    "grad_a", "grad_scale", "block.col.grad_score_sum", "block.row.grad_sum", "block.col.grad_sum",
    "no second rows", "no second scale",
    *(grad for _, _, grad in BLOCKS),
)  # fmt: skip


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


def described(args: Any, kind: torch.dtype) -> tuple[dict[str, Any], dict[str, str]]:
    """The problem as fields of a SmallCall, without what is to be done: what is the same in all calls of a kind, and
    the names, as SmallLoss has them, of what goes by address. kind: the type features are multiplied in."""
    (n, d), m, half = args.a.shape, args.m, kind == torch.bfloat16
    fixed = {
        "block.n": n, "block.m": m, "block.d": d, "block.dtype": BFLOAT16 if half else FLOAT32,
        "one_scale": args.scale.dim() == 0, "square": args.square, "block.keep": args.keep,
        "block.positives": args.positives, "block.reduce": args.reduce, "block.keep_positives": args.keep_positives,
        "block.split": args.split, "block.cross_entropy": args.cross_entropy, "block.row.on": True,
        "block.col.on": args.cols, "block.own_scales": args.own_scales, "block.grad_type": GRAD_TYPES[kind],
        "block.directions": directions(args), "blocks": len(args.blocks) or 1,
    }  # fmt: skip
    places = {"block.a": "a", "block.row_scale": "scale"}
    of_blocks = zip(block_names(args), args.blocks, strict=True) if args.blocks else [("a", args.a)]
    for (place, count, _), (name, block) in zip(BLOCKS, of_blocks, strict=False):
        places[place], fixed[count] = name, block.shape[-2]
    numbers, operands = operand_fields(args)
    for field, x in numbers.items():
        fixed[f"block.{field}"] = x
    for field, name in operands.items():
        places[f"block.{field}"] = name
    if args.without_ids or args.without_groups:
        set_missing(fixed, args)
    return fixed, places


def work_of(args: Any) -> int:
    return int(args.n * args.m * max(args.a.shape[1], 16))


def addressed(args: Any, kind: torch.dtype) -> tuple[dict[str, Any], list[Tensor]]:
    """All fields of `described`, and what has to live until the call."""
    fixed, places = described(args, kind)
    names = given_names(args)
    alive, _ = taken(args, kind, names)
    at = {name: x.data_ptr() for name, x in zip(names, alive, strict=True)}
    fixed["block.threads"] = threads_for(work_of(args))
    return fixed | {place: at[name] for place, name in places.items()}, alive


class SmallCall(SmallLoss):
    """Calls that differ in numbers, addresses and torch's number of threads alone. kind: the type features are
    multiplied in."""

    def __init__(
        self, module: Any, args: Any, kind: torch.dtype, weights: SmallWeights, needs: Sequence[bool],
        extras: SmallExtras,
    ) -> None:  # fmt: skip
        self.module, self.work = module, work_of(args)
        self.names = given_names(args, weights, extras)
        _, self.ways = taken(args, kind, self.names, weights, extras)
        self.as_given = not any(self.ways)
        fixed, places = described(args, kind)
        set_weights(fixed, places, weights)
        if extras.sets > 1:
            fixed["sets"] = extras.sets
        grads = gradient_places(args, needs)
        if (private := extras.private) is not None:
            places["private_columns"], fixed["private_count"] = "private", private.shape[1]
            if needs[-1]:
                grads["grad_private"] = private.shape
        self.shapes = [*grads.values()]
        self.operands = [self.names.index(name) for name in places.values()]
        self.pack = packer(module, "SmallCall", ("block.threads", "loss", *places, *grads), tuple(fixed.items()))

    def of_tensors(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if not self.as_given:
            given = [x if way is None else way(x) for x, way in zip(given, self.ways, strict=True)]
        loss, grads = torch.empty((), dtype=torch.float32), [torch.empty(x, dtype=torch.float32) for x in self.shapes]
        self.module.small_call(self.pack(
            threads_for(self.work), loss.data_ptr(), *[given[k].data_ptr() for k in self.operands],
            *[x.data_ptr() for x in grads],
        ))  # fmt: skip
        return loss, grads


def set_weights(fixed: dict[str, Any], places: dict[str, str], weights: SmallWeights) -> None:
    for name, weight in zip(WEIGHTS, weights, strict=True):
        if isinstance(weight, Tensor):
            places[f"{name}.each"] = name
        elif weight is not None:
            fixed[f"{name}.all"] = weight


def set_missing(fixed: dict[str, Any], args: Any) -> None:
    """Blocks of columns that have no ids or groups."""
    for field, blocks in (("without_ids", args.without_ids), ("without_groups", args.without_groups)):
        for index, name in enumerate(PLACES):
            fixed[f"{name}.{field}"] = bool(blocks >> index & 1)


def gradient_places(args: Any, needs: Sequence[bool]) -> dict[str, torch.Size]:
    """Where what is wanted goes, and its shape, in the order of record.inputs."""
    likes = (args.a, args.scale, args.col_scale, args.row_bias, args.col_bias, None, None, *args.blocks)
    return {place: x.shape for place, x, need in zip(GRADS, likes, needs, strict=False) if need}
