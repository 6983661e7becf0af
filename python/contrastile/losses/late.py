"""Late interaction: a score of two sets of token embeddings, as ColBERT, FILIP and CLaMR have it."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from ..literals import BackendName, SegmentReduceName
from ..ops import check, own_segment_reduce, segment_reduce
from ..ranks import Group, collective
from .tokens import OverTokens, by_modality, over_tokens, tokens_of


@collective
def maxsim(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    query_offsets: Tensor | None = None,
    document_offsets: Tensor | None = None,
    reduce: OverTokens = "sum",
    document_reduce: SegmentReduceName = "max",
    sharpness: float | Tensor = 1.0,
    keep_argmax: bool = True,
    normalize: bool = False,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Scores of all queries with all documents: every query token counts its best document token.

        score_nm = sum_t max_u <queries_nt, documents_mu>

    t runs over the tokens of query n, u over those of document m. The score is not symmetric: for documents against
    queries, call maxsim(documents, queries). It is not a loss yet: F.cross_entropy(score / temperature,
    torch.arange(N)) makes one of it.

    Args:
        queries: (N, T, D), token embeddings; unit, or set normalize=True.
        documents: (M, U, D), likewise.
        query_mask: (N, T) bool, True = a token, False = padding; None: all are tokens. Any token may be padding, not
            only the last; its numbers have no effect, even NaN, and it gets no gradient.
        document_mask: (M, U) bool, likewise.
        query_offsets: (N + 1,) integers: queries are packed, (all tokens, D), without padding; query n has the tokens
            from query_offsets[n] to query_offsets[n + 1]. The mask is then (all tokens,). On a GPU the values are not
            checked, see `segment_reduce`.
        document_offsets: (M + 1,) integers, the same for documents.
        reduce: "sum" (ColBERT) or "mean" (FILIP) over query tokens.
        document_reduce: Over document tokens: "max", or a smooth maximum, "lse" or "softmax_mean", as `segment_reduce`
            defines them.
        sharpness: Of "lse" and "softmax_mean": a number or a 0-dim tensor, which may be learned.
        keep_argmax: False finds maxima again in the backward pass instead of keeping an int32 per value.
        normalize: Scale token embeddings to unit length first.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: documents come from all ranks,
            in rank order, and scores are (N, documents of all ranks). The diagonal then begins at the number of
            documents on the ranks before.

    Returns: (N, M), float32 (float64 for float64 features), differentiable once. A document without tokens scores -inf,
    a query without tokens 0.

    Cost: 2 N T M U D FLOP forward, 4 N T M U D backward, padding included; nothing waits for a GPU. Memory: 8 N T M
    bytes, not N T M U numbers. Pack documents of very different lengths.

    Example:
        >>> maxsim(torch.randn(3, 4, 8), torch.randn(5, 7, 8), normalize=True).shape
        torch.Size([3, 5])

    Source: Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, eq. 3; "mean": Yao et al. 2022,
    https://arxiv.org/abs/2111.07783, eq. 4 and 5.
    """
    q = tokens_of("queries", queries, query_mask, query_offsets, normalize)
    d = tokens_of("documents", documents, document_mask, document_offsets, normalize)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    best = segment_reduce(
        q.features, d.features, d.segments, mask=d.mask, reduce=document_reduce, sharpness=sharpness,
        keep_argmax=keep_argmax, backend=backend, group=group,
    )  # fmt: skip
    return over_tokens(best, q, reduce)


@collective
def modality_maxsim(
    queries: Tensor,
    documents: Tensor,
    modalities: Tensor,
    num_modalities: int,
    *,
    query_mask: Tensor | None = None,
    reduce: OverTokens = "sum",
    document_reduce: SegmentReduceName = "max",
    sharpness: float | Tensor = 1.0,
    keep_argmax: bool = True,
    normalize: bool = False,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Scores of all queries with every modality of all documents, where `maxsim` scores whole documents.

        score_nms = sum_t max { <queries_nt, documents_mu> : modalities_mu = s }

    score.amax(2) is CLaMR's score, that of the one modality that answers the whole query best.

    Args:
        queries: (N, T, D), token embeddings; unit, or set normalize=True.
        documents: (M, U, D), likewise.
        modalities: (M, U) integers, the modality of every document token, from 0 to num_modalities - 1, in any order.
            Other values mark padding, which counts nowhere.
        num_modalities: S, the same on all ranks.
        query_mask: (N, T) bool, True = a token; None: all are tokens.
        reduce: "sum" or "mean" over query tokens.
        document_reduce: Over document tokens: "max", "lse", or "softmax_mean", as `segment_reduce` defines them.
        sharpness: Of "lse" and "softmax_mean": a number or a 0-dim tensor, which may be learned.
        keep_argmax: False finds maxima again in the backward pass instead of keeping an int32 per value.
        normalize: Scale token embeddings to unit length first.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: documents come from all ranks,
            in rank order.

    Returns: (N, M, S), float32 (float64 for float64 features), differentiable once. A modality that a document lacks
    scores -inf, a query without tokens 0.

    Cost: that of `maxsim`, and a copy of the documents sorted by modality.

    Example:
        >>> kinds = torch.tensor([0, 0, 1, 2, 1]).expand(6, 5)
        >>> modality_maxsim(torch.randn(3, 4, 8), torch.randn(6, 5, 8), kinds, 3).shape
        torch.Size([3, 6, 3])

    Source: Wan et al. 2025, https://arxiv.org/abs/2506.06144, eq. 1 and 2. The official code (meetdavidwan/clamr) takes
    means over query tokens, and counts padding of documents as a modality whose score is 0.
    """
    q = tokens_of("queries", queries, query_mask, None, normalize)
    d = by_modality(documents, modalities, num_modalities, normalize)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    best = segment_reduce(
        q.features, d.features, d.segments, reduce=document_reduce, sharpness=sharpness, keep_argmax=keep_argmax,
        backend=backend, group=group,
    )  # fmt: skip
    scores: Tensor = over_tokens(best, q, reduce).unflatten(1, (best.shape[1] // num_modalities, num_modalities))
    return scores


def maxsim_candidates(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_offsets: Tensor | None = None,
    reduce: OverTokens = "sum",
    document_reduce: SegmentReduceName = "max",
    sharpness: float | Tensor = 1.0,
    keep_argmax: bool = True,
    normalize: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """Scores of every query with K documents of its own, for reranking and distillation. K = 1 scores pairs.

        score_nk = sum_t max_u <queries_nt, documents_nku>

    Args:
        queries: (N, T, D), token embeddings; unit, or set normalize=True.
        documents: (N, K, U, D), likewise.
        query_mask: (N, T) bool, True = a token; None: all are tokens.
        document_mask: (N, K, U) bool, True = a token. A candidate that is all padding is missing, and scores -inf.
        document_offsets: (N K + 1,) integers: documents are packed, (all tokens, D), the candidates of a query side by
            side and without padding; the mask is then (all tokens,). They are read on the host.
        reduce: "sum" or "mean" over query tokens.
        document_reduce: Over document tokens: "max", "lse", or "softmax_mean", as `segment_reduce` defines them.
        sharpness: Of "lse" and "softmax_mean": a number or a 0-dim tensor, which may be learned.
        keep_argmax: False finds maxima again in the backward pass instead of keeping an int32 per value.
        normalize: Scale token embeddings to unit length first.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.

    Returns: (N, K), float32 (float64 for float64 features), differentiable once.

    Cost: that of `maxsim` with K documents in place of M; on a GPU each query is a launch of its own.

    Example:
        >>> maxsim_candidates(torch.randn(3, 4, 8), torch.randn(3, 2, 7, 8), normalize=True).shape
        torch.Size([3, 2])

    Source: Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, eq. 3; candidates of a query: Santhanam et al.
    2022, https://arxiv.org/abs/2112.01488, section 3.2.
    """
    q = tokens_of("queries", queries, query_mask, None, normalize)
    n, count = queries.shape[0], None
    if document_offsets is None:
        check.features("documents", documents, ndim=4)
        if documents.shape[0] != n:
            raise ValueError(f"documents must be those of {n} queries, got {tuple(documents.shape)}")
        if document_mask is not None:
            check.bool_mask("document_mask", document_mask, tuple(documents.shape[:3]), documents.device)
            document_mask = document_mask.flatten(0, 1)
        count, documents = documents.shape[1], documents.flatten(0, 1)
    d = tokens_of("documents", documents, document_mask, document_offsets, normalize)
    if d.items % max(n, 1):
        raise ValueError(f"document_offsets must be of equally many documents for {n} queries, got {d.items}")
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    best = own_segment_reduce(
        q.features, d.features, d.segments, n, mask=d.mask, reduce=document_reduce, sharpness=sharpness,
        keep_argmax=keep_argmax, backend=backend,
    )  # fmt: skip
    # without queries the segments do not say how many candidates each has
    return over_tokens(best, q, reduce).reshape(n, d.items // max(n, 1) if count is None else count)
