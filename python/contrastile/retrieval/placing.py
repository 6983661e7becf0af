"""The place of every query's positives among its candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import Keep, Positives
from ..ops import stat_dtype, tiles
from ..ops.rules import PerBlock
from ..ops.stream import Tile
from ..ranks import Group, collective
from ..spec import PairCall
from .candidates import Candidates, Gallery, RetrievalScore
from .largest import COLUMNS


@collective
def ranks(
    query: Tensor,
    gallery: Gallery,
    *,
    positives: Positives = "same_index",
    each: bool = False,
    score: RetrievalScore = "dot",
    keep: Keep = "all",
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
    """The rank of every query's best positive, 1 for the first, without sorting and without the N x M matrix.

        rank_i = 1 + #{kept j: s_ij > s_ip} + #{kept j < p: s_ij = s_ip},   p the first of the best kept positives

    The order is that of `topk`: a rank of at most k means that topk(query, gallery, k) finds a positive. For recall@k:
    `((rank > 0) & (rank <= k)).float().mean()`.

    Args:
        query: (N, D), float32 | bfloat16 | float16 | float64; not normalized here.
        gallery: (M, D); several tensors are blocks joined in order. None: the queries among themselves, where no item
            is its own candidate. With another score, the tensors (M, D) whose matched rows are the tuples.
        positives: Which columns are right, by tests as in pair_reduce: "same_index" (query i belongs to gallery i),
            "same_id" with ids, "partner" with indices, or a tuple of tests. Positives that keep drops do not count.
            Without a gallery an item is neither candidate nor positive of itself.
        each: For positives="partner" only: the ranks of all P partners, (N, P), each among all kept candidates.
        score: "dot"; or a score that is small for a good match, with its sign changed: "volume", -volume(query_i, x_j,
            y_j, ...) as in gram_volume_matrix; "area", minus the area of the triangle query_i, x_j, y_j;
            "squared_area", -2 area^2, the logit of triangle_loss.
        keep: Which pairs are candidates: "all", a test, or a tuple of tests, as in pair_reduce.
        row_ids, col_ids: (N,), (M,) integers, for "same_id" and "other_id".
        row_groups, col_groups: (N,), (M,) integers, for "same_group" and "other_group".
        row_labels, col_labels: (N, L), (M, L) bool, for "shared_label" and "no_shared_label".
        partner: (N,) or (N, P) integers, columns by index, for "partner" and "no_partner"; -1: none.
        low, high: A number or one per query, (N,): candidates have low < s <= high.
        col_bias: (M,), added to the scores of "dot".
        mask: (N, M) bool, True = may be a candidate.
        group: None: this process only. "world", a process group, or distributed.Ranks: query and gallery are this
            rank's share; candidates come from all ranks, and indices count through all ranks.

    Returns: (N,) int64; 0 for a query without a positive. A candidate whose score is NaN ranks ahead of all numbers; a
    positive whose score is NaN is the last of the candidates. No gradient.

    Cost: 2 N M D FLOP, and again for tiles that hold positives; O(N + (N + M) D) memory.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.9, 1.0]])
        >>> ranks(query, gallery).tolist()
        [2, 1]
    """
    if each and (positives != "partner" or partner is None):
        raise ValueError("each needs positives='partner' and partner")
    if positives in (None, "kept"):
        raise ValueError(f"positives must be tests as 'same_index' or 'same_id', got {positives!r}")
    wanted = Candidates(
        query, gallery, score, keep, row_ids, col_ids, row_groups, col_groups, row_labels, col_labels, partner, low,
        high, col_bias, mask, group, positives,
    )  # fmt: skip
    if gallery is None and "same_index" in (positives if isinstance(positives, tuple) else (positives,)):
        raise ValueError("positives='same_index' needs a gallery: an item is not its own candidate")
    _, stream = wanted.stream()
    found = EachPlace(stream.call) if each else BestPlace(stream.call)
    stream.visit(found.find)
    stream.visit(found.count)
    return found.places() if each else found.places()[:, 0]


class Places:
    """For P positives of each query: their scores, their columns, and how many candidates are not ahead of them. Both
    sweeps see equal tiles, whose scores have equal bits."""

    def __init__(self, call: PairCall, count: int) -> None:
        n, like = len(call.rows), call.rows.features
        self.score = like.new_full((n, count), -torch.inf, dtype=stat_dtype(call.dtype))
        self.column = like.new_full((n, count), -1, dtype=torch.int64)
        self.undefined = like.new_zeros((n, count), dtype=torch.bool)  # a positive has the score NaN
        self.ahead = like.new_zeros((n, count), dtype=torch.int64)

    def find(self, call: PairCall) -> None:
        for tile in tiles(call, COLUMNS):
            self.find_in(tile)

    def find_in(self, tile: Tile) -> None:
        raise NotImplementedError

    def count(self, call: PairCall) -> None:
        for tile in tiles(call, COLUMNS):
            z = tile.logits()
            for place, (score, column) in enumerate(
                zip(self.score[tile.rows].unbind(1), self.column[tile.rows].unbind(1), strict=True)
            ):
                self.ahead[tile.rows, place] += ahead(z, score.unsqueeze(1), column.unsqueeze(1) - tile.start)

    def places(self) -> Tensor:
        """1 + those ahead; a score of NaN stands as -inf and so has all candidates ahead, itself included."""
        return torch.where(self.column >= 0, self.ahead + 1, torch.where(self.undefined, self.ahead, 0))


def ahead(z: Tensor, score: Tensor, column: Tensor) -> Tensor:
    """How many candidates of every row come before one of this score in this column, counted from the tile's first."""
    found = z.shape[1] - (z <= score).sum(1, dtype=torch.int32).long()
    equal = z == score
    some = (equal.sum(1, dtype=torch.int32) > 0) & (score[:, 0] != -torch.inf)  # any() takes five times as long
    if (rows := some.nonzero()[:, 0]).numel():
        index = torch.arange(z.shape[1], device=z.device)
        found[rows] += (equal[rows] & (index < column[rows])).sum(1)
    return found


class BestPlace(Places):
    """Of the best positive."""

    def __init__(self, call: PairCall) -> None:
        super().__init__(call, 1)

    def find_in(self, tile: Tile) -> None:
        positive = tile.positive()
        if positive is None or not (rows := positive.sum(1, dtype=torch.int32).nonzero()[:, 0]).numel():
            return
        z = tile.logits()[rows].masked_fill(~positive[rows], -torch.inf)
        nan, rows = z.isnan(), rows + tile.rows.start
        self.undefined[rows, 0] |= nan.any(1)
        best, column = z.masked_fill_(nan, -torch.inf).max(1)
        column += tile.start
        score, known = self.score[rows, 0], self.column[rows, 0]
        better = (best > score) | ((best == score) & (best != -torch.inf) & (column < known))
        self.score[rows, 0] = torch.where(better, best, score)
        self.column[rows, 0] = torch.where(better, column, known)


class EachPlace(Places):
    """Of every partner."""

    def __init__(self, call: PairCall) -> None:
        assert call.rows.partner is not None
        super().__init__(call, call.rows.partner.shape[1])

    def find_in(self, tile: Tile) -> None:
        assert tile.block.row.partner is not None
        place = tile.block.row.partner - tile.start
        here = (place >= 0) & (place < len(tile.block.col))
        if not here.any():
            return
        z = tile.logits().gather(1, torch.where(here, place, 0))
        kept, nan = here & (z > -torch.inf), here & z.isnan()
        self.undefined[tile.rows] |= nan
        self.score[tile.rows] = torch.where(kept, z, self.score[tile.rows])
        self.column[tile.rows] = torch.where(kept, place + tile.start, self.column[tile.rows])
