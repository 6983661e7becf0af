"""Scores of token embeddings as the trainers of late interaction take them: groups of documents, lists, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..literals import BackendName, SegmentReduceName
from ..losses import maxsim, maxsim_candidates
from .common import autocast_features


def as_tensor(x: Any) -> Tensor:
    """A tensor, an array, or a list of them of one shape."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (list, tuple)) and len(x) and all(isinstance(part, Tensor) for part in x):
        return torch.stack(list(x))
    if isinstance(x, (list, tuple)) and len(x) and all(hasattr(part, "__array__") for part in x):
        return torch.stack([torch.as_tensor(part) for part in x])
    return torch.as_tensor(x)


def padded(x: Any, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The same where items of a list may have different numbers of tokens."""
    if isinstance(x, (list, tuple)) and len({len(part) for part in x}) > 1:
        items = [as_tensor(part) for part in x]
        lengths = torch.tensor([len(part) for part in items])
        filled = pad_sequence(items, batch_first=True)
        if mask is None:
            mask = (torch.arange(filled.shape[1]) < lengths[:, None]).to(filled.device)
        return filled, mask
    return as_tensor(x), mask


def of_all(queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
    """Every query (Q, T, D) with all documents (M, U, D), or of groups (M, N, U, D), group by group: (Q, M N)."""
    mask = options.pop("document_mask", None)
    if documents.dim() == 4:
        documents, mask = documents.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
    queries, documents = autocast_features(queries, documents)
    return maxsim(queries, documents, document_mask=mask, **options)


def of_own(
    queries: Tensor,
    documents: Tensor,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_reduce: SegmentReduceName = "max",
    sharpness: float = 1.0,
    backend: BackendName = "auto",
) -> Tensor:
    """Every query with documents of its own, (Q, N, U, D): (Q, N); or with the one of its index, (Q, U, D): (Q,)."""
    queries, documents = autocast_features(queries, documents)
    single = documents.dim() == 3
    if single:
        documents, document_mask = documents[:, None], None if document_mask is None else document_mask[:, None]
    scores = maxsim_candidates(
        queries, documents, query_mask=query_mask, document_mask=document_mask, document_reduce=document_reduce,
        sharpness=sharpness, backend=backend,
    )  # fmt: skip
    return scores.squeeze(1) if single else scores
