"""What pair_reduce returns, made of the outputs of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..monoid import NUMBERS
from .record import Arguments


class PairStats(NamedTuple):
    """Statistics of pair_reduce, float32 (float64 for float64 features); None where not asked for. Those of columns
    are (M,). Only the first eight have gradients."""

    rows: Tensor  # (N,) reduce over the kept columns of each row
    cols: Tensor | None  # (M,) reduce over the kept rows of each column
    row_positives: Tensor | None  # (N,) sum over the positive pairs of each row
    col_positives: Tensor | None
    # split=True
    row_negatives: Tensor | None = None  # (N,) log-sum-exp over the kept pairs that are not positive
    col_negatives: Tensor | None = None
    row_positives_lse: Tensor | None = None  # (N,) log-sum-exp over the kept positives
    col_positives_lse: Tensor | None = None
    row_negative_max: Tensor | None = None  # (N,) the largest z of row_negatives
    col_negative_max: Tensor | None = None
    # counts=True, int64
    row_kept: Tensor | None = None  # (N,) number of kept pairs
    col_kept: Tensor | None = None
    row_positive_count: Tensor | None = None  # (N,) number of positive pairs, kept or not
    col_positive_count: Tensor | None = None
    # reduce="max", int64
    row_argmax: Tensor | None = None  # (N,) index of the largest z, counted through all blocks and ranks; -1: none
    col_argmax: Tensor | None = None


def with_details(stats: PairStats, args: Arguments, cols: bool, details: Sequence[Tensor]) -> PairStats:
    """Adds what autograd.public_outputs has beyond the first four: with split, statistics of kept positives and largest
    negatives; integers."""
    split, integers = details[:-2], details[-2:]
    if split:
        row_lse, col_lse, row_max, col_max = split
        stats = stats._replace(
            rows=torch.logaddexp(stats.rows, row_lse), row_negatives=stats.rows, row_positives_lse=row_lse,
            row_negative_max=row_max,
        )  # fmt: skip
        if stats.cols is not None:
            if args.square:  # z is symmetric
                col_lse, col_max = row_lse.clone(), row_max.clone()
            stats = stats._replace(
                cols=torch.logaddexp(stats.cols, col_lse), col_negatives=stats.cols, col_positives_lse=col_lse,
                col_negative_max=col_max,
            )  # fmt: skip
    return with_integers(stats, args, cols, integers)


def with_integers(stats: PairStats, args: Arguments, cols: bool, integers: Sequence[Tensor]) -> PairStats:
    """Adds indices and counts, which are rows of the two tensors in the order of monoid.NUMBERS."""
    names = [name for name in args.spec.numbers if NUMBERS[name].integer]
    rows, columns = integers[0], integers[0] if args.square else integers[1]
    for side, values in [("row", rows), ("col", columns)] if cols else [("row", rows)]:
        numbers = dict(zip(names, values.unbind(0), strict=True))
        if args.counts:
            kept = numbers["kept"] + numbers["kept_positives"] if args.split else numbers["kept"]
            stats = stats._replace(**{f"{side}_kept": kept, f"{side}_positive_count": numbers["positives"]})
        if "arg" in numbers:
            stats = stats._replace(**{f"{side}_argmax": numbers["arg"]})
    return stats
