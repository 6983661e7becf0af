"""Scores for the `similarity_fct=` of losses of multi-vector encoders (sentence-transformers 6.2).

score(q, d) = sum_t max_u <q_t, d_u>        tokens that are masked take no part; without a mask, rows of zeros
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...losses import xtr_scores as scores_of_retrieved
from ...ops import check
from ..common import autocast_features
from ..token_scores import of_all, of_own, padded

EMPTY_DOCUMENT_SCORE = -1e9  # the package's, of a document without tokens


class Tokens:
    """Token embeddings, which of them count, and how much those of queries do."""

    def __init__(self, name: str, embeddings: Any, mask: Any) -> None:
        x, mask = padded(embeddings, mask)
        x = x if x.is_floating_point() else x.float()
        if mask is None:
            mask = x.detach().any(-1)
        mask = torch.as_tensor(mask, device=x.device)
        if mask.shape != x.shape[:-1]:
            raise ValueError(f"{name}_mask must have shape {tuple(x.shape[:-1])}, got {tuple(mask.shape)}")
        self.weights = None if mask.dtype == torch.bool else mask
        self.x: Tensor = x
        self.mask: Tensor = mask != 0

    def weighed(self) -> Tensor:
        """Of queries: a token's best score is multiplied by its mask."""
        found: Tensor = self.x if self.weights is None else self.x * self.weights.to(self.x.dtype).unsqueeze(-1)
        return found

    def count(self) -> Tensor:
        return self.mask.sum(-1).clamp_min(1)


def scored(how: Any, queries: Tokens, documents: Tokens, chunk_elements: int | None, length_normalize: bool) -> Tensor:
    if chunk_elements is not None and not chunk_elements > 0:
        raise ValueError(f"chunk_elements must be > 0, got {chunk_elements}")
    scores: Tensor = how(queries.weighed(), documents.x, query_mask=queries.mask, document_mask=documents.mask)
    empty = ~documents.mask.any(-1)  # (M, N) or (M,)
    scores = scores.masked_fill(empty if how is of_own else empty.flatten(), EMPTY_DOCUMENT_SCORE)
    if not length_normalize:
        return scores
    count = queries.count().to(scores.dtype)
    return scores / (count if scores.dim() == 1 else count.unsqueeze(1))


def colbert_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Every query (Q, T, D) with all documents of groups (M, N, U, D): (Q, M N), group by group.

    chunk_elements has no effect: token scores are never held. length_normalize: divided by the query's tokens.
    float32 (float64 for float64 embeddings). A document without tokens scores -1e9, before that division.
    """
    queries, documents = both(queries_embeddings, documents_embeddings, queries_mask, documents_mask, 4)
    return scored(of_all, queries, documents, chunk_elements, length_normalize)


def colbert_kd_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Every query (Q, T, D) with documents of its own (Q, N, U, D): (Q, N); arguments as in colbert_scores."""
    queries, documents = both(queries_embeddings, documents_embeddings, queries_mask, documents_mask, 4)
    return scored(of_own, queries, documents, chunk_elements, length_normalize)


def colbert_scores_pairwise(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Query i with document i, (Q, T, D) and (Q, U, D), or lists of items of any length: (Q,)."""
    queries, documents = both(queries_embeddings, documents_embeddings, queries_mask, documents_mask, 3)
    return scored(of_own, queries, documents, chunk_elements, length_normalize)


def both(queries: Any, documents: Any, queries_mask: Any, documents_mask: Any, ndim: int) -> tuple[Tokens, Tokens]:
    found = Tokens("queries", queries, queries_mask), Tokens("documents", documents, documents_mask)
    check.features("queries_embeddings", found[0].x, ndim=3)
    check.features("documents_embeddings", found[1].x, ndim=ndim)
    return found


def mean_of(function: Any, name: str, text: str) -> Any:
    """The same with length_normalize=True by default."""

    def mean(
        queries_embeddings: Any,
        documents_embeddings: Any,
        queries_mask: Any = None,
        documents_mask: Any = None,
        chunk_elements: int | None = None,
        length_normalize: bool = True,
    ) -> Tensor:
        found: Tensor = function(
            queries_embeddings, documents_embeddings, queries_mask, documents_mask, chunk_elements, length_normalize
        )
        return found

    mean.__name__ = mean.__qualname__ = name
    mean.__doc__ = text
    return mean


mean_colbert_scores = mean_of(colbert_scores, "mean_colbert_scores", "colbert_scores, per token of the query.")
mean_colbert_kd_scores = mean_of(colbert_kd_scores, "mean_colbert_kd_scores", "colbert_kd_scores, per query token.")
mean_colbert_scores_pairwise = mean_of(
    colbert_scores_pairwise, "mean_colbert_scores_pairwise", "colbert_scores_pairwise, per token of the query."
)


def xtr_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """colbert_scores from those tokens alone that each query token retrieves among all documents, as in
    contrastile.xtr_scores."""
    queries, documents = both(queries_embeddings, documents_embeddings, queries_mask, documents_mask, 4)
    return scored(partial(retrieved, top_k=top_k), queries, documents, chunk_elements, False)


def retrieved(queries: Tensor, documents: Tensor, *, document_mask: Tensor, top_k: int, **options: Any) -> Tensor:
    queries, documents = autocast_features(queries, documents.flatten(0, 1))
    return scores_of_retrieved(queries, documents, top_k, document_mask=document_mask.flatten(0, 1), **options)


def xtr_kd_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """xtr_scores of each query's own documents, (Q, N); tokens are retrieved among those of all."""
    scores = xtr_scores(queries_embeddings, documents_embeddings, queries_mask, documents_mask, top_k, chunk_elements)
    n = scores.shape[0]
    if len(documents_embeddings) != n:
        raise ValueError(f"documents_embeddings must be those of {n} queries, got those of {len(documents_embeddings)}")
    own: Tensor = scores.unflatten(1, (n, -1)).diagonal().T if n else scores
    return own


def xtr_scores_pairwise(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """xtr_kd_scores of one document a query, (Q, U, D): (Q,)."""
    documents, mask = padded(documents_embeddings, documents_mask)
    groups = documents.unsqueeze(1), None if mask is None else mask.unsqueeze(1)
    return xtr_kd_scores(queries_embeddings, groups[0], queries_mask, groups[1], top_k, chunk_elements).squeeze(1)


class XTRScores:
    """xtr_scores with its options."""

    def __init__(self, top_k: int = 256, *, chunk_elements: int | None = None) -> None:
        self.top_k = top_k
        self.chunk_elements = chunk_elements

    def get_config_dict(self) -> dict[str, int | None]:
        return {"top_k": self.top_k, "chunk_elements": self.chunk_elements}

    def __call__(
        self,
        queries_embeddings: Any,
        documents_embeddings: Any,
        queries_mask: Any = None,
        documents_mask: Any = None,
    ) -> Tensor:
        return self.scores(
            queries_embeddings, documents_embeddings, queries_mask, documents_mask, self.top_k, self.chunk_elements
        )

    scores = staticmethod(xtr_scores)


class XTRKDScores(XTRScores):
    """xtr_kd_scores with its options."""

    scores = staticmethod(xtr_kd_scores)
