"""The places of all positives of every query, whatever rule makes them positives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import tiles
from ..ops.stream import Tile
from ..retrieval.largest import COLUMNS
from ..retrieval.placing import Places
from ..spec import PairCall

FEW = 4  # positives of a row that are compared with all scores one after the other; more are searched for


class EveryPlace(Places):
    """As retrieval.ranks(each=True), best first, without their indices given."""

    def __init__(self, call: PairCall) -> None:
        super().__init__(call, 0)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, columns, scores of positives

    def find_in(self, tile: Tile) -> None:
        positive = tile.positive()
        if positive is None or not (rows := positive.sum(1, dtype=torch.int32).nonzero()[:, 0]).numel():
            return
        z = tile.logits()[rows]
        place, column = (positive[rows] & (z != -torch.inf)).nonzero().unbind(1)
        self.found.append((rows[place] + tile.rows.start, column + tile.start, z[place, column]))

    def settle(self) -> None:
        """All positives of a row beside each other, best first; those that are NaN last. Between both sweeps."""
        if not self.found:
            return
        row, column, score = (torch.cat(x) for x in zip(*self.found, strict=True))
        nan = score.isnan()
        score = score.masked_fill(nan, -torch.inf)
        order = column.argsort()
        order = order[score[order].argsort(descending=True, stable=True)]
        order = order[row[order].argsort(stable=True)]
        row, column, score, nan = row[order], column[order], score[order], nan[order]
        n = self.score.shape[0]
        count = torch.bincount(row, minlength=n)
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        shape = (n, int(count.max()))
        self.score, self.column = self.score.new_full(shape, -torch.inf), self.column.new_full(shape, -1)
        self.undefined, self.ahead = self.undefined.new_zeros(shape), self.ahead.new_zeros(shape)
        self.score[row, place], self.undefined[row, place] = score, nan
        self.column[row, place] = column.masked_fill(nan, -1)

    def count(self, call: PairCall) -> None:
        if self.score.shape[1] <= FEW:
            return super().count(call)
        # several positives of equal scores: they are ahead of each other
        twice = ((self.score[:, 1:] == self.score[:, :-1]) & (self.score[:, 1:] != -torch.inf)).any(1)
        for tile in tiles(call, COLUMNS):
            z, score, column = tile.logits(), self.score[tile.rows], self.column[tile.rows] - tile.start
            self.ahead[tile.rows] += ahead(z, score, column, twice[tile.rows])


def ahead(z: Tensor, score: Tensor, column: Tensor, twice: Tensor) -> Tensor:
    """(n, P): how many candidates come before each positive. score falls along its rows; columns count from the
    tile's first."""
    wanted, nan = -score, z.isnan()
    behind = -z.masked_fill(nan, torch.inf)
    after = torch.searchsorted(wanted, behind, right=True).masked_fill_(nan, 0)  # the first positive it is ahead of
    equal = (torch.searchsorted(wanted, behind) < after) & (z != -torch.inf)
    before = score.new_zeros(score.shape[0], score.shape[1] + 1, dtype=torch.int64)
    before = before.scatter_add_(1, after, torch.ones_like(after))[:, :-1].cumsum(1)
    own = ((column >= 0) & (column < z.shape[1])).sum(1)
    index = torch.arange(z.shape[1], device=z.device)
    for row in (twice | (equal.sum(1) > own)).nonzero()[:, 0].tolist():
        place = equal[row].nonzero()[:, 0]
        tied = z[row, place] == score[row].unsqueeze(1)
        before[row] += (tied & (index[place] < column[row].unsqueeze(1))).sum(1)
    return before
