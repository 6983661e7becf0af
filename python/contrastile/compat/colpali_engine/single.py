"""Losses of one embedding each: queries (B, D) and documents (C, D), without scores of all pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ...literals import BackendName, ReduceName
from ...losses import info_nce
from ...losses.common import paired_dot, private_dots, upcast
from ...ops import EngineOptions, Pairs, log_add, matmul, pair_stats, softplus
from ..common import autocast_features
from .options import Loss, alone, checked_batch, checked_pairs, mean, mixed, own_documents, weight_of_batch

# how the statistics of two sets of a row's pairs join
JOINED: dict[ReduceName, Callable[[Tensor, Tensor], Tensor]] = {
    "lse": log_add, "max": torch.maximum, "softplus": torch.add,
}  # fmt: skip


class BiEncoderModule(Loss):
    """Options of all; see Loss."""

    def __init__(
        self,
        max_batch_size: int = 1024,
        temperature: float = 0.02,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        pos_aware_negative_filtering: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        filtering = pos_aware_negative_filtering
        super().__init__(temperature, filtering, filter_threshold, filter_factor, memory_budget, backend)

    @property
    def engine(self) -> EngineOptions:
        return EngineOptions.of(self.memory_budget, self.backend)

    def others(self, queries: Tensor, documents: Tensor, own: Tensor, kind: ReduceName) -> Tensor:
        """(B,) reduced over each query's negatives, of which the too good ones have a scale of their own."""
        scale = 1.0 / self.temperature
        sets: list[tuple[float, Tensor | None, Tensor | None]] = [(scale, None, None)]
        if self.pos_aware_negative_filtering:
            limit = scale * self.filter_threshold * paired_dot(queries.detach(), documents.detach()[own])
            low = self.filter_factor * scale
            sets = [(scale, None, limit), (low, self.filter_factor * limit, None)]
        found = [
            pair_stats(
                Pairs(queries, documents, z, reduce=kind, keep="no_partner", partner=own, row_low=low, row_high=high),
                self.engine,
            ).rows
            for z, low, high in sets
        ]
        return reduce(JOINED[kind], found)

    def positives(self, queries: Tensor, documents: Tensor, own: Tensor) -> Tensor:
        return paired_dot(queries, documents.index_select(0, own)) / self.temperature

    def pairs(self, queries: Tensor, documents: Tensor, negatives: Tensor, offset: int) -> Tensor:
        """The mean of log(1 + e^(negative - positive)) over each query's own negatives (B, N, D)."""
        checked_pairs(queries, documents, negatives, 2)
        queries, documents, negatives = autocast_features(queries, documents, negatives)
        positive = self.positives(queries, documents, own_documents(queries, documents, offset))
        negative = private_dots(upcast(queries), upcast(negatives)) / self.temperature
        return mean(softplus(negative - positive.unsqueeze(1)))

    def checked(self, queries: Tensor, documents: Tensor, offset: int) -> tuple[Tensor, Tensor, Tensor]:
        own = checked_batch(queries, documents, offset, 2)
        queries, documents = autocast_features(queries, documents)
        return queries, documents, own


class BiEncoderLoss(BiEncoderModule):
    """Cross-entropy of each query's own document among all."""

    def __init__(
        self,
        temperature: float = 0.02,
        pos_aware_negative_filtering: bool = False,
        max_batch_size: int = 1024,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            max_batch_size, temperature, filter_threshold, filter_factor,
            pos_aware_negative_filtering=pos_aware_negative_filtering, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        """offset: the number of the first query's document, where documents have been gathered."""
        queries, documents, own = self.checked(query_embeddings, doc_embeddings, offset)
        if not self.pos_aware_negative_filtering:
            return info_nce(
                queries, documents, temperature=self.temperature, key_offset=offset,
                memory_budget=self.memory_budget, backend=self.backend,
            )  # fmt: skip
        return mean(softplus(self.others(queries, documents, own, "lse") - self.positives(queries, documents, own)))


class BiPairedEncoderLoss(BiEncoderLoss):
    """The mean of both directions' cross-entropies. With pos_aware_negative_filtering the scores of all pairs are held,
    for what a query lowers is lowered in the other direction, too."""

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        alone("BiPairedEncoderLoss", query_embeddings, doc_embeddings, offset)
        queries, documents, own = self.checked(query_embeddings, doc_embeddings, offset)
        if not self.pos_aware_negative_filtering:
            return info_nce(
                queries, documents, temperature=self.temperature, symmetric=True, memory_budget=self.memory_budget,
                backend=self.backend,
            )  # fmt: skip
        scores = self.filtered(matmul(upcast(queries), upcast(documents).T), own) / self.temperature
        return 0.5 * mean(sum_of_both(scores, own))


def sum_of_both(scores: Tensor, own: Tensor) -> Tensor:
    return F.cross_entropy(scores, own, reduction="none") + F.cross_entropy(scores.T, own, reduction="none")


class BiPairwiseCELoss(BiEncoderLoss):
    """log(1 + e^((hardest negative - positive) / temperature))."""

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        """offset: 0; the package takes the first documents for the queries' own whatever it is."""
        if offset != 0:
            raise ValueError(f"offset must be 0 with BiPairwiseCELoss, got {offset}: the package does not look at it")
        queries, documents, own = self.checked(query_embeddings, doc_embeddings, offset)
        if documents.shape[0] < 2:
            raise ValueError(f"doc_embeddings must be 2 or more, got {documents.shape[0]}: there is no negative")
        hardest = self.others(queries, documents, own, "max")
        return mean(softplus(hardest - self.positives(queries, documents, own)))


class BiSigmoidLoss(BiEncoderLoss):
    """log(1 + e^(score / temperature)) of negatives, log(1 + e^(-score / temperature)) of positives, over all pairs."""

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        """Documents come in blocks of as many as there are queries, of which `offset` is the start of one."""
        queries, documents, own = self.checked(query_embeddings, doc_embeddings, offset)
        n, m = queries.shape[0], documents.shape[0]
        if n and (m % n or offset % n):
            raise ValueError(f"doc_embeddings and offset must be multiples of {n} queries, got {m} and {offset}")
        positives = softplus(-self.positives(queries, documents, own))
        return (self.others(queries, documents, own, "softplus") + positives).sum() / max(n * m, 1)


class BiNegativeCELoss(BiEncoderLoss):
    """Each query's own negatives, and with weight in_batch_term_weight BiEncoderLoss in the batch."""

    def __init__(
        self,
        temperature: float = 0.02,
        in_batch_term_weight: float = 0.5,
        pos_aware_negative_filtering: bool = False,
        max_batch_size: int = 1024,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        options = temperature, pos_aware_negative_filtering, max_batch_size, filter_threshold, filter_factor
        super().__init__(*options, memory_budget=memory_budget, backend=backend)
        self.in_batch_term_weight = weight_of_batch(in_batch_term_weight)
        self.inner_loss = BiEncoderLoss(*options, memory_budget=memory_budget, backend=backend)

    def forward(  # type: ignore[override]  # the package's arguments
        self, query_embeddings: Tensor, doc_embeddings: Tensor, neg_doc_embeddings: Tensor, offset: int = 0
    ) -> Tensor:
        loss = self.pairs(query_embeddings, doc_embeddings, neg_doc_embeddings, offset)
        in_batch = partial(self.inner_loss, query_embeddings, doc_embeddings, offset)
        return mixed(loss, in_batch, self.in_batch_term_weight)


class BiPairwiseNegativeCELoss(BiNegativeCELoss):
    """BiNegativeCELoss with BiPairwiseCELoss in the batch, and no filter."""

    def __init__(
        self,
        temperature: float = 0.02,
        in_batch_term_weight: float = 0.5,
        max_batch_size: int = 1024,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            temperature, in_batch_term_weight, False, max_batch_size, filter_threshold, filter_factor,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
        self.inner_loss = BiPairwiseCELoss(temperature, memory_budget=memory_budget, backend=backend)
