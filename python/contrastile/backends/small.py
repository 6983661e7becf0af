"""What small calls have in common on every backend: tensors of the record as kernels take them, gradients as autograd
does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..spec import READERS
from .base import WEIGHTS, SmallExtras, SmallWeights, block_names, named

Way = Callable[[Tensor], Tensor]
NUMBERS = ("row_bias", "row_low", "row_high", "col_bias", "col_low", "col_high", "col_scale", "share")
OPTIONAL = (*NUMBERS, *(f"{side}_{name}" for side in ("row", "col") for name in READERS), "partner", "mask")
optional = attrgetter(*OPTIONAL)
NO_WEIGHTS: SmallWeights = (None, None, None, None)
NO_EXTRAS = SmallExtras()


def features(x: Tensor, compute: torch.dtype, kind: torch.dtype) -> Tensor:
    """Rounded to the type asked for, in the type, as wide or wider, that is multiplied."""
    if x.dtype != compute or compute != kind:
        x = x.to(compute).to(kind)
    return x.contiguous()


def numbers(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.float32 else x.to(torch.float32)).contiguous()


def bytes_of(mask: Tensor) -> Tensor:
    return mask.contiguous().view(torch.uint8)


def given_names(args: Any, weights: SmallWeights = NO_WEIGHTS, extras: SmallExtras = NO_EXTRAS) -> tuple[str, ...]:
    """SmallLoss.names of the tensors that the call has."""
    found = ["a", *block_names(args), "scale"]
    found += [name for name, x in zip(OPTIONAL, optional(args), strict=True) if x is not None]
    found += ["private"] if extras.private is not None else []
    return (*found, *(name for name, x in zip(WEIGHTS, weights, strict=True) if isinstance(x, Tensor)))


def taken(
    args: Any, kind: torch.dtype, names: Sequence[str], weights: SmallWeights = NO_WEIGHTS,
    extras: SmallExtras = NO_EXTRAS,
) -> tuple[list[Tensor], list[Way | None]]:  # fmt: skip
    """These tensors as kernels take them, and what makes each of them so; None: it is. kind: the type features are
    multiplied in."""
    found: dict[str, Way] = {name: numbers for name in (*NUMBERS, *WEIGHTS, "scale")} | {"mask": bytes_of}
    found |= dict.fromkeys(("a", *block_names(args), "private"), partial(features, compute=args.compute, kind=kind))
    given = [named(args, weights, extras, name) for name in names]
    made = [found[name](x) if name in found else x for name, x in zip(names, given, strict=True)]
    every = zip(names, given, made, strict=True)
    return made, [None if x is y else found[name] for name, x, y in every]


def gradients_in_order(
    rows: Tensor | None, sums: Sequence[Tensor | None], cols: Tensor | None, square: bool, factor: Tensor | None
) -> list[Tensor]:
    """Those that are there, in the order of record.inputs. sums: of the rows' scale, the columns', the rows' bias, the
    columns', which in a square call is the rows'; there cols is rows. factor: what features' gradients are too large
    by."""
    row_scale, col_scale, row_bias, col_bias = sums
    if square:
        cols = None
        if row_bias is not None and col_bias is not None:
            row_bias, col_bias = row_bias + col_bias, None
    if factor is not None:
        for grad in (rows, cols):
            if grad is not None:
                grad.div_(factor)
    return [x for x in (rows, row_scale, col_scale, row_bias, col_bias, cols) if x is not None]
