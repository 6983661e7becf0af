"""The engine for losses of one's own: pair_reduce, row_lse, pair_loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.base import SmallExtras
from ..literals import BackendName, Keep, Positives, ReduceName, ScoreName
from ..monoid import stat_dtype
from ..ranks import Group, collective
from ..spec import TRAITS
from . import across_ranks, autograd, check
from .arguments import Pairs, arguments
from .library import LossWeights
from .maximum import maximum
from .options import EngineOptions
from .record import Arguments, needs_of
from .results import PairStats, with_details, with_integers
from .rules import PerBlock
from .second import Targets

STATS_BUDGET = 16 << 20  # bytes of all scores up to which pair_reduce keeps them for backward, unless told otherwise
LOSS_BUDGET = 64 << 20  # bytes of scores pair_loss may hold while it runs


@dataclass(slots=True)  # not frozen, which would cost 2 us a call
class Weights:
    """Of the statistics in a sum: pair_loss has each field as an argument, `<field>_weight`."""

    row: float | Tensor = 1.0
    row_positive: float | Tensor = 0.0
    col: float | Tensor = 0.0
    col_positive: float | Tensor = 0.0
    row_target: float | Tensor = 0.0
    col_target: float | Tensor = 0.0
    # row and col weigh softplus(statistic - positive), with Pairs.split that of the others minus that of the positives
    cross_entropy: bool = False


@collective
def pair_reduce(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    scale: float | Tensor = 1.0,
    col_scale: Tensor | None = None,
    own_scales: bool = False,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    reduce: ReduceName = "lse",
    keep: Keep = "all",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    row_groups: Tensor | None = None,
    col_groups: PerBlock | None = None,
    row_labels: Tensor | None = None,
    col_labels: PerBlock | None = None,
    row_order: Tensor | None = None,
    col_order: Tensor | None = None,
    partner: Tensor | None = None,
    share: Tensor | None = None,
    row_low: Tensor | None = None,
    row_high: Tensor | None = None,
    col_low: Tensor | None = None,
    col_high: Tensor | None = None,
    mask: Tensor | None = None,
    positives: Positives | None = None,
    keep_positives: bool = False,
    cols: bool = False,
    score: ScoreName = "dot",
    offset: bool = True,
    split: bool = False,
    counts: bool = False,
    targets: Targets | None = None,
    gate: tuple[Tensor, Tensor | Sequence[Tensor]] | None = None,
    memory_budget: int | None = None,
    compute_dtype: torch.dtype | None = None,
    stat_dtype: torch.dtype | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> PairStats:
    """Reduces all pairs of rows and columns to one number per row (and per column) without holding the N x M scores.

        z_ij = scale_i * col_scale_j * <a_i, b_j> + row_bias_i + col_bias_j
        rows_i = reduce over the kept j of z_ij,      cols_j = reduce over the kept i of z_ij

    with reduce "lse" log sum e^z, "softplus" sum log(1 + e^z), "relu" sum max(z, 0), "max" max z. What is linear in the
    scores needs no pairs, except the sum over positives: it is computed in the same tiles, so that in bfloat16 it
    cancels against the statistic's gradient before rounding, not after.

    Args:
        a: Rows, (N, D), float32 | bfloat16 | float16 | float64.
        b: Columns, (M, D), or (T, M, D) for distances. Several tensors are column blocks joined in order (shared
            negatives, queues); a block without gradient costs none. None means a itself, where each unordered pair is
            computed once.
        scale: Multiplies the score: a float, a 0-dim tensor, or (N,) per row. Dimensionless.
        col_scale: (M,), per column.
        own_scales: True: scale applies to the statistics of rows only and col_scale to those of columns only, from one
            product, as for a temperature per row and per column:

                z_ij = scale_i * <a_i, b_j> + biases in rows,      z'_ij = col_scale_j * <a_i, b_j> + biases in cols

            col_low, col_high, col_positives, col_negatives, and col_targets then refer to z'. Needs col_scale and
            cols=True.
        row_bias, col_bias: (N,), (M,), added to z (nats for "lse"). With b=None too, row_bias belongs to rows only; the
            same tensor given as both keeps z symmetric, so that each pair is computed once.
        reduce: "lse" | "softplus" | "relu" | "max".
        keep: Which pairs enter the statistic: "all", a test, or a tuple of tests that must all hold:

                "same_index" | "other_index": whether i == j, counted through all blocks of b
                "same_id" | "other_id": whether row_ids[i] == col_ids[j]
                "same_group" | "other_group": the same for row_groups and col_groups, a second id
                "shared_label" | "no_shared_label": whether the label sets row_labels[i] and col_labels[j] overlap
                "lower_order": col_order[j] < row_order[i], strictly
                "partner" | "no_partner": whether j is one of partner[i]

        row_ids, col_ids, row_groups, col_groups: (N,), (M,) integers. Ids, groups, and labels of columns may be a list
            with an entry per block of b. None means that the block has none: no pair of it has the same id or group, or
            shares a label. For b=None give those of rows only.
        row_labels, col_labels: (N, L), (M, L) bool, label sets of any number of labels.
        row_order, col_order: (N,), (M,), floating point (compared in float64, without NaN) or both integers.
        partner: (N,) or (N, P) integers, the columns that belong to each row by index, counted through all blocks of b
            and all ranks; -1: none. A column that a row names twice is one pair.
        share: Like partner: the weight of a positive in row_positives and col_positives, as for mixtures. Shares of a
            column named twice add up. Default 1. For positives="partner". No gradient.
        row_low, row_high, col_low, col_high: (N,), (N,), (M,), (M,): a pair stays in the row's or column's statistic
            where low < z <= high; a NaN z stays. No gradient.
        mask: (N, M) bool, True = keep. The one input that holds N x M bytes.
        positives: Which pairs to sum into row_positives and col_positives, kept or not: None, tests as in keep, or
            "kept". The sum is of z ("softplus": of log(1 + e^-z)). "kept" means all pairs that keep and mask leave (low
            and high do not matter), for label smoothing. For b=None an item is its own candidate like any other pair
            (keep="other_index" drops it), but never its own positive by a test.
        keep_positives: True: positives stay in the statistic whatever keep, low, high, and mask say.
        cols: True: also reduce columns, in the same pass.
        score: "dot"; or a function f of the squared distance of row i from the flat of column j, which is the point
            b_0j plus the span of the orthonormal directions b_1j, b_2j, ...: "distance" sqrt q, "squared_distance" q,
            "log_distance" log q:

                z_ij = scale_i * col_scale_j * f(q_ij)
                q_ij = row_bias_i + col_bias_j - 2 <a_i, b_0j> - <a_i, b_1j>^2 - <a_i, b_2j>^2 - ...

            with the biases |a_i|^2 and |b_0j|^2; the point must be orthogonal to the directions. b (M, D) means points
            only. Where q is below 2^-20 of the biases (float64: 2^-46) it is only rounding: it is raised to that bound,
            with gradient 0. Costs T times as much as "dot". Not with reduce="max". "gated": <a_i, b_j> / sqrt(<g_i,
            h_j>) with g, h from gate, biases as for "dot": the cosine of keys that each row weights in its own way.
            Where <g_i, h_j> <= 1e-24 the score is 0, without gradient.
        offset: False: the flats pass through 0, and every tile of b is a direction.
        split: True: also separate statistics of kept positives and of the other kept pairs: row_negatives,
            row_positives_lse, and the largest negative, row_negative_max. `row_positives > row_negative_max` tells
            whether the row found its one positive. For reduce="lse" and positives given by tests.
            softplus(row_negatives - row_positives_lse), a softmax over sets, keeps its digits however small it is.
        counts: True: also count the kept and the positive pairs of every item.
        targets: Soft targets from a second product, see Targets: row_targets, the mean of an item's z under them, and
            facts about them, row_target_lse and row_target_entropy. For reduce="lse" and score="dot", not with split.
        gate: (rows, cols), (N, T) and (M, T) like b, for score="gated": squared gates and squared keys, for example.
        memory_budget: Bytes of scores to keep from forward to backward, in blocks of up to 32 MiB. What does not fit is
            computed again (8 instead of 6 N M D FLOP). Default: all scores if they take at most 16 MiB, else none. Not
            for "max"; the backend "triton" keeps none here.
        compute_dtype: The type that features are rounded to and multiplied in; default: their own. Gradients keep the
            features' type: float32 copies of bfloat16 values lose nothing in the product and get unrounded gradients.
        stat_dtype: torch.float64 returns the statistics unrounded: kernels hold a log-sum-exp as the sum of two
            float32, and one float32 has three digits after the point at z = -1e4. Default float32 (float64 for float64
            features). Not for "max".
        backend: "auto" | "cpu" | "torch" | "triton" | "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: a, b, and all vectors are this
            rank's share of the global rows and columns, in rank order. Every row meets the columns of all ranks,
            indices count through all ranks, and you get the statistics of this rank's rows and columns. Every rank must
            make the same calls, with as many rows as it has, even none. Gradients are those of the sum of all ranks'
            losses, so each rank's backward must run. mask has the columns of all ranks, (own rows, all columns). "max"
            gathers the features of all ranks.

    Returns: PairStats. A row that keeps nothing gives -inf ("lse", "max") or 0. reduce="max" also gives row_argmax, the
    first of equal maxima, or the first NaN.

    Gradients: a, b, scale, col_scale, row_bias, col_bias; once, and once more for score="dot" with reduce="lse" |
    "softplus" without targets, in one process. Otherwise double backward raises ("max" is plain torch).
    Cost: forward 2, backward 6 N M D FLOP; O((N + M) D) memory. b=None: half of both.

    Example:
        >>> a, b = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> stats = pair_reduce(a, b, scale=10.0, positives="same_index")
        >>> loss = (stats.rows - stats.row_positives).mean()  # InfoNCE
        >>> loss.backward()
    """
    pairs = Pairs(
        a, b, scale, col_scale, row_bias, col_bias, reduce, keep, row_ids, col_ids, row_groups, col_groups, row_labels,
        col_labels, row_order, col_order, partner, share, row_low, row_high, col_low, col_high, mask, positives,
        keep_positives, cols, score, offset, split, counts, targets, gate, own_scales,
    )  # fmt: skip
    engine = EngineOptions.of(memory_budget, backend, group, compute_dtype)
    engine.exact_stats = check.statistics_in_float64(stat_dtype)
    return pair_stats(pairs, engine)


def pair_stats(pairs: Pairs, engine: EngineOptions) -> PairStats:
    """pair_reduce for those who have checked their options."""
    args, budget, ranks = arguments(pairs, engine), engine.memory_budget, engine.ranks
    if TRAITS[args.reduce].arg:
        return _maximum(pairs, args, engine)
    needs = needs_of(args)
    if ranks is not None:
        found = across_ranks.stats(ranks, args, needs, engine.exact_stats)
    else:
        budget = _default_budget(args) if budget is None else budget
        found = autograd.stats(args, budget if any(needs) else 0, engine.exact_stats)
    rows, columns, row_positive, col_positive, *rest = found
    some, cols = pairs.positives is not None, pairs.cols
    if cols and args.square:  # z is symmetric: the column statistics are the row statistics
        columns, col_positive = rows.clone(), row_positive.clone()
    stats = PairStats(
        rows, columns if cols else None, row_positive if some else None, col_positive if some and cols else None
    )
    return with_details(stats, args, pairs, rest) if rest else stats


def _maximum(pairs: Pairs, args: Arguments, engine: EngineOptions) -> PairStats:
    if pairs.positives is not None:
        raise ValueError("positives must be None with reduce='max'; for pairs by index use (a * b).sum(1)")
    if engine.memory_budget:
        raise ValueError("memory_budget must be None with reduce='max': its backward needs no scores")
    if engine.exact_stats:
        raise ValueError("stat_dtype must be None with reduce='max': a maximum is one number")
    rows, columns, *integers = maximum(args, engine.ranks)
    if pairs.cols and args.square:
        columns = rows
    return with_integers(PairStats(rows, columns if pairs.cols else None, None, None), args, pairs.cols, integers)


@collective
def row_lse(
    a: Tensor, b: Tensor | Sequence[Tensor] | None = None, *, scale: float | Tensor = 1.0, **options: Any
) -> Tensor:
    """log sum_j e^z_ij over the kept columns of every row, (N,): the rows of pair_reduce with reduce="lse".

    Args:
        a: Rows, (N, D).
        b: Columns, (M, D), several blocks, or None for a itself.
        scale: Multiplies the score: a float, a 0-dim tensor, or (N,) per row.
        options: Other keyword arguments of pair_reduce, except reduce.

    Example:
        >>> a, b = torch.randn(4, 16), torch.randn(9, 16)
        >>> torch.allclose(row_lse(a, b), (a @ b.T).logsumexp(1), atol=1e-5)
        True
    """
    for name in options:
        if name not in ROW_OPTIONS:
            raise TypeError(f"row_lse() got an unexpected keyword argument {name!r}")
    return pair_reduce(a, b, scale=scale, **options).rows


ROW_OPTIONS = frozenset(signature(pair_reduce).parameters) - {
    "a",
    "b",
    "reduce",
    "cols",
    "own_scales",
    "col_low",
    "col_high",
    "split",
    "counts",
    "targets",
}


@collective
def pair_loss(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    row_weight: float | Tensor = 1.0,
    row_positive_weight: float | Tensor = 0.0,
    col_weight: float | Tensor = 0.0,
    col_positive_weight: float | Tensor = 0.0,
    row_target_weight: float | Tensor = 0.0,
    col_target_weight: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
    col_scale: Tensor | None = None,
    own_scales: bool = False,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    reduce: ReduceName = "lse",
    keep: Keep = "all",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    row_groups: Tensor | None = None,
    col_groups: PerBlock | None = None,
    row_labels: Tensor | None = None,
    col_labels: PerBlock | None = None,
    row_order: Tensor | None = None,
    col_order: Tensor | None = None,
    partner: Tensor | None = None,
    share: Tensor | None = None,
    row_low: Tensor | None = None,
    row_high: Tensor | None = None,
    col_low: Tensor | None = None,
    col_high: Tensor | None = None,
    mask: Tensor | None = None,
    positives: Positives | None = None,
    keep_positives: bool = False,
    cross_entropy: bool = False,
    cols: bool = False,
    score: ScoreName = "dot",
    offset: bool = True,
    targets: Targets | None = None,
    gate: tuple[Tensor, Tensor | Sequence[Tensor]] | None = None,
    memory_budget: int | None = None,
    compute_dtype: torch.dtype | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """A weighted sum of the statistics of pair_reduce, with gradients formed in the forward sweep.

        L = sum_i row_weight_i rows_i + row_positive_weight_i row_positives_i + row_target_weight_i row_targets_i
            + the same over columns

    With cross_entropy=True, of the statistics that keep leaves and of positives that it drops,

        L = sum_i row_weight_i softplus(rows_i - row_positives_i) + row_positive_weight_i row_positives_i + columns

    which is the softmax cross-entropy of items with one positive each, -log of the positive's share. In this form a
    converged model keeps its digits: at a loss of 1e-16 the difference of two float32 log-sum-exps has none left.

    The weights must be known beforehand (numbers or tensors without gradient, such as 1/N). That lets the scores of a
    chunk serve loss and gradients at once, 6 N M D FLOP instead of 8. A row that keeps nothing, or only pairs at z =
    -inf, contributes 0. With cols=True the columns are complete only after the last row: scores are kept while they fit
    memory_budget and computed again beyond it.

    Args:
        row_weight, row_positive_weight, row_target_weight: (N,) or a float. No gradient.
        col_weight, col_positive_weight, col_target_weight: (M,) or a float, with cols=True. No gradient.
        reduce: "lse" | "softplus" | "relu".
        cross_entropy: True: the second formula above, for rows with one positive each, which keep leaves out.
        cols: True: also the sum over columns, in the same pass.
        a: Rows, (N, D), float32 | bfloat16 | float16 | float64.
        b: Columns, (M, D), or (T, M, D) for distances. Several tensors are column blocks joined in order (shared
            negatives, queues); a block without gradient costs none. None means a itself, where each unordered pair is
            computed once.
        scale: Multiplies the score: a float, a 0-dim tensor, or (N,) per row. Dimensionless.
        col_scale: (M,), per column.
        own_scales: True: scale applies to the statistics of rows only and col_scale to those of columns only, from one
            product, as for a temperature per row and per column:

                z_ij = scale_i * <a_i, b_j> + biases in rows,      z'_ij = col_scale_j * <a_i, b_j> + biases in cols

            col_low, col_high, col_positives, col_negatives, and col_targets then refer to z'. Needs col_scale and
            cols=True.
        row_bias, col_bias: (N,), (M,), added to z (nats for "lse"). With b=None too, row_bias belongs to rows only; the
            same tensor given as both keeps z symmetric, so that each pair is computed once.
        keep: Which pairs enter the statistic: "all", a test, or a tuple of tests that must all hold:

                "same_index" | "other_index": whether i == j, counted through all blocks of b
                "same_id" | "other_id": whether row_ids[i] == col_ids[j]
                "same_group" | "other_group": the same for row_groups and col_groups, a second id
                "shared_label" | "no_shared_label": whether the label sets row_labels[i] and col_labels[j] overlap
                "lower_order": col_order[j] < row_order[i], strictly
                "partner" | "no_partner": whether j is one of partner[i]

        row_ids, col_ids, row_groups, col_groups: (N,), (M,) integers. Ids, groups, and labels of columns may be a list
            with an entry per block of b. None means that the block has none: no pair of it has the same id or group, or
            shares a label. For b=None give those of rows only.
        row_labels, col_labels: (N, L), (M, L) bool, label sets of any number of labels.
        row_order, col_order: (N,), (M,), floating point (compared in float64, without NaN) or both integers.
        partner: (N,) or (N, P) integers, the columns that belong to each row by index, counted through all blocks of b
            and all ranks; -1: none. A column that a row names twice is one pair.
        share: Like partner: the weight of a positive in row_positives and col_positives, as for mixtures. Shares of a
            column named twice add up. Default 1. For positives="partner". No gradient.
        row_low, row_high, col_low, col_high: (N,), (N,), (M,), (M,): a pair stays in the row's or column's statistic
            where low < z <= high; a NaN z stays. No gradient.
        mask: (N, M) bool, True = keep. The one input that holds N x M bytes.
        positives: Which pairs to sum into row_positives and col_positives, kept or not: None, tests as in keep, or
            "kept". The sum is of z ("softplus": of log(1 + e^-z)). "kept" means all pairs that keep and mask leave (low
            and high do not matter), for label smoothing. For b=None an item is its own candidate like any other pair
            (keep="other_index" drops it), but never its own positive by a test.
        keep_positives: True: positives stay in the statistic whatever keep, low, high, and mask say.
        score: "dot"; or a function f of the squared distance of row i from the flat of column j, which is the point
            b_0j plus the span of the orthonormal directions b_1j, b_2j, ...: "distance" sqrt q, "squared_distance" q,
            "log_distance" log q:

                z_ij = scale_i * col_scale_j * f(q_ij)
                q_ij = row_bias_i + col_bias_j - 2 <a_i, b_0j> - <a_i, b_1j>^2 - <a_i, b_2j>^2 - ...

            with the biases |a_i|^2 and |b_0j|^2; the point must be orthogonal to the directions. b (M, D) means points
            only. Where q is below 2^-20 of the biases (float64: 2^-46) it is only rounding: it is raised to that bound,
            with gradient 0. Costs T times as much as "dot". Not with reduce="max". "gated": <a_i, b_j> / sqrt(<g_i,
            h_j>) with g, h from gate, biases as for "dot": the cosine of keys that each row weights in its own way.
            Where <g_i, h_j> <= 1e-24 the score is 0, without gradient.
        offset: False: the flats pass through 0, and every tile of b is a direction.
        targets: Soft targets from a second product, see Targets: row_targets, the mean of an item's z under them, and
            facts about them, row_target_lse and row_target_entropy. For reduce="lse" and score="dot", not with split.
        gate: (rows, cols), (N, T) and (M, T) like b, for score="gated": squared gates and squared keys, for example.
        compute_dtype: The type that features are rounded to and multiplied in; default: their own. Gradients keep the
            features' type: float32 copies of bfloat16 values lose nothing in the product and get unrounded gradients.
        backend: "auto" | "cpu" | "torch" | "triton" | "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        memory_budget: Bytes of scores to keep while the call runs, with cols=True. Default 64 MiB, released before the
            call returns; 0: keep none.
        group: None: this process only. "world", a process group, or distributed.Ranks: a, b, and all vectors are this
            rank's share of the global rows and columns, in rank order. L is this rank's share: the shares of all ranks
            add up to the global sum, and gradients are those of the global sum. Every rank must make the same calls.
            mask has the columns of all ranks, (own rows, all columns).

    Returns: 0-dim float32 (float64 for float64 features).
    Cost: 6 N M D FLOP forward and backward; 8 with cols=True beyond memory_budget.

    Example:
        >>> a, b = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> weights = {"row_weight": 1 / 8, "row_positive_weight": -1 / 8}
        >>> loss = pair_loss(a, b, scale=10.0, positives="same_index", **weights)  # InfoNCE
        >>> loss.backward()
    """
    pairs = Pairs(
        a, b, scale, col_scale, row_bias, col_bias, reduce, keep, row_ids, col_ids, row_groups, col_groups, row_labels,
        col_labels, row_order, col_order, partner, share, row_low, row_high, col_low, col_high, mask, positives,
        keep_positives, cols, score, offset, targets=targets, gate=gate, own_scales=own_scales,
    )  # fmt: skip
    weights = Weights(
        row_weight, row_positive_weight, col_weight, col_positive_weight, row_target_weight, col_target_weight,
        cross_entropy,
    )  # fmt: skip
    return weighted_sum(pairs, weights, EngineOptions.of(memory_budget, backend, group, compute_dtype))


def weighted_sum(pairs: Pairs, weights: Weights, engine: EngineOptions, report: bool = False) -> Tensor:
    """pair_loss for those who have checked their options. report: for reported_sum."""
    args, given = weighted(pairs, weights, engine)
    args.report = report
    budget, needs = LOSS_BUDGET if engine.memory_budget is None else engine.memory_budget, needs_of(args)
    if engine.ranks is None:
        return autograd.loss(args, given, budget, needs)  # type: ignore[no-any-return]
    return across_ranks.loss(engine.ranks, args, given, budget, needs)  # type: ignore[no-any-return]


def reported_sum(pairs: Pairs, weights: Weights, engine: EngineOptions) -> tuple[Tensor, ...]:
    """weighted_sum, and of rows and, with pairs.cols, of columns what it computes anyway, without gradient, (N, 3): the
    largest z, the log-sum-exp, the sum over positives."""
    return cast(tuple[Tensor, ...], weighted_sum(pairs, weights, engine, report=True))


def small_sum(
    pairs: Pairs, weights: Weights, engine: EngineOptions, *, private: Tensor | None = None, sets: int = 1
) -> Tensor | None:
    """weighted_sum, of plain tensors, of what a backend does at once in small calls only; None: this is none.

    private: further columns of each row alone, (N, K, D) of the type of the others, in the rows' statistics of a cross
    entropy. sets: rows i, i + N / sets, .. are one item, whose loss is softplus(log-sum-exp of all their others - that
    of all their positives), for pairs.split; weights have its number for each of these rows.
    """
    if engine.ranks is not None:
        return None
    args, given = weighted(pairs, weights, engine)
    return autograd.small_loss(args, given, needs_of(args), SmallExtras(private, sets))


def weighted(pairs: Pairs, weights: Weights, engine: EngineOptions) -> tuple[Arguments, LossWeights]:
    """Both checked."""
    _refuse_idle_weights(pairs, weights)
    if pairs.targets is not None:
        weights = _with_shares(pairs, weights, pairs.targets.share)
    some = not _is_zero(weights.row_positive) or not _is_zero(weights.col_positive)  # of positives on their own
    args = arguments(pairs, engine, weights.cross_entropy, some)
    if TRAITS[args.reduce].arg:
        raise ValueError("reduce='max' has no scalar mode; use pair_reduce")
    row = _weight("row_weight", weights.row, args, False)
    col = _weight("col_weight", weights.col, args, True) if pairs.cols else None
    row_positive = col_positive = None
    if pairs.positives is not None and (some or not weights.cross_entropy):
        row_positive = _weight("row_positive_weight", weights.row_positive, args, False)
        col_positive = _weight("col_positive_weight", weights.col_positive, args, True) if pairs.cols else None
    row_mean = _weight("row_target_weight", weights.row_target, args, False) if args.target else None
    col_mean = _weight("col_target_weight", weights.col_target, args, True) if args.target and pairs.cols else None
    if args.square and col is not None:  # z is symmetric: column weights act on the same statistics
        row, col = row + col, None
        if row_positive is not None and col_positive is not None:
            row_positive, col_positive = row_positive + col_positive, None
    return args, (row, row_positive, col, col_positive, row_mean, col_mean)


def _with_shares(pairs: Pairs, weights: Weights, share: float | Tensor) -> Weights:
    """The weights of a mixture of targets and positives as those of its parts."""
    if _is_zero(1.0 - share):
        return weights
    new = replace(weights)
    for side in ("row", "col"):
        whole, positive = getattr(weights, f"{side}_target"), getattr(weights, f"{side}_positive")
        setattr(new, f"{side}_target", whole * share)
        setattr(new, f"{side}_positive", positive + whole * (1.0 - share))
    return new


def _refuse_idle_weights(pairs: Pairs, weights: Weights) -> None:
    """A weight of something that is not computed is a mistake of the caller's."""
    positives, cols, targets = pairs.positives is not None, pairs.cols, pairs.targets is not None
    if positives and cols and targets:
        return
    for name, weight, useful, need in (
        ("row_positive_weight", weights.row_positive, positives, "positives"),
        ("col_weight", weights.col, cols, "cols=True"),
        ("col_positive_weight", weights.col_positive, cols and positives, "cols=True and positives"),
        ("row_target_weight", weights.row_target, targets, "targets"),
        ("col_target_weight", weights.col_target, cols and targets, "cols=True and targets"),
    ):
        if not useful and not _is_zero(weight):
            raise ValueError(f"{name} must not be given without {need}: it would have no effect")


def _is_zero(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 0.0


def _weight(name: str, x: float | Tensor, args: Arguments, columns: bool) -> float | Tensor:
    """A number that is the weight of every item stays one."""
    if not isinstance(x, Tensor):
        return check.scalar(name, x)
    if x.requires_grad:
        raise ValueError(f"{name} must not require grad: pair_loss forms gradients before it is differentiated")
    size = args.m if columns else args.n
    return check.vector(name, x, size, args.a.device).to(stat_dtype(args.a.dtype)).contiguous()


def _default_budget(args: Arguments) -> int:
    """All of a small problem's scores, or none: a part of a large one's would not be worth its memory. In a graph,
    which may serve batches of any size, as much as a small problem takes: a comparison would bind it to sizes."""
    if not check.plain(args.a):
        return STATS_BUDGET
    columns = sum(x.shape[:-1].numel() for x in (*args.blocks, *args.second_blocks)) if args.blocks else args.n
    size = stat_dtype(args.a.dtype).itemsize * args.n * columns
    return STATS_BUDGET if size <= STATS_BUDGET else 0


def default_budget() -> int:
    """Bytes of a small problem's scores, which may stay for the backward pass."""
    return STATS_BUDGET
