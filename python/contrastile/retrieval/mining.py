"""Hard negatives of a whole data set."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import Keep, TestName
from ..ops import check
from ..ops.rules import PerBlock, by_row
from ..ranks import GlobalBatch, Group, collective
from .candidates import Candidates, between, count
from .drawing import uniform
from .largest import best, numbers
from .placing import EachPlace

MarginOf: TypeAlias = Literal["absolute", "relative"]
Choice: TypeAlias = Literal["top", "random"]


class Mined(NamedTuple):
    """What `mine_hard_negatives` found.

    Args:
        indices: (N, k) int64 into the corpus; -1 where there are no more.
        scores: (N, k); -inf there.

    Example:
        >>> mined = mine_hard_negatives(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 1)
        >>> mined.indices.tolist()
        [[1], [0]]
    """

    indices: Tensor  # (N, k) int64 into the corpus, -1 where there are no more
    scores: Tensor  # (N, k), -inf there


@collective
def mine_hard_negatives(
    query: Tensor,
    corpus: Tensor,
    positives: Tensor,
    k: int,
    *,
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    margin: float | None = None,
    margin_of: MarginOf = "absolute",
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    skip: int = 0,
    pool: int | None = None,
    choice: Choice = "top",
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
    group: Group = None,
) -> Mined:
    """The documents of a corpus that queries find similar although they are wrong, without the scores of all pairs.

        s_ij = <query_i, corpus_j>,   j is no positive of i, and s_ij <= s_i - margin   (relative: s_i - margin |s_i|)

    s_i is the lowest score of the query's positives: what comes too close to it is often an unmarked positive. With
    margin=0 exact copies of that positive stay. Of what is left, in the order of `topk`, the first `skip` are passed
    over, and k of the next `pool` taken.

    Args:
        query: (N, D). Normalize query and corpus for cosines.
        corpus: (M, D).
        positives: (N,) or (N, P) integers, the right documents of each query by their index in the corpus; -1: none.
        k: >= 1 negatives per query.
        row_ids, col_ids: (N,), (M,) integers: documents with the query's id are not negatives either, such as copies of
            the right one.
        margin: >= 0; None: no margin. Queries without positives have none. A query for which it leaves nothing above
            low gets no negative.
        margin_of: "absolute", in units of scores; "relative", a share of the positive's score: 0.05 asks for at most 95
            % of it, as TopK-PercPos does.
        low, high: A number or (N,): low < s_ij <= high.
        skip: >= 0, how many of the best to pass over.
        pool: >= k; None: k.
        choice: "top", the first k of the pool, or "random", k different ones with equal probabilities.
        generator: For "random": on any device; None: torch's own on the CPU. With group the first rank's decides.
        mask: (N, M) bool, True = may be taken.
        group: None: this process only. "world", a process group, or distributed.Ranks: queries and corpus are this
            rank's share; indices, also those of positives, count through all ranks.

    Returns: Mined(indices, scores), (N, k), the highest scores first. No gradient. A document whose score is NaN is
    never a negative, and with a margin a query that has a positive of NaN gets none.

    Raises: ValueError: a margin without any positive named, a pool smaller than k.

    Cost: 2 N M D FLOP, with a margin 4; O(N (skip + pool) + (N + M) D) memory.

    Example:
        >>> query, corpus = torch.eye(2), torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]])
        >>> mine_hard_negatives(query, corpus, torch.tensor([0, 2]), 1).indices[:, 0].tolist()
        [1, 1]

    Source: sentence_transformers.util.mine_hard_negatives; de Souza et al. 2024 (NV-Retriever, margins of the
    positive's score), https://arxiv.org/abs/2407.15831.
    """
    check.choice("margin_of", margin_of, get_args(MarginOf))
    check.choice("choice", choice, get_args(Choice))
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise ValueError(f"skip must be an int >= 0, got {skip!r}")
    pool = count("k", k) if pool is None else count("pool", pool)
    if pool < k:
        raise ValueError(f"pool must be at least k, {k}, got {pool}")
    if generator is not None and choice == "top":
        raise ValueError("generator must be None with choice='top': it would have no effect")
    query, corpus = check.features("query", query).detach(), check.features("corpus", corpus).detach()
    partner = by_row("positives", positives, query.shape[0], query.device)
    if partner.dtype not in check.ID_DTYPES:
        raise TypeError(f"positives must be a tensor of integers, got {partner.dtype}")
    partner = partner.long()  # -1 is 255 in uint8
    if group is None:  # else the engine knows how many documents there are
        inside = (partner >= -1) & (partner < corpus.shape[0])
        check.condition(f"positives must lie in [-1, {corpus.shape[0]}), -1 for none", inside)
    rule: tuple[TestName, ...] = ("no_partner",) if row_ids is None else ("no_partner", "other_id")
    low, high = between(low, high, query)
    if margin is not None:
        away = distance("margin", margin)
        most = below(lowest_positive(query, corpus, partner, group), away, margin_of)
        most = most if high is None else torch.minimum(most, high)
        high = most if low is None else torch.maximum(most, low)  # nothing is above low and at most low
    wanted = Candidates(
        query, corpus, "dot", rule, row_ids, col_ids, partner=partner, low=low, high=high, mask=mask, group=group
    )
    values, index = best(wanted, skip + pool, numbers)
    values, index = values[:, skip:], index[:, skip:]
    if choice == "random":
        place = chosen(index, k, generator, group)
        values, index = values.gather(1, place), index.gather(1, place)
    return Mined(index[:, :k], values[:, :k])


def lowest_positive(query: Tensor, corpus: Tensor, partner: Tensor, group: Group) -> Tensor:
    """(N,): inf without a positive, -inf with one of NaN. Read from tiles as those of the candidates are, so that
    copies of a positive have its score bit by bit."""
    keep: Keep = "all"
    _, stream = Candidates(query, corpus, "dot", keep, partner=partner, group=group, positives="partner").stream()
    found = EachPlace(stream.call)
    stream.visit(found.find)
    return torch.where(partner < 0, torch.inf, found.score).amin(1)


def distance(name: str, x: float) -> float:
    value = check.scalar(name, x)
    if isinstance(value, Tensor) or value < 0.0:
        raise ValueError(f"{name} must be a number >= 0, got {x}")
    return value


def below(score: Tensor, margin: float, margin_of: str) -> Tensor:
    """The highest score a negative may have."""
    away = margin * score.abs() if margin_of == "relative" else margin
    return torch.where(score.abs() == torch.inf, score, score - away)


def chosen(index: Tensor, k: int, generator: torch.Generator | None, group: Group) -> Tensor:
    """Places of k of the candidates that each row has, in their order."""
    batch = GlobalBatch.of(group, index.shape[0])
    lots = uniform(batch, index.shape[1], generator, index.device).masked_fill(index < 0, 2.0)
    return lots.topk(k, dim=1, largest=False).indices.sort(1).values
