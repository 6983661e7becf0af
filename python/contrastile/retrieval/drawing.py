"""Draws from the distributions that scores make over columns, by the inverse of their cumulative sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import Stream, tiles
from ..ops.stream import Tile
from ..ranks import GlobalBatch
from ..spec import PairCall
from .largest import COLUMNS, Largest

ROUNDS = 2  # of draws with replacement, before what rows are short of is drawn at once


@dataclass
class Weigh:
    """What a score weighs, in logs."""

    floor: float = 0.0
    lse: Tensor | None = None  # (N,) over all columns, where there is a floor
    uniform: bool = False  # all candidates weigh the same

    def __call__(self, z: Tensor, rows: slice) -> Tensor:
        if self.uniform:
            return torch.where(z == -torch.inf, z, 0.0)
        if self.lse is None:
            return z
        weight = z - self.lse[rows].unsqueeze(1).to(z.dtype)
        least = weight.new_full((), self.floor).log()
        return torch.where(z == -torch.inf, z, torch.logaddexp(weight, least))


class Drawing:
    """Rows are this rank's. Columns have the order of their index, whatever tiles they come in."""

    def __init__(self, stream: Stream, batch: GlobalBatch, weigh: Weigh, generator: torch.Generator | None) -> None:
        self.stream, self.batch, self.weigh, self.generator = stream, batch, weigh, generator
        self.device = stream.call.rows.features.device
        self.found = torch.empty(batch.n, 0, dtype=torch.int64, device=self.device)  # not to be drawn again; -1: none

    def draws(self, k: int, replacement: bool) -> Tensor:
        if replacement:
            return self.drawn(k)
        # draws with replacement are draws without it, once what came before is taken out of them
        self.found, known = self.found.new_full((self.batch.n, k), -1), self.found.new_zeros(self.batch.n)
        for _ in range(ROUNDS):
            fresh = self.drawn(2 * k)
            known = self.add(fresh, known, k)
            if not bool(self.batch.sum((self.left & (known < k)).sum())):  # left: rows that had a candidate
                return self.found
        self.add(self.raced(k), known, k)
        return self.found

    def add(self, drawn: Tensor, known: Tensor, k: int) -> Tensor:
        """Appends the first draws of new columns to those a row has; how many it has then."""
        order = drawn.sort(dim=1, stable=True)
        first = torch.ones_like(drawn, dtype=torch.bool)
        first[:, 1:] = order.values[:, 1:] != order.values[:, :-1]
        new = torch.zeros_like(first).scatter_(1, order.indices, first) & (drawn >= 0)
        place = known.unsqueeze(1) + new.cumsum(1) - 1
        place = torch.where(new, place.clamp_max(k), k)  # the last one is not kept
        spare = torch.cat([self.found, self.found[:, :1]], 1).scatter_(1, place, drawn)
        self.found = spare[:, :k]
        return (known + new.sum(1)).clamp_max(k)

    def drawn(self, k: int) -> Tensor:
        """(N, k) columns, independent of each other."""
        totals = Totals(self)
        self.stream.visit(totals.see)
        self.left, chosen = totals.choose(uniform(self.batch, k, self.generator, self.device))
        self.stream.visit(chosen.see)
        return chosen.index

    def raced(self, k: int) -> Tensor:
        """(N, k) different columns, in the order of draws without replacement: that of log weights plus independent
        Gumbel numbers."""
        seeds = (uniform(self.batch, 1, self.generator, self.device) * 2.0**53).long()
        best = Largest(self.stream.call, k, lambda tile: self.weights(tile) + gumbel(seeds, tile), torch.float64)
        self.stream.visit(best.see)
        return best.index.masked_fill((best.values == -torch.inf) | ~self.left.unsqueeze(1), -1)

    def weights(self, tile: Tile) -> Tensor:
        """Logs of weights; -inf of what must not be drawn."""
        weights = self.weigh(tile.logits(), tile.rows)
        place = self.found[tile.rows] - tile.start
        row, which = ((place >= 0) & (place < weights.shape[1]) & (self.found[tile.rows] >= 0)).nonzero(as_tuple=True)
        weights[row, place[row, which]] = -torch.inf
        return weights


class Totals:
    """First sweep: what the candidates in each block of columns weigh together."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.of_block: dict[int, Tensor] = {}  # (N,) logs, by the first column

    def see(self, call: PairCall) -> None:
        for tile in tiles(call, COLUMNS):
            weights = self.drawing.weights(tile)
            peak = weights.amax(1)
            base = torch.where(peak == -torch.inf, 0.0, peak)
            total = (weights - base.unsqueeze(1)).exp_().sum(1, dtype=torch.float64)
            if tile.start not in self.of_block:
                self.of_block[tile.start] = total.new_full((self.drawing.batch.n,), -torch.inf)
            self.of_block[tile.start][tile.rows] = base.double() + total.log()

    def choose(self, lots: Tensor) -> tuple[Tensor, Chosen]:
        """Which rows have candidates, and by numbers of [0, 1) a block of columns for each draw."""
        starts = sorted(self.of_block)
        if not starts:
            none = torch.full_like(lots, -1, dtype=torch.int64)
            return none.any(1) & False, Chosen(self.drawing, none, lots, none)
        logs = torch.stack([self.of_block[start] for start in starts], 1)
        peak = logs.amax(1, keepdim=True)
        some = (peak > -torch.inf) & (peak < torch.inf)  # neither empty nor NaN
        weight = torch.where(some, logs - peak, 0.0).exp()
        sums = weight.cumsum(1)
        target = lots * sums[:, -1:]
        last = weight.shape[1] - 1 - (weight > 0).flip(1).int().argmax(1, keepdim=True)  # that may be drawn
        block = torch.minimum(torch.searchsorted(sums, target, right=True), last)
        own = weight.gather(1, block)
        share = (target - sums.gather(1, block) + own) / own
        first = torch.tensor(starts, device=lots.device)[block]
        return some[:, 0], Chosen(self.drawing, first.masked_fill(~some, -1), share, torch.full_like(block, -1))


class Chosen:
    """Second sweep: the column within each draw's block, by its share of the block's weight."""

    def __init__(self, drawing: Drawing, start: Tensor, share: Tensor, index: Tensor) -> None:
        self.drawing, self.start, self.share, self.index = drawing, start, share, index

    def see(self, call: PairCall) -> None:
        for tile in tiles(call, COLUMNS):
            here = self.start[tile.rows] == tile.start
            if not here.any():
                continue
            weights = self.drawing.weights(tile)
            base = weights.amax(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).min)
            sums = (weights - base).exp_().cumsum(1, dtype=torch.float64)
            most = sums[:, -1:]
            target = torch.minimum(
                (self.share[tile.rows] * most).clamp_min(0.0), most.nextafter(torch.zeros_like(most))
            )
            # the first sum above the target: a column of no weight has the sum of the one before
            found = torch.searchsorted(sums, target, right=True) + tile.start
            self.index[tile.rows] = torch.where(here, found, self.index[tile.rows])


def gumbel(seeds: Tensor, tile: Tile) -> Tensor:
    """(n, m) float64, a function of the row's seed and the global index of the column alone: SplitMix64, whose 64 bits
    int64 holds."""
    columns = torch.arange(tile.start, tile.start + len(tile.block.col), device=seeds.device)
    x = seeds[tile.rows] + (columns + 1) * signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ shifted(x, shift)) * signed(factor)
    u = (shifted(x ^ shifted(x, 31), 12).double() + 0.5) * 2.0**-52  # neither 0 nor 1
    return u.log_().neg_().log_().neg_()


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def uniform(batch: GlobalBatch, k: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """(N, k) numbers of [0, 1) in float64, of this rank's rows. All ranks draw those of all, and take the first
    rank's."""
    source = torch.device("cpu") if generator is None else generator.device
    every = torch.rand(batch.total, k, generator=generator, dtype=torch.float64, device=source).to(device)
    return batch.from_first(every)[batch.offset :][: batch.n]
