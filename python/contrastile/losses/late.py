"""Late interaction: a score of two sets of token embeddings, as ColBERT and FILIP have it."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import check, segment_max
from .common import unit

OverTokens: TypeAlias = Literal["sum", "mean"]


def maxsim(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    reduce: OverTokens = "sum",
    normalize: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """Scores of all queries with all documents: every query token counts its best document token.

        score_nm = sum_t max_u <queries_nt, documents_mu>

    t runs over the tokens of query n, u over those of document m. The score is not symmetric: that of documents for
    queries is maxsim(documents, queries). It is no loss yet; F.cross_entropy(score / temperature, torch.arange(N))
    makes one of it. There is no `group`: across processes, gather the documents with gradient before the call.

    Args:
        queries: (N, T, D) token embeddings, unit-norm unless normalize=True. documents: (M, U, D).
        query_mask: (N, T) bool, True = a token, False = padding. document_mask: (M, U) bool. Any token may be padding,
            not only the last; its numbers have no effect, also where they are NaN, and it gets no gradient. None:
            all are tokens.
        reduce: "sum" over query tokens (ColBERT), or "mean" (FILIP).

    Returns: (N, M), float32 (float64 for float64 features), differentiable once. A document without tokens scores
    -inf, a query without tokens 0.

    Cost: 2 N T M U D forward, 4 N T M U D backward, padding included; nothing waits for a GPU. Memory: 8 N T M bytes,
    not N T M U numbers. Documents of very different lengths are better packed: `segment_max`.

    Source: Khattab and Zaharia 2020 (arXiv 2004.12832), eq. 3; "mean": Yao et al. 2022 (arXiv 2111.07783), eq. 4 and 5.
    """
    check.features("queries", queries, ndim=3)
    check.features("documents", documents, ndim=3)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    n, tokens = queries.shape[:2]
    m, length = documents.shape[:2]
    queries = _kept("query_mask", query_mask, queries)
    documents = _kept("document_mask", document_mask, documents)
    best = segment_max(
        unit(queries, normalize).flatten(0, 1),
        unit(documents, normalize).flatten(0, 1),
        length or torch.zeros(m + 1, dtype=torch.int64, device=documents.device),
        mask=None if document_mask is None else document_mask.flatten(),
        backend=backend,
    )
    scores: Tensor = best.view(n, tokens, m).sum(1)  # padding of queries is zeros by now, and adds their score, 0
    if query_mask is None:
        return scores / max(tokens, 1) if reduce == "mean" else scores
    count = query_mask.sum(1, keepdim=True)
    scores = scores.masked_fill(count == 0, 0.0)  # the maximum of an empty document must not enter an empty sum
    return scores / count.clamp_min(1) if reduce == "mean" else scores


def _kept(name: str, mask: Tensor | None, x: Tensor) -> Tensor:
    """Padding as zeros, which also keeps its numbers out of every gradient."""
    if mask is None:
        return x
    return x.masked_fill(~check.bool_mask(name, mask, tuple(x.shape[:2]), x.device).unsqueeze(2), 0.0)
