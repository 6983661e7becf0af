"""Attention of one item's tokens over another's, dense: one pair at a time, as the formula is written."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_attention_scores(
    items: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(N, M): <items_n, layer_norm(mean_t sum_u softmax_u(<queries_nt, keys_mu> / sqrt(D)) values_mu)>; 0 where a side
    has nothing.

    Source: Hu et al. 2024 (M3EL), arXiv 2412.10440.
    """
    rows = []
    for n, item in enumerate(items):
        q = queries[n] if query_mask is None else queries[n][query_mask[n]]
        row = []
        for m in range(len(keys)):
            k, v = (x[m] if key_mask is None else x[m][key_mask[m]] for x in (keys, values))
            if not len(q) or not len(k):
                row.append(items.new_zeros(()))
                continue
            found = ((q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v).mean(0)
            row.append((item * F.layer_norm(found, found.shape, gain, shift, eps)).sum())
        rows.append(torch.stack(row) if row else items.new_zeros(0))
    return torch.stack(rows) if rows else items.new_zeros(0, len(keys))
