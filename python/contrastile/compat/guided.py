"""The guided ranking loss (GISTEmbed) of sentence-transformers on embeddings, row block by row block.

    L = mean_i [ log sum_{j kept} e^{z_ij} - z_i,p(i) ],      z = cosine / temperature

A candidate is dropped where a second model, the guide, finds it closer to the row than the row's positive (less a
margin). That decision costs a second product per pair and has no gradient. It is made for a block of rows, used, and
forgotten: gradients are formed in the forward pass, so that neither scores nor decisions wait for a backward pass.

Source: Solatorio 2024, arXiv 2402.16829.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import BackendName
from ..losses.common import inverse, paired_dot, reduced_empty, unit, upcast
from ..ops import EngineOptions, Pairs, check, pair_stats
from ..ops.pair import LOSS_BUDGET
from ..ranks import GlobalBatch, Group
from .row_blocks import sum_of_blocks

STRATEGIES = ("absolute", "relative")
# Similarities this close are equal. A duplicate of the positive ties with it and stays, also where two products of the
# same numbers differ in their last digit.
TIE = {torch.float32: 2.0**-20, torch.float64: 2.0**-46}


@dataclass
class Guided:
    """One guided problem; the tensors are the guide's, unit rows. Columns: positives, anchors if wanted, negatives."""

    batch: GlobalBatch  # its rows are this rank's anchors
    rows: Tensor
    positives: Tensor  # of all ranks
    columns: list[Tensor]
    limit: Tensor  # (N,) the similarity above which a candidate is dropped
    scale: float | Tensor
    anchors: bool
    among_positives: bool
    engine: EngineOptions

    def loss(self, start: int, stop: int, anchor: Tensor, positive: Tensor, *negatives: Tensor) -> Tensor:
        """The share of rows [start, stop) in the mean."""
        columns = [positive, *([anchor] if self.anchors else []), *negatives]
        ids = torch.arange(len(positive), device=anchor.device)
        here, own = slice(start, stop), slice(self.batch.offset + start, self.batch.offset + stop)
        pairs = Pairs(
            anchor[here], columns, self.scale, mask=self.kept(here, self.rows[here], self.columns),
            positives="same_id", keep_positives=True, row_ids=ids[own], col_ids=[ids, *(None for _ in columns[1:])],
        )  # fmt: skip
        stats = pair_stats(pairs, self.engine)
        assert stats.row_positives is not None
        total = stats.rows
        if self.among_positives:
            mask = self.kept(here, self.positives[own], [self.positives])
            others = pair_stats(Pairs(positive[own], positive, self.scale, mask=mask), self.engine).rows
            total = torch.logaddexp(total, others)
        return (total - stats.row_positives).sum() * self.batch.weight("mean")

    def kept(self, here: slice, rows: Tensor, columns: Sequence[Tensor]) -> Tensor:
        """(rows, columns) bool. A similarity that is NaN drops nothing."""
        with torch.no_grad():
            limit = self.limit[here].unsqueeze(1)
            return torch.cat([(rows @ x.T > limit).logical_not_() for x in columns], 1)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a backward pass within a forward pass cannot be traced
def guided_loss(
    embeddings: Sequence[Tensor],
    guide_embeddings: Sequence[Tensor],
    *,
    temperature: float = 0.01,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Anchors, positives and hard negatives, each (N, D) of free length, and the guide's view of the same, (N, D').

    With a group, positives and negatives of all ranks are gathered and are candidates of this rank's anchors.
    """
    check.choice("margin_strategy", margin_strategy, STRATEGIES)
    scale = inverse(temperature, embeddings[0])
    batch = GlobalBatch.of(group, embeddings[0].shape[0], facts=lambda: dict(columns=len(embeddings)))
    if batch.total == 0:
        return reduced_empty(0, "mean", *embeddings)
    anchor, positive, *negatives = (unit_rows(x) for x in embeddings)
    rows, positives, *others = (unit_rows(x.detach()) for x in guide_embeddings)
    closeness = paired_dot(rows, positives)
    limit = closeness - (closeness.abs() if margin_strategy == "relative" else 1.0) * margin + TIE[closeness.dtype]
    positive, positives, *more = (batch.gather(x) for x in (positive, positives, *negatives, *others))
    negatives, others = more[: len(negatives)], more[len(negatives) :]
    columns = [positives, *([rows] if contrast_anchors else []), *others]
    budget = LOSS_BUDGET if memory_budget is None else memory_budget
    engine = EngineOptions.of(budget, backend)  # all columns are here: no ranks
    problem = Guided(batch, rows, positives, columns, limit, scale, contrast_anchors, contrast_positives, engine)
    rows_at_a_time = budget // (4 * sum(map(len, columns)))
    value: Tensor = sum_of_blocks(problem.loss, batch.n, rows_at_a_time, anchor, positive, *negatives)
    return value


def unit_rows(x: Tensor) -> Tensor:
    return unit(upcast(x), True, least=1e-8)
