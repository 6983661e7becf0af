"""XTR: scores of the document tokens that a query's tokens would have retrieved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import check, matmul, segment_reduce
from .common import upcast
from .tokens import Tokens, tokens_of, total_of

WORKSPACE = 32 << 20  # bytes of scores that are made at a time where only the largest are looked for


def xtr_scores(
    queries: Tensor,
    documents: Tensor,
    top_k: int,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_offsets: Tensor | None = None,
    normalize: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """Scores of all queries with all documents, from only those tokens that each query token retrieves.

        score_nm = 1 / Z_nm sum_t [r_ntm] max_u <queries_nt, documents_mu>,   Z_nm = sum_t [r_ntm]
        r_ntm: a token of document m is among the top_k of query token t over the tokens of all documents

    Args:
        queries: (N, T, D), token embeddings; unit, or set normalize=True.
        documents: (M, U, D), likewise.
        top_k: How many tokens each query token retrieves, >= 1. Tokens that tie with the last of them (to rounding) are
            retrieved too.
        query_mask: (N, T) bool, True = a token; None: all are tokens.
        document_mask: (M, U) bool, likewise.
        document_offsets: (M + 1,) integers: documents are packed, (all tokens, D), without padding; the mask is then
            (all tokens,).
        normalize: Scale token embeddings to unit length first.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.

    Returns: (N, M), float32 (float64 for float64 features), differentiable once. Only retrieved pairs have a gradient;
    none flows through the choice. A document of which nothing is retrieved scores 0, as does an empty one.

    Cost: that of maxsim, and one more product of all tokens. Holds the top_k + 1 largest scores of each query token.

    Example:
        >>> xtr_scores(torch.randn(3, 4, 8), torch.randn(5, 7, 8), 6, normalize=True).shape
        torch.Size([3, 5])

    Source: Lee et al. 2023 (XTR), https://arxiv.org/abs/2304.01982, eq. 3. The official score has 0 in place of what is
    not retrieved, so that a negative maximum counts as 0; here it counts as it is.
    """
    q = tokens_of("queries", queries, query_mask, None, normalize)
    d = tokens_of("documents", documents, document_mask, document_offsets, normalize)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    limits = retrieval_limits(q.features, d, checked_top_k(top_k))
    return scores_above(q, d, limits, backend)


def checked_top_k(top_k: int, name: str = "top_k") -> int:
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise TypeError(f"{name} must be an int, got {type(top_k).__name__}")
    if top_k < 1:
        raise ValueError(f"{name} must be >= 1, got {top_k}")
    return top_k


def scores_above(queries: Tokens, documents: Tokens, limits: Tensor, backend: BackendName) -> Tensor:
    """(N, M): the mean over those query tokens whose largest score in a document reaches their limit."""
    best = segment_reduce(
        queries.features, documents.features, documents.segments, mask=documents.mask, backend=backend
    )
    found = ~(best < limits[:, None]) & (best != -torch.inf)  # NaN is kept
    if queries.mask is not None:
        found = found & queries.mask[:, None]
    total = total_of(torch.where(found, best, 0.0), queries)
    return total / total_of(found.to(best.dtype), queries).clamp_min(1.0)


@torch.no_grad()
def retrieval_limits(rows: Tensor, documents: Tokens, top_k: int) -> Tensor:
    """What the top_k scores of each row reach: half way to the next, for kernels round differently; -inf where there
    are no more."""
    rows, cols, mask = upcast(rows.detach()), upcast(documents.features.detach()), documents.mask
    if check.plain(rows):  # a graph serves any number of columns
        top_k = min(top_k, max(cols.shape[0], 1))
    if isinstance(documents.segments, Tensor):
        place = torch.arange(cols.shape[0], device=cols.device)
        inside = (place >= documents.segments[0]) & (place < documents.segments[-1])
        mask = inside if mask is None else mask & inside
    each = max(WORKSPACE // (max(rows.shape[0], 1) * rows.element_size()), top_k + 1)
    if not check.plain(rows):
        each = cols.shape[0]
    found = rows.new_full((rows.shape[0], top_k + 1), -torch.inf)
    place = torch.zeros(found.shape, dtype=torch.int64, device=rows.device)
    for start in range(0, cols.shape[0], max(each, 1)):
        scores = matmul(rows, cols[start : start + each].T)
        if mask is not None:
            scores = torch.where(mask[start : start + each], scores, -torch.inf)
        found, at = torch.cat([found, scores], 1).topk(top_k + 1, dim=1)
        place = torch.where(at > top_k, start + at - (top_k + 1), place.gather(1, at.clamp_max(top_k)))
    last, following = found[:, -2], found[:, -1]
    # scores that differ by a few roundings are equal
    lengths = cols.norm(dim=1)[place[:, -2:]].amax(1) if cols.shape[0] else 0.0
    least = 8.0 * torch.finfo(rows.dtype).eps * rows.norm(dim=1) * lengths
    limits: Tensor = torch.where(last - following > 2.0 * least, last + 0.5 * (following - last), following - least)
    return torch.where(following == -torch.inf, following, limits)
