"""InfoNCE of scores that are no dot products, formed by blocks of columns: who is whose candidate, what stays of a
block, and the cross-entropies of rows and of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import Block, Statistics, by_blocks, check, default_budget, log_add, softplus
from ..ranks import GlobalBatch
from .common import added
from .weights import NOWHERE

# the logits of all rows with the columns of a block, (N, columns)
Scores = Callable[[Block, Sequence[Tensor], Sequence[Tensor]], Tensor]
WORKSPACE = 64 << 20  # bytes of scores that are made at a time


@dataclass
class Apart:
    """Logits of candidates that are a row's own, (N, K)."""

    logits: Tensor
    here: Tensor  # (N, K) bool

    def lse(self) -> Tensor:
        return lse(self.logits, self.here, 1)


@dataclass
class Teacher:
    """What the logits of each row are to resemble: (N, columns, then candidates of its own)."""

    target: Tensor  # "mse": logits; else logarithms of probabilities, -inf for what is no candidate
    loss: str

    def term(self, z: Tensor, kept: Tensor, start: int, stop: int | None = None) -> Tensor:
        target = self.target[:, start:stop]
        if self.loss == "mse":
            return torch.where(kept, z - target, 0.0).square().sum(1)
        return torch.where(kept & (target != -torch.inf), target.exp() * z, 0.0).sum(1)

    def rows(self, term: Tensor, every: Tensor, count: Tensor) -> Tensor:
        """From the sum of all terms, the log-sum-exp over all candidates and how many they are."""
        if self.loss == "mse":
            return term / count.clamp_min(1)
        if self.loss == "ce":
            return every - term
        known = torch.where(self.target != -torch.inf, self.target.exp() * self.target, 0.0).sum(1)
        return every - term + known


@dataclass
class Columns:
    """Columns as candidates of rows: column first + i is that of row i, its positive."""

    first: int
    total: int
    rows_here: Tensor | None = None  # (N,) bool; None: all are there
    cols_here: Tensor | None = None  # (M,) bool
    row_ids: Tensor | None = None  # a column with a row's id is no candidate of it
    col_ids: Tensor | None = None
    both: bool = False  # rows are candidates of columns, too
    smoothing: float = 0.0  # the share of the target that is spread over all candidates
    teacher: Teacher | None = None

    def kept(self, x: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Which columns are a row's candidates, and which one is its own."""
        rows = torch.arange(self.first, self.first + x.shape[0], device=x.device)
        own = rows[:, None] == torch.arange(block.start, block.stop, device=x.device)
        kept = torch.ones_like(own)
        if self.row_ids is not None and self.col_ids is not None:
            kept = (self.row_ids[:, None] != block.columns(self.col_ids)) | own
        return kept if self.cols_here is None else kept & block.columns(self.cols_here), own

    def statistics(self, z: Tensor, block: Block) -> Statistics:
        """Sums over a row's candidates: its positive; of all, their logits, their number, and what the teacher needs.
        Of a column: the log-sum-exp over its negatives, then the sum and the number of its candidates."""
        kept, own = self.kept(z, block)
        sums, cols = [torch.where(own, z, 0.0).sum(1)], []
        if self.smoothing or self.teacher is not None:
            sums += [torch.where(kept, z, 0.0).sum(1), kept.to(z.dtype).sum(1)]
        if self.teacher is not None:
            sums.append(self.teacher.term(z, kept, block.start, block.stop))
        if self.both:
            here = kept if self.rows_here is None else kept & self.rows_here[:, None]
            cols.append(lse(z, here & ~own, 0))
            if self.smoothing:
                cols += [torch.where(here, z, 0.0).sum(0), here.to(z.dtype).sum(0)]
        each = torch.stack(cols, 1) if cols else z.new_zeros(z.shape[1], 0)
        return Statistics(lse(z, kept & ~own, 1), torch.stack(sums, 1), each)

    def of(
        self, scores: Scores, blocks: Sequence[Block], held: bool, whole: Sequence[Tensor], cut: Sequence[Tensor]
    ) -> Statistics:
        """held: what the blocks make stays for the backward pass."""

        def of_block(block: Block, rows: Sequence[Tensor], cols: Sequence[Tensor]) -> Statistics:
            return self.statistics(scores(block, rows, cols), block)

        return by_blocks(of_block, blocks, held, whole, cut)

    def losses(self, found: Statistics, row: float, col: float, batch: GlobalBatch) -> Tensor:
        """Both directions of each pair, weighed."""
        sides = [row * self.row_losses(found)] if row else []
        return added([*sides, col * self.column_losses(found, batch)] if col else sides)

    def row_losses(self, found: Statistics, negatives: Apart | None = None, positives: Apart | None = None) -> Tensor:
        """Cross-entropies of the rows. negatives: further ones. positives: in the place of the own column; the mean
        over them, none of which is a negative of another."""
        others, own = found.lse, found.sums[:, 0]
        if negatives is not None:
            others = log_add(others, negatives.lse())
        if positives is not None:
            each = torch.where(positives.here, softplus(others[:, None] - positives.logits), 0.0).sum(1)
            return each / positives.here.sum(1).clamp_min(1)
        if not self.smoothing:
            return softplus(others - own)
        total, count = found.sums[:, 1], found.sums[:, 2]
        if negatives is not None:
            total = total + torch.where(negatives.here, negatives.logits, 0.0).sum(1)
            count = count + negatives.here.sum(1)
        return self.smoothed(others, own, total, count)

    def smoothed(self, others: Tensor, own: Tensor, total: Tensor, count: Tensor) -> Tensor:
        spread = log_add(others, own) - total / count.clamp_min(1)
        return (1.0 - self.smoothing) * softplus(others - own) + self.smoothing * spread

    def taught_rows(self, found: Statistics, negatives: Apart | None = None) -> Tensor:
        """How far the rows' logits are from the teacher's."""
        assert self.teacher is not None
        every, count, term = log_add(found.lse, found.sums[:, 0]), found.sums[:, 2], found.sums[:, 3]
        if negatives is not None:
            every, count = log_add(every, negatives.lse()), count + negatives.here.sum(1)
            term = term + self.teacher.term(negatives.logits, negatives.here, self.total)
        return self.teacher.rows(term, every, count)

    def column_losses(self, found: Statistics, batch: GlobalBatch) -> Tensor:
        """Cross-entropies of the rows' own columns, of which all ranks have candidates."""
        mine = slice(self.first, self.first + found.lse.shape[0])
        others, own = batch.logsumexp(found.cols[:, 0].unsqueeze(0))[mine], found.sums[:, 0]
        if not self.smoothing:
            return softplus(others - own)
        total, count = batch.sum(found.cols[:, 1:])[mine].unbind(1)
        return self.smoothed(others, own, total, count)


def lse(z: Tensor, kept: Tensor, dim: int) -> Tensor:
    """Finite, also over nothing."""
    return torch.where(kept, z, NOWHERE).logsumexp(dim).clamp_min(NOWHERE)


def columns_at_a_time(like: Tensor, columns: int, each: int, budget: int | None) -> int | None:
    """How many columns a block is to have, of which each takes so many bytes. None: all, which stay for the backward
    pass, for they fit the budget; so it always is in a graph, which serves batches of any size."""
    if not check.plain(like) or columns * each <= (4 * default_budget() if budget is None else budget):
        return None
    return max(WORKSPACE // max(each, 1), 1)
