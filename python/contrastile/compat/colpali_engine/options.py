"""What the losses share: options, the documents that belong to queries, the mix with in-batch terms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...literals import BackendName
from ...ops import EngineOptions, check


class Loss(nn.Module):
    """Options of all losses.

    temperature: divides scores. pos_aware_negative_filtering: in-batch negatives whose score is above filter_threshold
    times the positive's are multiplied by filter_factor. max_batch_size has no effect: there is no buffer of indices.
    """

    def __init__(
        self, temperature: float, filtering: bool, threshold: float, factor: float, memory_budget: int | None,
        backend: BackendName,
    ) -> None:  # fmt: skip
        super().__init__()
        check.scalar("temperature", temperature, positive=True)
        if filtering and not factor > 0.0:
            raise ValueError(f"filter_factor must be > 0, got {factor}: no order of scores is left")
        EngineOptions.of(memory_budget, backend)
        self.temperature = temperature
        self.pos_aware_negative_filtering = filtering
        self.filter_threshold = threshold
        self.filter_factor = factor
        self.memory_budget = memory_budget
        self.backend = backend

    def filtered(self, scores: Tensor, own: Tensor) -> Tensor:
        """Scores (B, C), those of too good negatives lowered. own: (B,) the column of each positive."""
        if not self.pos_aware_negative_filtering:
            return scores
        own = own.unsqueeze(1)
        limit = self.filter_threshold * scores.detach().gather(1, own)
        high = (scores.detach() > limit).scatter(1, own, False)
        return torch.where(high, scores * self.filter_factor, scores)

    def extra_repr(self) -> str:
        names = ("temperature", "pos_aware_negative_filtering")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def own_documents(queries: Tensor, documents: Tensor, offset: int) -> Tensor:
    """(B,) the row of documents (C, ..) that belongs to each query: those from `offset` on."""
    check.same_device("doc_embeddings", documents, queries.device)
    n, m = queries.shape[0], documents.shape[0]
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= m - n:
        raise ValueError(
            f"offset must be an int from 0 to {m - n}, for {n} queries and {m} documents, got {offset!r}"
            if m >= n
            else f"doc_embeddings must be those of {n} queries or more, got {m}"
        )
    return torch.arange(offset, offset + n, device=queries.device)


def checked_batch(queries: Tensor, documents: Tensor, offset: int, ndim: int) -> Tensor:
    """own_documents of queries (B, .., D) and documents (C, .., D), which are looked at."""
    check.features("query_embeddings", queries, ndim=ndim)
    check.features("doc_embeddings", documents, ndim=ndim)
    check.same_width("doc_embeddings", documents, "query_embeddings", queries)
    return own_documents(queries, documents, offset)


def checked_pairs(queries: Tensor, documents: Tensor, negatives: Tensor, ndim: int) -> None:
    """Queries (B, .., D), documents (C, .., D), and negatives of each query's own, (B, N, .., D)."""
    check.features("query_embeddings", queries, ndim=ndim)
    check.features("doc_embeddings", documents, ndim=ndim)
    check.features("neg_doc_embeddings", negatives, ndim=ndim + 1)
    for name, x in (("doc_embeddings", documents), ("neg_doc_embeddings", negatives)):
        check.same_width(name, x, "query_embeddings", queries)
        check.same_device(name, x, queries.device)
    if negatives.shape[0] != queries.shape[0]:
        raise ValueError(
            f"neg_doc_embeddings must be those of {queries.shape[0]} queries, got {tuple(negatives.shape)}"
        )


def alone(name: str, queries: Tensor, documents: Tensor, offset: int) -> None:
    """For losses that the package defines for the documents of this process's queries alone."""
    check.tensor("query_embeddings", queries)
    if offset != 0 or check.tensor("doc_embeddings", documents).shape[0] != queries.shape[0]:
        raise ValueError(
            f"{name} takes as many documents as queries and offset=0, got {documents.shape[0]} documents of "
            f"{queries.shape[0]} queries and offset={offset}"
        )


def weight_of_batch(weight: float) -> float:
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"in_batch_term_weight must be from 0 to 1, got {weight}")
    return weight


def mixed(loss: Tensor, in_batch: Callable[[], Tensor], weight: float) -> Tensor:
    """in_batch is not asked for a term without weight."""
    return loss * (1.0 - weight) + in_batch() * weight if weight > 0.0 else loss


def mean(rows: Tensor) -> Tensor:
    """0 of nothing."""
    return rows.sum() / max(rows.numel(), 1)
