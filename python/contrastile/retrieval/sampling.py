"""Negatives drawn from the softmax of scores, without the N x M matrix."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..literals import Keep
from ..losses.common import inverse
from ..ops import EngineOptions, Pairs, Stream, check, hardest_limit, pair_stats
from ..ops.arguments import arguments
from ..ops.rules import PerBlock
from ..ranks import GlobalBatch, Group, collective
from .candidates import Candidates, Gallery, RetrievalScore, count
from .drawing import Drawing, Weigh


@collective
def sample_negatives(
    query: Tensor,
    key: Gallery,
    k: int = 1,
    *,
    temperature: float | Tensor = 1.0,
    replacement: bool = False,
    floor: float = 0.0,
    generator: torch.Generator | None = None,
    score: RetrievalScore = "dot",
    keep: Keep = "other_index",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    row_groups: Tensor | None = None,
    col_groups: PerBlock | None = None,
    row_labels: Tensor | None = None,
    col_labels: PerBlock | None = None,
    partner: Tensor | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    col_bias: Tensor | None = None,
    mask: Tensor | None = None,
    group: Group = None,
) -> Tensor:
    """k columns of every row, drawn from the softmax of its scores: hard negatives for a matching head.

        P(i draws j) ~ e^z_ij + floor sum_m e^z_im,   z_ij = s_ij / temperature + col_bias_j,   j kept, m any column

    Each row and draw has one number u, uniform in [0, 1), drawn before any score is looked at, and takes the first
    column whose cumulative probability exceeds it. So the draws depend on the generator alone: not on how the work is
    split, on the device, or on the number of ranks, except where rounding moves a boundary across u.

    Args:
        query: (N, D).
        key: (M, D); several tensors are blocks joined in order; None: the queries among themselves. With another score,
            the tensors (M, D) whose matched rows are the tuples.
        k: >= 1 draws per row.
        temperature: > 0, a number, a 0-dim tensor, or (N,). No gradient.
        replacement: False: k different columns, as if each draw left out what was drawn before.
        floor: >= 0, added to every candidate's probability in the softmax over all columns, dropped ones included, as
            official code does: 1e-4 in GRAM and TRIANGLE, 1e-5 in 1-to-K. ALBEF's 1e-4 on the scores themselves has no
            effect: floor=0.
        generator: On any device; None: torch's own on the CPU. With group the first rank's decides; all ranks draw.
        score: "dot"; "volume" for GRAM, "squared_area" for TRIANGLE, with a tuple as key.
        keep: Which pairs are candidates: a test or a tuple of tests, as in pair_reduce. By default the row's own index
            is its positive. Use "other_id" where several columns may be.
        row_ids, col_ids: (N,), (M,) integers, for "same_id" and "other_id".
        row_groups, col_groups: (N,), (M,) integers, for "same_group" and "other_group".
        row_labels, col_labels: (N, L), (M, L) bool, for "shared_label" and "no_shared_label".
        partner: (N,) or (N, P) integers, columns by index, for "partner" and "no_partner"; -1: none.
        low, high: Candidates have low < temperature z <= high.
        col_bias: (M,), added to the logits: minus the log of a propensity weights columns by its inverse.
        mask: (N, M) bool, True = may be drawn.
        group: None: this process only. "world", a process group, or distributed.Ranks: query and gallery are this
            rank's share; candidates come from all ranks, and indices count through all ranks.

    Returns: (N, k) int64, in the order they were drawn; -1 where no candidate is left, and for rows with a score that
    is NaN or inf.

    Cost: 4 N M D FLOP (6 with a floor), O(N (k + M / 16384) + (N + M) D) memory. Without replacement, as much again if
    draws hit columns that a row already has so often that it is short of k, and half as much if it still is: the order
    of log probabilities plus Gumbel numbers, hashed from a seed of the row and the column's index, is then that of all
    draws that are left.

    Example:
        >>> query = torch.eye(4)
        >>> drawn = sample_negatives(query, query, 2, generator=torch.Generator().manual_seed(0))
        >>> drawn.shape, bool((drawn == torch.arange(4)[:, None]).any())
        (torch.Size([4, 2]), False)

    Source: Li et al. 2021 (ALBEF), https://arxiv.org/abs/2107.07651, section 3.2, and official code
    models/model_pretrain.py; official code of GRAM, https://arxiv.org/abs/2412.11959, and TRIANGLE,
    https://arxiv.org/abs/2509.24734.
    """
    check.features("query", query)
    least = check.scalar("floor", floor)
    if isinstance(least, Tensor) or least < 0.0:
        raise ValueError(f"floor must be a number >= 0, got {floor}")
    scale = inverse(above_zero(temperature, query), query, query.shape[0])
    wanted = Candidates(
        query, key, score, keep, row_ids, col_ids, row_groups, col_groups, row_labels, col_labels, partner, low, high,
        col_bias, mask, group, None, scale.detach() if isinstance(scale, Tensor) else scale,
    )  # fmt: skip
    with torch.no_grad():
        pairs, engine = wanted.pairs()
        weigh = Weigh() if least == 0.0 else Weigh(least, lse_of_all(pairs, engine))
        return drawn(pairs, engine, weigh, k, replacement, generator)


@collective
def semi_hard_negatives(
    query: Tensor,
    bank: Tensor,
    k: int,
    *,
    pool: int,
    replacement: bool = False,
    generator: torch.Generator | None = None,
    keep: Keep = "all",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    group: Group = None,
) -> Tensor:
    """k columns of every row, drawn with equal probability from the `pool` columns with the largest scores.

    Columns that keep leaves out are not drawn. These are InterCLR's negatives for margin_info_nce, where
    keep="other_id" compares pseudo-labels.

    Args:
        query: (N, D).
        bank: (M, D).
        k: >= 1 draws per row.
        pool: >= 1; columns that tie with its last one belong to it. Hard negatives are topk(..., keep="other_id"), and
            the pool of -query is the easiest.
        replacement: False: k different columns.
        generator: On any device; None: torch's own on the CPU. With group the first rank's decides.
        keep: Which pairs are candidates: a test or a tuple of tests, as in pair_reduce.
        row_ids, col_ids: (N,), (M,) integers, for "same_id" and "other_id".
        group: None: this process only. "world", a process group, or distributed.Ranks: query and gallery are this
            rank's share; candidates come from all ranks, and indices count through all ranks.

    Returns: (N, k) int64; -1 where the pool has no candidate left.

    Cost: 6 N M D FLOP, O(N (pool + k) + (N + M) D) memory.

    Example:
        >>> bank = torch.nn.functional.normalize(torch.randn(50, 8), dim=1)
        >>> semi_hard_negatives(bank[:4], bank, 5, pool=20).shape
        torch.Size([4, 5])

    Source: Xie et al. 2020 (InterCLR), https://arxiv.org/abs/2008.11702; official code open-mmlab/mmselfsup, branch
    0.x, mmselfsup/models/memories/interclr_memory.py.
    """
    count("pool", pool)
    wanted = Candidates(query, bank, "dot", keep, row_ids, col_ids, group=group)
    with torch.no_grad():
        pairs, engine = wanted.pairs()
        every = replace(pairs, keep="all", row_ids=None, col_ids=None)
        pairs.row_low = hardest_limit(every, pool, engine)
        return drawn(pairs, engine, Weigh(uniform=True), k, replacement, generator)


def above_zero(temperature: float | Tensor, query: Tensor) -> float | Tensor:
    """A tensor's values are looked at on the CPU alone."""
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            check.vector("temperature", temperature, query.shape[0], query.device)
        check.condition("temperature must be finite and > 0", (temperature > 0.0) & (temperature < torch.inf))
    return temperature


def lse_of_all(pairs: Pairs, engine: EngineOptions) -> Tensor:
    """Of every row over all columns, kept or not."""
    free = ("row_ids", "col_ids", "row_groups", "col_groups", "row_labels", "col_labels", "partner", "mask")
    unset = dict.fromkeys((*free, "row_low", "row_high"))
    return pair_stats(replace(pairs, keep="all", **unset), engine).rows  # type: ignore[arg-type]


def drawn(
    pairs: Pairs, engine: EngineOptions, weigh: Weigh, k: int, replacement: bool, generator: torch.Generator | None
) -> Tensor:
    count("k", k)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    facts = {"k": k, "replacement": replacement}
    batch = GlobalBatch.of(engine.ranks, pairs.a.shape[0], facts=lambda: facts)
    stream = Stream(arguments(pairs, engine), engine.ranks)
    return Drawing(stream, batch, weigh, generator).draws(k, replacement)
