"""Late interaction: scores of sets of token embeddings."""

import torch
from torch import Tensor

from ._dense import unit


def maxsim(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    reduce: str = "sum",
    normalize: bool = False,
) -> Tensor:
    """The sum (or mean) over the tokens of a query of their largest dot product with a token of a document, (N, M).

        score_nm = sum_t max_u <queries_nt, documents_mu>

    Masks are True at tokens. No token: a document scores -inf, a query 0. Of equal products the first is the maximum.

    Source: Khattab and Zaharia 2020 (arXiv 2004.12832), eq. 3; "mean": Yao et al. 2022 (arXiv 2111.07783), eq. 4 and 5.
    """
    if query_mask is None:
        query_mask = torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)
    products = torch.einsum("ntd,mud->nmtu", unit(queries, normalize), unit(documents, normalize))
    if document_mask is not None:
        products = products.masked_fill(~document_mask[None, :, None], -torch.inf)
    nothing = products.new_full((*products.shape[:3], 1), -torch.inf)
    largest = torch.cat([products, nothing], dim=3).max(dim=3).values
    total = largest.masked_fill(~query_mask[:, None], 0.0).sum(dim=2)
    if reduce == "sum":
        return total
    if reduce == "mean":
        return total / query_mask.sum(dim=1, keepdim=True).clamp_min(1)
    raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
