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
        self.found = Found.of(self.score)

    def find_in(self, tile: Tile) -> None:
        if (positive := tile.positive()) is None:
            return
        row, column = positive.nonzero().unbind(1)
        if row.numel():
            score = tile.logits()[row, column]
            kept = score != -torch.inf
            self.found.add(row[kept] + tile.rows.start, column[kept] + tile.start, score[kept])

    def settle(self) -> None:
        """All positives of a row beside each other, best first; those that are NaN last. Between both sweeps."""
        row, column, score = self.found.all()
        if not row.numel():
            return
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
        # several positives of equal scores: some are ahead of others
        twice = ((self.score[:, 1:] == self.score[:, :-1]) & (self.score[:, 1:] != -torch.inf)).any(1)
        for tile in tiles(call, COLUMNS):
            z, score, column = tile.logits(), self.score[tile.rows], self.column[tile.rows] - tile.start
            own = (z, score, column, twice[tile.rows])
            height = max(SEARCHED // max(z.shape[1], 1), 1)
            parts = zip(*(x.split(height) for x in own), strict=True)
            self.ahead[tile.rows] += torch.cat([ahead(*part) for part in parts])


class Found:
    """Rows, columns and scores of positives, in memory of their own that doubles: small tensors that outlive a tile
    would lie between those of the tiles, whose memory the allocator could then not use again."""

    def __init__(self, *held: Tensor) -> None:
        self.held, self.count = held, 0

    @staticmethod
    def of(score: Tensor) -> Found:
        size = max(score.shape[0], 1)
        index = score.new_empty(size, dtype=torch.int64)
        return Found(index, index.clone(), score.new_empty(size))

    def add(self, *more: Tensor) -> None:
        count = self.count + len(more[0])
        if count > len(self.held[0]):
            size = max(count, 2 * len(self.held[0]))
            self.held = tuple(torch.cat([x[: self.count], x.new_empty(size - self.count)]) for x in self.held)
        for x, new in zip(self.held, more, strict=True):
            x[self.count : count] = new
        self.count = count

    def all(self) -> list[Tensor]:
        return [x[: self.count] for x in self.held]


def ahead(z: Tensor, score: Tensor, column: Tensor, twice: Tensor) -> Tensor:
    """(n, P): how many candidates come before each positive. score falls along its rows, column rises where it is
    equal; columns count from the tile's first."""
    n, count = score.shape
    nan = z.isnan()
    after = torch.searchsorted(-score, -z.masked_fill(nan, torch.inf), right=True)  # the first positive it is ahead of
    after.masked_fill_(nan, 0)
    equal = (score.gather(1, (after - 1).clamp_min_(0)) == z) & (z != -torch.inf)
    own = ((column >= 0) & (column < z.shape[1])).sum(1)
    if (rows := (twice | (equal.sum(1) > own)).nonzero()[:, 0]).numel():
        after[rows] = torch.where(equal[rows], among_equals(score[rows], column[rows], after[rows]), after[rows])
    after += (count + 1) * torch.arange(n, device=z.device).unsqueeze(1)
    found = torch.bincount(after.flatten(), minlength=n * (count + 1)).view(n, count + 1)
    return found[:, :-1].cumsum(1)


def among_equals(score: Tensor, column: Tensor, after: Tensor) -> Tensor:
    """The first positive that a candidate is ahead of, (n, m), where positives of its score end at `after`."""
    m = after.shape[1]
    first = torch.searchsorted(-score, -score)  # of the same score
    place = (m + 2) * first + column.clamp(-1, m) + 1
    wanted = (m + 2) * first.gather(1, (after - 1).clamp_min(0)) + torch.arange(1, m + 1, device=after.device)
    return torch.searchsorted(place, wanted, right=True)
