"""What small calls have in common on every backend: tensors of the record as kernels take them, gradients as autograd
does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def features(x: Tensor, compute: torch.dtype, kind: torch.dtype) -> Tensor:
    """Rounded to the type asked for, in the type, as wide or wider, that is multiplied."""
    if x.dtype != compute or compute != kind:
        x = x.to(compute).to(kind)
    return x.contiguous()


def numbers(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.float32 else x.to(torch.float32)).contiguous()


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
