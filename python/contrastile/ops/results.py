"""What pair_reduce returns, made of the outputs of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..monoid import NUMBERS, log_add
from .arguments import Pairs
from .record import Arguments
from .second import Targets


class PairStats(NamedTuple):
    """Statistics of pair_reduce, float32 (float64 for float64 features); None where you did not ask for them.

    Those of columns are (M,). The first eight and those of targets have gradients.

    Args:
        rows, cols: (N,), (M,): the reduction over the kept pairs.
        row_positives, col_positives: The sum over positive pairs, with positives=.
        row_negatives, col_negatives: With split=True, the log-sum-exp over the kept pairs that are not positive.
        row_positives_lse, col_positives_lse: With split=True, the log-sum-exp over the kept positives.
        row_negative_max, col_negative_max: With split=True, the largest z of the negatives.
        row_targets, col_targets: With targets=, the mean of z under the target.
        row_target_lse, col_target_lse: Of the second product alone, without the share of positives: the log-sum-exp of
            t ("softmax"), or the sum of the weights ("affine").
        row_target_entropy, col_target_entropy: The entropy of the softmax of t; None for affine weights.
        row_target_loss, col_target_loss: rows - row_targets, the cross-entropy with the target, which keeps its digits.
        row_kept, col_kept: With counts=True, the number of kept pairs.
        row_positive_count, col_positive_count: With counts=True, the number of positive pairs, kept or not.
        row_argmax, col_argmax: With reduce="max", the index of the maximum, counted through all blocks and ranks; -1:
            none.

    Example:
        >>> stats = pair_reduce(torch.randn(4, 8), torch.randn(6, 8), cols=True)
        >>> stats.rows.shape, stats.cols.shape
        (torch.Size([4]), torch.Size([6]))
    """

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
    # targets
    row_targets: Tensor | None = None  # (N,) mean of z under the target
    col_targets: Tensor | None = None
    # (N,) of the second product alone, without the share of positives: log-sum-exp of t, or sum of affine weights
    row_target_lse: Tensor | None = None
    col_target_lse: Tensor | None = None
    row_target_entropy: Tensor | None = None  # (N,) entropy of the softmax of t; None of affine weights
    col_target_entropy: Tensor | None = None
    row_target_loss: Tensor | None = (
        None  # (N,) rows - the mean of z, their cross entropy: however small, it has digits
    )
    col_target_loss: Tensor | None = None
    # counts=True, int64
    row_kept: Tensor | None = None  # (N,) number of kept pairs
    col_kept: Tensor | None = None
    row_positive_count: Tensor | None = None  # (N,) number of positive pairs, kept or not
    col_positive_count: Tensor | None = None
    # reduce="max", int64
    row_argmax: Tensor | None = None  # (N,) index of the largest z, counted through all blocks and ranks; -1: none
    col_argmax: Tensor | None = None


def with_details(stats: PairStats, args: Arguments, pairs: Pairs, details: Sequence[Tensor]) -> PairStats:
    """Adds what autograd.public_outputs has beyond the first four: with split, statistics of kept positives and largest
    negatives; what targets give; integers."""
    cols = pairs.cols
    counted = args.split or args.counts
    details, integers = (details[:-2], details[-2:]) if counted else (details, ())
    if pairs.targets is not None:
        stats = with_targets(stats, pairs.targets, details)
    elif details:
        row_lse, col_lse, row_max, col_max = details
        stats = stats._replace(
            rows=log_add(stats.rows, row_lse), row_negatives=stats.rows, row_positives_lse=row_lse,
            row_negative_max=row_max,
        )  # fmt: skip
        if stats.cols is not None:
            if args.square:  # z is symmetric
                col_lse, col_max = row_lse.clone(), row_max.clone()
            stats = stats._replace(
                cols=log_add(stats.cols, col_lse), col_negatives=stats.cols, col_positives_lse=col_lse,
                col_negative_max=col_max,
            )  # fmt: skip
    return with_integers(stats, args, cols, integers) if integers else stats


def with_targets(stats: PairStats, targets: Targets, details: Sequence[Tensor]) -> PairStats:
    """details: of rows and columns in turn, monoid.TargetStats.outputs and which items have weights."""
    for side, positives in (("row", stats.row_positives), ("col", stats.col_positives)):
        if side == "col" and stats.cols is None:
            continue
        mean, entropy, total, loss, given = details[side == "col" :: 2]
        affine = targets.map == "affine"
        if affine:
            assert positives is not None
            own = stats.rows if side == "row" or stats.cols is None else stats.cols
            mean, loss = torch.where(given, mean, positives), torch.where(given, loss, own - positives)
        share = targets.share
        if positives is not None and (isinstance(share, Tensor) or share != 1.0):
            mean = share * mean + (1.0 - share) * positives
        found: dict[str, Any] = {"targets": mean, "target_lse": total, "target_loss": loss}
        found["target_entropy"] = None if affine else entropy
        stats = stats._replace(**{f"{side}_{name}": x for name, x in found.items()})
    return stats


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
