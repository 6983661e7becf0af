"""Scores of rows and columns whose positive pairs have equal labels, a row's own copy among the columns left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import Keep, ReduceName
from ..ops import EngineOptions, Pairs, PairStats, pair_stats
from .labels import Labelled
from .listed import listed_dots


@dataclass(frozen=True)
class Similarities:
    """Rows and columns of the scores z_ij = scale * <x_i, y_j>, in float32 (float64) so that gradients meet there."""

    x: Tensor  # (N, D)
    y: Tensor | None  # (M, D); None: x itself, and row i's own copy is column i
    scale: float | Tensor
    engine: EngineOptions

    @property
    def columns(self) -> Tensor:
        return self.x if self.y is None else self.y

    def reduce(
        self, pairs: Labelled, keep: Keep, reduce: ReduceName = "lse", row_bias: Tensor | None = None
    ) -> PairStats:
        """pair_reduce with the positive pairs by label, own copies in y among them."""
        problem = Pairs(
            self.x, self.y, self.scale, row_bias=row_bias, reduce=reduce, keep=keep, positives="same_id",
            row_ids=pairs.rows, col_ids=None if self.y is None else pairs.cols,
        )  # fmt: skip
        return pair_stats(problem, self.engine)

    def lse_and_positives(self, pairs: Labelled, keep: Keep) -> tuple[Tensor, Tensor]:
        """Log-sum-exps over what is kept, and sums over positives, own copies in y among them."""
        stats = self.reduce(pairs, keep=keep)
        assert stats.row_positives is not None
        return stats.rows, stats.row_positives

    def all_but_own(self, pairs: Labelled) -> tuple[Tensor, Tensor]:
        """The same, over all columns but own copies."""
        if pairs.own is None or self.y is None:
            return self.lse_and_positives(pairs, "all" if pairs.own is None else "other_index")
        rows, copies = pairs.copies()
        others = (pairs.own < 0).nonzero().squeeze(1)
        rest = torch.ones_like(pairs.cols, dtype=torch.bool).index_fill(0, copies, False).nonzero().squeeze(1)
        order = torch.cat([copies, rest])  # so that pair (i, i) of `rows` is a row and its copy
        y, labels = self.y[order], pairs.cols[order]
        found = []
        parts: tuple[tuple[Tensor, Keep], ...] = ((rows, "other_index"), (others, "all"))
        for some, keep in parts:
            part = Similarities(self.x[some], y, self.scale, self.engine)
            found.append(part.lse_and_positives(Labelled(pairs.rows[some], labels), keep))
        back = torch.cat([rows, others]).argsort()
        lse, sums = (torch.cat(halves)[back] for halves in zip(*found, strict=True))
        return lse, sums

    def less_own(self, sums: Tensor, pairs: Labelled, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sums over positives, without term(score, row) of a row's own copy in y."""
        if pairs.own is None or self.y is None:
            return sums
        rows, copies = pairs.copies()
        return sums.index_add(0, rows, term(self.listed(rows, copies), rows), alpha=-1)

    def listed(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self.scale * listed_dots(self.x, self.columns, rows, cols)
