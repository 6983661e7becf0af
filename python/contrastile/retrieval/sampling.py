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
    """k columns of every row, drawn by the softmax of its scores among the candidates: hard negatives for a matching
    head, as image-text matching takes them.

        P(i draws j) ~ e^z_ij + floor sum_m e^z_im,   z_ij = s_ij / temperature + col_bias_j,   j kept, m any column

    Each row and draw has one number u, uniform in [0, 1), drawn before any score is looked at, and takes the first
    column whose cumulative probability exceeds it. So the draws depend on the generator alone: neither on how the work
    is cut, nor on the device, nor on the number of ranks, but where rounding moves a boundary across u.

    Args:
        query: (N, D). key: As the gallery of `topk`.
        k: >= 1 draws of each row.
        temperature: > 0, a number, 0-dim tensor or (N,). No gradient.
        replacement: False: k different columns, as if what was drawn were left out of the next draw.
        floor: >= 0, added to every candidate's probability in the softmax over all columns, dropped ones included, as
            official code does: 1e-4 in GRAM and TRIANGLE, 1e-5 in 1-to-K. ALBEF's 1e-4 on the scores themselves has no
            effect: floor=0.
        generator: On any device; None: torch's own of the CPU. With group the first rank's decides; all ranks draw.
        score: "dot"; "volume" for GRAM, "squared_area" for TRIANGLE, with a tuple as key.
        keep: By default the row's own index is its positive. "other_id" where several columns may be.
        low, high: Candidates have low < temperature z <= high.
        col_bias: (M,), added to the logits: minus the log of a propensity weighs columns by its inverse.
        row_ids, col_ids, row_groups, col_groups, row_labels, col_labels, partner, mask, group: As in `topk`.

    Returns:
        (N, k) int64, in the order they were drawn; -1 where no candidate is left, and of rows with a score that is NaN
        or inf.

    Cost: 4 N M D FLOP (6 with a floor), O(N (k + M / 16384) + (N + M) D) memory. Without replacement, as much again if
    draws fell so often on columns that a row already has that it is short of k, and half as much if it still is: the
    order of log probabilities plus Gumbel numbers, hashed from a seed of the row and the column's index, then is that
    of all draws that are left.

    Example:
        >>> query = torch.eye(4)
        >>> drawn = sample_negatives(query, query, 2, generator=torch.Generator().manual_seed(0))
        >>> drawn.shape, bool((drawn == torch.arange(4)[:, None]).any())
        (torch.Size([4, 2]), False)

    Source: Li et al. 2021 (ALBEF), arXiv 2107.07651, section 3.2, and official code models/model_pretrain.py; official
        code of GRAM, arXiv 2412.11959, and TRIANGLE, arXiv 2509.24734.
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
    """k columns of every row, drawn with equal probabilities from the `pool` columns of its largest scores, of which
    keep leaves out some: InterCLR's negatives for `margin_nce`, where keep="other_id" compares pseudo labels.

    Args:
        query: (N, D). bank: (M, D).
        pool: >= 1; columns as good as the last of it belong to it. Hard negatives are topk(..., keep="other_id"), and
            the pool of -query is the easiest.
        k, replacement, generator, keep, row_ids, col_ids, group: As in `sample_negatives`.

    Returns: (N, k) int64; -1 where the pool has no candidate left.

    Cost: 6 N M D FLOP, O(N (pool + k) + (N + M) D) memory.

    Example:
        >>> bank = torch.nn.functional.normalize(torch.randn(50, 8), dim=1)
        >>> semi_hard_negatives(bank[:4], bank, 5, pool=20).shape
        torch.Size([4, 5])

    Source: Xie et al. 2020 (InterCLR), arXiv 2008.11702; official code open-mmlab/mmselfsup, branch 0.x,
        mmselfsup/models/memories/interclr_memory.py.
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
