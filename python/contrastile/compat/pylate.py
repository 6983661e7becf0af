"""pylate's scores (`pylate` 1.6.0), for the `score_metric=` of its losses. The package itself is not imported.

    score(q, d) = sum_t m_t max_u <q_t, n_u d_u>

with the masks m of queries and n of documents: a masked document token counts as 0 in the maximum, as there.
"""

from __future__ import annotations

import os
from typing import Any, get_args

from torch import Tensor

from ..literals import BackendName
from ..ops import check
from .token_scores import as_tensor, of_all, of_own, padded

OTHER_KERNELS = ("flash", "lik")


def colbert_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Every query (Q, T, D) with every document (M, U, D): (Q, M), float32 (float64 for float64 embeddings).

    queries_mask, documents_mask: (Q, T), (M, U), numbers or bool, which multiply the tokens' scores. backend: as in
    contrastile.maxsim; None: the environment variable PYLATE_SCORES_BACKEND, or "auto".
    """
    return of_all(
        weighed(queries_embeddings, queries_mask), weighed(documents_embeddings, documents_mask), backend=named(backend)
    )


def colbert_kd_scores(
    queries_embeddings: Any,
    documents_embeddings: Any,
    queries_mask: Any = None,
    documents_mask: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Every query (Q, T, D) with documents of its own (Q, N, U, D): (Q, N); arguments as in colbert_scores."""
    return of_own(
        weighed(queries_embeddings, queries_mask), weighed(documents_embeddings, documents_mask), backend=named(backend)
    )


def colbert_scores_pairwise(queries_embeddings: Any, documents_embeddings: Any, backend: str | None = None) -> Tensor:
    """Query i (T, D) with document i (U, D): (Q,); lists may hold items of different lengths."""
    queries, query_mask = padded(queries_embeddings, None)
    documents, document_mask = padded(documents_embeddings, None)
    return of_own(queries, documents, query_mask=query_mask, document_mask=document_mask, backend=named(backend))


class ColBERTScores:
    """score_metric of Contrastive and CachedContrastive: (Q, T, D) and (M, N, U, D) to (Q, M N), group by group."""

    def __call__(
        self,
        queries_embeddings: Any,
        documents_embeddings: Any,
        queries_mask: Any = None,
        documents_mask: Any = None,
        backend: str | None = None,
    ) -> Tensor:
        documents = as_tensor(documents_embeddings)
        check.features("documents_embeddings", documents, ndim=4)
        return colbert_scores(queries_embeddings, documents, queries_mask, documents_mask, backend)

    def __repr__(self) -> str:
        return "ColBERTScores()"


def weighed(embeddings: Any, mask: Any) -> Tensor:
    """Tokens times their mask: so their scores are multiplied by it, also in gradients."""
    x = as_tensor(embeddings)
    if mask is None:
        return x
    found = as_tensor(mask).to(x.device)
    if found.shape != x.shape[:-1]:
        raise ValueError(f"masks must have the shape of tokens, {tuple(x.shape[:-1])}, got {tuple(found.shape)}")
    return x * found.to(x.dtype).unsqueeze(-1)


def named(backend: str | None) -> BackendName:
    name = os.environ.get("PYLATE_SCORES_BACKEND", "auto").lower() if backend is None else backend
    if name in OTHER_KERNELS:
        raise ValueError(f"backend {name!r} is another package's kernel: use pylate's own scores with it")
    check.choice("backend", name, get_args(BackendName))
    return name  # type: ignore[return-value]
