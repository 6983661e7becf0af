"""A small problem at once, from the record of its arguments straight to the launches: on small batches what the host
does is what a loss costs. What calls of one kind have in common is worked out once and kept, as a Plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..spec import READERS
from .base import SmallWeights
from .small import features, numbers
from .triton_device import on_device, precision
from .triton_launch import tuples
from .triton_plan import Given, Plan

optional = attrgetter(
    *(f"{side}_{name}" for side in ("row", "col") for name in ("bias", "low", "high", *READERS)), "col_scale", "partner"
)
KINDS = 256  # plans that are kept


def small_loss(
    args: Any, kind: torch.dtype, weights: SmallWeights, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """kind: the type features are multiplied in."""
    given = given_of(args, kind, weights)
    a, b, labels = given.a, given.b, args.row_labels
    facts = (
        args.reduce, args.keep, args.positives, args.keep_positives, args.cols, args.square, args.score, args.offset,
        args.split, args.cross_entropy, args.own_scales, args.scale.dim(), a.shape, b.shape,
        labels is None or labels.shape[1], a.dtype, a.device, precision(a), *needs,
    )  # fmt: skip
    # what a compiled kernel takes for granted of an argument: that it is absent, the value of an integer, that it is
    # one number for all, or where in 16 bytes it begins
    alike = tuple([
        x if x is None or isinstance(x, int) else x.data_ptr() % 16 if isinstance(x, Tensor) else -1.0
        for x in (a, b, *given.row, *given.col, given.mask, *given.weights)
    ])  # fmt: skip
    with on_device(a.device):
        found = plans(facts, alike)
        if not found:
            found.append(Plan(given, args, needs))
        return found[0].run(given)


@lru_cache(KINDS)
def plans(*kind: Any) -> list[Plan]:
    """The plan of a kind of call, once it is made."""
    return []


def given_of(args: Any, kind: torch.dtype, weights: SmallWeights) -> Given:
    operands = tuples().operands
    a, mask, scale = features(args.a, args.compute, kind), args.mask, numbers(args.scale)
    b = a if args.square else features(args.blocks[0], args.compute, kind)
    row = operands(scale, one_scale=None if scale.dim() else 1)
    col = operands()
    if [x for x in optional(args) if x is not None]:  # most calls have none
        row = row._replace(**rows(args))
        # in a square call the rows' scale already multiplies the score; as columns they bring the rest
        col = row._replace(scale=None, one_scale=None) if args.square else operands(**columns(args))
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    given = [numbers(x) if isinstance(x, Tensor) else x if x is None else float(x) for x in weights]
    return Given(a, b, row, col, mask, given)


def rows(args: Any) -> dict[str, Any]:
    found = {name: getattr(args, f"row_{name}") for name in READERS}
    found |= {name: number(getattr(args, f"row_{name}")) for name in ("bias", "low", "high")}
    if args.partner is not None:
        found |= {"partner": args.partner, "partners": args.partner.shape[1], "share": number(args.share)}
    return found


def columns(args: Any) -> dict[str, Any]:
    """What is not given is the rows' own, or absent."""
    found = {name: number(getattr(args, f"col_{name}")) for name in ("scale", "bias", "low", "high")}
    for name in READERS:
        own = getattr(args, f"col_{name}")
        found[name] = getattr(args, f"row_{name}") if own is None else own
    return found | {name: None for name in ("ids", "groups", "labels") if getattr(args, f"without_{name}")}


def number(x: Tensor | None) -> Tensor | None:
    return None if x is None else numbers(x)
