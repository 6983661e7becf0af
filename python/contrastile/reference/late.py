"""Late interaction: scores of sets of token embeddings, and the reduces over tokens that they are made of."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ._dense import unit


def over_tokens(z: Tensor, mask: Tensor, reduce: str = "max", sharpness: float | Tensor = 1.0) -> Tensor:
    """Reduces the last dimension of z where the mask, which broadcasts, is True; -inf where it nowhere is.

        "max"           max_u z_u
        "lse"           log(sum_u exp(sharpness z_u)) / sharpness
        "softmax_mean"  sum_u softmax_u(sharpness z_u) z_u

    Of equal numbers the first is the maximum.
    """
    if z.shape[-1] == 0:
        return z.sum(-1) - torch.inf
    kept = mask.expand(z.shape)
    none = ~kept.any(-1)
    z = z.masked_fill(~kept, 0.0)
    # what is empty gets numbers, lest its gradient be none
    t = (sharpness * z).masked_fill(~(kept | none.unsqueeze(-1)), -torch.inf)
    if reduce == "max":
        found = z.masked_fill(~(kept | none.unsqueeze(-1)), -torch.inf).max(-1).values
    elif reduce == "lse":
        found = t.logsumexp(-1) / sharpness
    elif reduce == "softmax_mean":
        found = (t.softmax(-1) * z).sum(-1)
    else:
        raise ValueError(f"document_reduce must be 'max', 'lse' or 'softmax_mean', got {reduce!r}")
    return found.masked_fill(none, -torch.inf)


def of_queries(best: Tensor, mask: Tensor, reduce: str) -> Tensor:
    """The sum or the mean over the tokens of queries, dimension 1 of best, whose first two dimensions the mask has."""
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
    wide = mask.reshape(*mask.shape, *[1] * (best.dim() - 2))
    total = best.masked_fill(~wide, 0.0).sum(1)
    return total if reduce == "sum" else total / wide.sum(1).clamp_min(1)


def every_token(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask


def padded(x: Tensor, mask: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """(items, tokens, D) and which are tokens, of items that lie one after the other where there are offsets."""
    kept = every_token(x, mask)
    if offsets is None:
        return x, kept
    bounds = offsets.tolist()
    items = [x[i:j] for i, j in pairwise(bounds)]
    longest = max([0, *map(len, items)])
    out = x.new_zeros(len(items), longest, x.shape[-1])
    inside = torch.zeros(len(items), longest, dtype=torch.bool, device=x.device)
    for k, item in enumerate(items):
        out[k, : len(item)] = item
        inside[k, : len(item)] = kept[bounds[k] : bounds[k + 1]]
    return out, inside


def maxsim(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    query_offsets: Tensor | None = None,
    document_offsets: Tensor | None = None,
    reduce: str = "sum",
    document_reduce: str = "max",
    sharpness: float | Tensor = 1.0,
    normalize: bool = False,
) -> Tensor:
    """The sum (or mean) over the tokens of a query of their largest dot product with a token of a document, (N, M), or
    of a soft reduce in place of the maximum.

        score_nm = sum_t max_u <queries_nt, documents_mu>

    Masks are True at tokens. No token: a document scores -inf, a query 0. Of equal products the first is the maximum.

    Source: Khattab and Zaharia 2020 (arXiv 2004.12832), eq. 3; "mean": Yao et al. 2022 (arXiv 2111.07783), eq. 4 and 5.
    """
    q, of_query = padded(unit(queries, normalize), query_mask, query_offsets)
    d, of_document = padded(unit(documents, normalize), document_mask, document_offsets)
    best = over_tokens(torch.einsum("ntd,mud->ntmu", q, d), of_document, document_reduce, sharpness)
    return of_queries(best, of_query, reduce)


def modality_maxsim(
    queries: Tensor,
    documents: Tensor,
    modalities: Tensor,
    num_modalities: int,
    *,
    query_mask: Tensor | None = None,
    reduce: str = "sum",
    document_reduce: str = "max",
    sharpness: float | Tensor = 1.0,
    normalize: bool = False,
) -> Tensor:
    """`maxsim` with the tokens of every modality of a document by themselves, (N, M, S).

    Source: Wan et al. 2025 (arXiv 2506.06144), eq. 1 and 2.
    """
    products = torch.einsum("ntd,mud->ntmu", unit(queries, normalize), unit(documents, normalize))
    each = [over_tokens(products, modalities == s, document_reduce, sharpness) for s in range(num_modalities)]
    return of_queries(torch.stack(each, 3), every_token(queries, query_mask), reduce)


def maxsim_candidates(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_offsets: Tensor | None = None,
    reduce: str = "sum",
    document_reduce: str = "max",
    sharpness: float | Tensor = 1.0,
    normalize: bool = False,
) -> Tensor:
    """`maxsim` of queries (N, T, D) with documents (N, K, U, D) of their own, (N, K)."""
    q, (d, kept) = unit(queries, normalize), padded(unit(documents, normalize), document_mask, document_offsets)
    if document_offsets is not None:
        d, kept = (x.unflatten(0, (len(q), len(x) // max(len(q), 1))) for x in (d, kept))
    best = over_tokens(torch.einsum("ntd,nkud->ntku", q, d), kept.unsqueeze(1), document_reduce, sharpness)
    return of_queries(best, every_token(queries, query_mask), reduce)
