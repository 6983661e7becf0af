"""Late interaction: a score of two sets of token embeddings, as ColBERT, FILIP and CLaMR have it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName, SegmentReduceName
from ..ops import check, offsets_of, ordered, own_segment_reduce, segment_reduce
from ..ranks import Group, collective
from .common import cleaned, unit

OverTokens: TypeAlias = Literal["sum", "mean"]


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

    t runs over the tokens of query n, u over those of document m. The score is not symmetric: that of documents for
    queries is maxsim(documents, queries). It is no loss yet; F.cross_entropy(score / temperature, torch.arange(N))
    makes one of it.

    Args:
        queries: (N, T, D) token embeddings, unit-norm unless normalize=True. documents: (M, U, D).
        query_mask: (N, T) bool, True = a token, False = padding. document_mask: (M, U) bool. Any token may be padding,
            not only the last; its numbers have no effect, also where they are NaN, and it gets no gradient. None:
            all are tokens.
        query_offsets: (N + 1,) integers: queries are then (all tokens, D), those of a query side by side and without
            padding, from query_offsets[n] to query_offsets[n + 1]; the mask is (all tokens,). document_offsets: the
            same of documents. On a GPU they are not looked at, see `segment_reduce`.
        reduce: "sum" over query tokens (ColBERT), or "mean" (FILIP).
        document_reduce: over document tokens, "max", or in its place "lse" or "softmax_mean" with a sharpness, a number
            or a 0-dim tensor, as `segment_reduce` defines them.
        keep_argmax: see `segment_reduce`.
        group: documents are those of all ranks, in the order of ranks, and scores (N, documents of all ranks); see
            `segment_reduce`. The diagonal then begins at the number of documents of the ranks before.

    Returns: (N, M), float32 (float64 for float64 features), differentiable once. A document without tokens scores
    -inf, a query without tokens 0.

    Cost: 2 N T M U D forward, 4 N T M U D backward, padding included; nothing waits for a GPU. Memory: 8 N T M bytes,
    not N T M U numbers. Documents of very different lengths are better packed.

    Example:
        >>> contrastile.maxsim(torch.randn(3, 4, 8), torch.randn(5, 7, 8), normalize=True).shape
        torch.Size([3, 5])

    Source: Khattab and Zaharia 2020 (arXiv 2004.12832), eq. 3; "mean": Yao et al. 2022 (arXiv 2111.07783), eq. 4 and 5.
    """
    q = _tokens("queries", queries, query_mask, query_offsets, normalize)
    d = _tokens("documents", documents, document_mask, document_offsets, normalize)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    best = segment_reduce(
        q.features, d.features, d.segments, mask=d.mask, reduce=document_reduce, sharpness=sharpness,
        keep_argmax=keep_argmax, backend=backend, group=group,
    )  # fmt: skip
    return _over_tokens(best, q, reduce)


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
    """Scores of all queries with every modality of all documents, as `maxsim` has them with whole documents.

        score_nms = sum_t max { <queries_nt, documents_mu> : modalities_mu = s }

    score.amax(2) is CLaMR's score, of the one modality that answers the whole query best.

    Args:
        modalities: (M, U) integers, the modality of every document token, from 0 to num_modalities - 1, in any order;
            others are padding, which counts nowhere.

        All others: see `maxsim`. With group all ranks give the same num_modalities.

    Returns: (N, M, S), S = num_modalities, float32 (float64 for float64 features), differentiable once. A modality
    that a document lacks scores -inf, a query without tokens 0.

    Cost: that of `maxsim`, and a copy of the documents sorted by modality.

    Example:
        >>> kinds = torch.tensor([0, 0, 1, 2, 1]).expand(6, 5)
        >>> contrastile.modality_maxsim(torch.randn(3, 4, 8), torch.randn(6, 5, 8), kinds, 3).shape
        torch.Size([3, 6, 3])

    Source: Wan et al. 2025 (arXiv 2506.06144), eq. 1 and 2. The official code (meetdavidwan/clamr) takes means over
    query tokens, and counts padding of documents as a modality whose score is 0.
    """
    q = _tokens("queries", queries, query_mask, None, normalize)
    d = _by_modality(documents, modalities, num_modalities, normalize)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)
    check.choice("reduce", reduce, get_args(OverTokens))
    best = segment_reduce(
        q.features, d.features, d.segments, reduce=document_reduce, sharpness=sharpness, keep_argmax=keep_argmax,
        backend=backend, group=group,
    )  # fmt: skip
    scores: Tensor = _over_tokens(best, q, reduce).unflatten(1, (best.shape[1] // num_modalities, num_modalities))
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
    """Scores of every query with K documents of its own, for reranking and distillation; K = 1: of pairs.

        score_nk = sum_t max_u <queries_nt, documents_nku>

    Args:
        queries: (N, T, D). documents: (N, K, U, D).
        query_mask: (N, T) bool, True = a token. document_mask: (N, K, U) bool; a candidate that is all padding is
            missing, and scores -inf.
        document_offsets: (N K + 1,) integers: documents are then (all tokens, D), those of a query's candidates side by
            side and without padding; the mask is (all tokens,). They are read on the host.

        All others: see `maxsim`.

    Returns: (N, K), float32 (float64 for float64 features), differentiable once.

    Cost: that of `maxsim` with K documents in place of M; each query is a launch of its own on a GPU.

    Example:
        >>> contrastile.maxsim_candidates(torch.randn(3, 4, 8), torch.randn(3, 2, 7, 8), normalize=True).shape
        torch.Size([3, 2])

    Source: as `maxsim`; the candidates of a query: Santhanam et al. 2022 (arXiv 2112.01488), section 3.2.
    """
    q = _tokens("queries", queries, query_mask, None, normalize)
    n, count = queries.shape[0], None
    if document_offsets is None:
        check.features("documents", documents, ndim=4)
        if documents.shape[0] != n:
            raise ValueError(f"documents must be those of {n} queries, got {tuple(documents.shape)}")
        if document_mask is not None:
            check.bool_mask("document_mask", document_mask, tuple(documents.shape[:3]), documents.device)
            document_mask = document_mask.flatten(0, 1)
        count, documents = documents.shape[1], documents.flatten(0, 1)
    d = _tokens("documents", documents, document_mask, document_offsets, normalize)
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
    return _over_tokens(best, q, reduce).reshape(n, d.items // max(n, 1) if count is None else count)


class _Tokens(NamedTuple):
    """Tokens of all items, one item after the other."""

    features: Tensor  # (all tokens, D), zeros for padding and what no item has: its numbers reach no gradient
    mask: Tensor | None  # (all tokens,)
    segments: int | Tensor  # what segment_reduce takes: tokens of every item, or offsets
    items: int


def _tokens(name: str, x: Tensor, mask: Tensor | None, offsets: Tensor | None, normalize: bool) -> _Tokens:
    check.features(name, x, ndim=3 if offsets is None else 2)
    one = name.removesuffix("s").replace("querie", "query")
    if mask is not None:
        check.bool_mask(f"{one}_mask", mask, tuple(x.shape[:-1]), x.device)
    if offsets is not None:
        bounds = ordered(f"{one}_offsets", offsets_of(f"{one}_offsets", offsets, x)[0], x.shape[0])
        inside = _inside(bounds, x)
        some = mask if inside is None else inside if mask is None else mask & inside
        return _Tokens(unit(cleaned(x, some), normalize), mask, bounds, len(bounds) - 1)
    x = unit(cleaned(x, mask), normalize)
    items, length = x.shape[:2]
    flat = None if mask is None else mask.flatten()
    segments = length or torch.zeros(items + 1, dtype=torch.int64, device=x.device)
    return _Tokens(x.flatten(0, 1), flat, segments, items)


def _inside(bounds: Tensor, x: Tensor) -> Tensor | None:
    """(all tokens,): which ones lie in an item; None: all, where offsets can be read."""
    if x.device.type == "cpu" and check.plain(x) and bounds[[0, -1]].tolist() == [0, x.shape[0]]:
        return None
    place = torch.arange(x.shape[0], device=x.device)
    return (place >= bounds[0]) & (place < bounds[-1])


def _over_tokens(best: Tensor, queries: _Tokens, reduce: OverTokens) -> Tensor:
    """(tokens, M) to (N, M). Padding adds nothing, also where a document is empty."""
    mask = queries.mask
    if mask is not None:
        best = best.masked_fill(~mask.unsqueeze(1), 0.0)
    total = _total(best, queries)
    if reduce == "sum":
        return total
    ones = mask if mask is not None else torch.ones(best.shape[0], dtype=torch.bool, device=best.device)
    return total / _total(ones.to(best.dtype).unsqueeze(1), queries).clamp_min(1.0)


def _total(x: Tensor, queries: _Tokens) -> Tensor:
    """Of every query's rows of x."""
    segments = queries.segments
    if not isinstance(segments, Tensor):
        found: Tensor = x.unflatten(0, (queries.items, segments)).sum(1)
        return found
    token = torch.arange(x.shape[0], device=x.device)
    owner = torch.searchsorted(segments, token, right=True) - 1
    owner = torch.where((owner < 0) | (owner >= queries.items), queries.items, owner)  # a row more, for nobody's
    zeros = x.new_zeros(queries.items + 1, x.shape[1])
    if x.device.type == "cpu":
        return zeros.index_add(0, owner, x)[: queries.items]
    return zeros.index_put((owner,), x, accumulate=True)[: queries.items]  # index_add adds in any order there


def _by_modality(documents: Tensor, modalities: Tensor, count: int, normalize: bool) -> _Tokens:
    """Tokens of all documents, each modality of a document an item; padding comes last, in none."""
    check.features("documents", documents, ndim=3)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"num_modalities must be an int >= 1, got {count!r}")
    if check.tensor("modalities", modalities).shape != documents.shape[:2]:
        raise ValueError(f"modalities must have shape {tuple(documents.shape[:2])}, got {tuple(modalities.shape)}")
    kind = check.ids("modalities", modalities.flatten(), modalities.numel(), documents.device)
    items = documents.shape[0]
    owner = torch.arange(items, device=kind.device).repeat_interleave(documents.shape[1])
    known = (kind >= 0) & (kind < count)
    found, order = torch.where(known, owner * count + kind, items * count).sort(stable=True)
    bounds = torch.searchsorted(found, torch.arange(items * count + 1, device=kind.device))
    x = unit(cleaned(documents.flatten(0, 1), known), normalize)
    return _Tokens(x.index_select(0, order), None, bounds, items * count)
