"""The places of all positives of every query, whatever rule makes them positives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import tiles
from ..ops.stream import Tile
from ..retrieval.largest import COLUMNS
from ..retrieval.placing import Places
from ..spec import PairCall

SEARCHED = 1 << 19  # scores at a time: places are int64, and several copies
FEW = 24  # positives of a row that are compared with all scores one after the other; more are searched for


class EveryPlace(Places):
    """As retrieval.ranks(each=True), best first, without their indices given."""

    def __init__(self, call: PairCall) -> None:
        super().__init__(call, 0)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, columns, scores of positives

    def find_in(self, tile: Tile) -> None:
        if (positive := tile.positive()) is None:
            return
        row, column = positive.nonzero().unbind(1)
        if row.numel():
            score = tile.logits()[row, column]
            kept = score != -torch.inf
            self.found.append((row[kept] + tile.rows.start, column[kept] + tile.start, score[kept]))

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
            own = (z, score, column, twice[tile.rows])
            height = max(SEARCHED // max(z.shape[1], 1), 1)
            parts = zip(*(x.split(height) for x in own), strict=True)
            self.ahead[tile.rows] += torch.cat([ahead(*part) for part in parts])


def ahead(z: Tensor, score: Tensor, column: Tensor, twice: Tensor) -> Tensor:
    """(n, P): how many candidates come before each positive. score falls along its rows; columns count from the
    tile's first."""
    n, count = score.shape
    nan = z.isnan()
    after = torch.searchsorted(-score, -z.masked_fill(nan, torch.inf), right=True)  # the first positive it is ahead of
    after.masked_fill_(nan, 0)
    equal = (score.gather(1, (after - 1).clamp_min_(0)) == z) & (z != -torch.inf)
    after += (count + 1) * torch.arange(n, device=z.device).unsqueeze(1)
    found = torch.bincount(after.flatten(), minlength=n * (count + 1)).view(n, count + 1)
    before = found[:, :-1].cumsum(1)
    own = ((column >= 0) & (column < z.shape[1])).sum(1)
    index = torch.arange(z.shape[1], device=z.device)
    for row in (twice | (equal.sum(1) > own)).nonzero()[:, 0].tolist():
        place = equal[row].nonzero()[:, 0]
        tied = z[row, place] == score[row].unsqueeze(1)
        before[row] += (tied & (index[place] < column[row].unsqueeze(1))).sum(1)
    return before
