"""A score of two items by the attention of one's tokens over the other's, as M3EL matches entities and mentions."""

from __future__ import annotations

from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops import check, equal_blocks, matmul, no_autocast
from .common import cleaned, upcast
from .score_contrast import columns_at_a_time
from .tokens import there
from .weights import NOWHERE


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
    memory_budget: int | None = None,
) -> Tensor:
    """How well what item n's tokens find among item m's tokens fits item n as a whole.

        c_nm = mean_t sum_u softmax_u(<queries_nt, keys_mu> / sqrt(D)) values_mu
        score_nm = <items_n, layer_norm(c_nm) * gain + shift>

    It is not a loss yet: F.cross_entropy(score, torch.arange(N)) makes one of it, and score.T gives the other
    direction.

    Args:
        items: (N, E), one vector for each item that asks. float32 | bfloat16 | float16 | float64.
        queries: (N, T, D), the tokens of these items.
        keys: (M, U, D), tokens of the items that answer.
        values: (M, U, E), likewise.
        query_mask: (N, T) bool, True = a token. Padding takes no part, may hold anything, and gets no gradient. A pair
            with an empty side scores 0.
        key_mask: (M, U) bool, likewise.
        gain, shift: (E,), of the layer normalization; None: 1 and 0.
        eps: Added to the variance in the layer normalization.
        memory_budget: Bytes of attention and contexts up to which they stay for the backward pass; default 64 MiB.
            Beyond it, 64 MiB are made at a time (those of one answering item, if they are more), and again in the
            backward pass. A graph (torch.compile, torch.export) holds them.

    Returns: (N, M), float32 (float64 for float64 features). Computed in float32.
    Cost: 2 N M U (T D + E) FLOP forward, twice that backward, and the forward pass again where nothing is held.

    Example:
        >>> items, queries, keys, values = (torch.randn(s) for s in ((3, 8), (3, 4, 16), (5, 7, 16), (5, 7, 8)))
        >>> cross_attention_scores(items, queries, keys, values).shape
        torch.Size([3, 5])

    Source: Hu et al. 2024 (M3EL), https://arxiv.org/abs/2412.10440, global-to-local matching; its official code.
    """
    query_mask, key_mask = _checked(items, queries, keys, values, query_mask, key_mask)
    given = [items, cleaned(queries, query_mask), cleaned(keys, key_mask), cleaned(values, key_mask)]
    dtype = reduce(torch.promote_types, [x.dtype for x in given])
    g, q, k, v = (upcast(check.as_type(x, dtype)) for x in given)
    norm = _of_width("gain", gain, g), _of_width("shift", shift, g)
    form = partial(_scores, query_mask=query_mask, eps=float(check.scalar("eps", eps, positive=True)))
    each = g.shape[0] * (4 * q.shape[1] * k.shape[1] + 3 * g.shape[1]) * g.element_size()
    width = columns_at_a_time(k, k.shape[0], each, check.budget(memory_budget))
    parts = []
    with no_autocast(g):
        for block in equal_blocks(k.shape[0], width):
            mask = None if key_mask is None else block.rows(key_mask)
            part = partial(form, g, q, block.rows(k), block.rows(v), mask, *norm)
            parts.append(part() if width is None else checkpoint(part, use_reentrant=False))
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    asking, answering = there(q, query_mask), there(k, key_mask)
    scores = scores if asking is None else torch.where(asking[:, None], scores, 0.0)
    return scores if answering is None else torch.where(answering, scores, 0.0)


def _checked(
    items: Tensor, queries: Tensor, keys: Tensor, values: Tensor, query_mask: Tensor | None, key_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The masks."""
    for name, x in dict(items=items, queries=queries, keys=keys, values=values).items():
        check.same_device(name, check.features(name, x, ndim=2 if name == "items" else 3), items.device)
    check.same_width("keys", keys, "queries", queries)
    check.same_width("values", values, "items", items)
    if queries.shape[0] != items.shape[0]:
        raise ValueError(f"queries must be those of {items.shape[0]} items, got {tuple(queries.shape)}")
    if values.shape[:2] != keys.shape[:2]:
        raise ValueError(f"values must have the shape {tuple(keys.shape[:2])} of keys, got {tuple(values.shape)}")
    if query_mask is not None:
        query_mask = check.bool_mask("query_mask", query_mask, tuple(queries.shape[:2]), items.device)
    if key_mask is not None:
        key_mask = check.bool_mask("key_mask", key_mask, tuple(keys.shape[:2]), items.device)
    return query_mask, key_mask


def _of_width(name: str, x: Tensor | None, items: Tensor) -> Tensor | None:
    if x is None:
        return None
    if check.tensor(name, x).shape != items.shape[1:]:
        raise ValueError(f"{name} must have shape {tuple(items.shape[1:])}, got {tuple(x.shape)}")
    check.same_device(name, x, items.device)
    return x.to(items.dtype)


def _scores(
    items: Tensor, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None, gain: Tensor | None,
    shift: Tensor | None, query_mask: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Of some answering items; finite for sides that have nothing."""
    (n, t, d), (m, u, _) = queries.shape, keys.shape
    z = matmul(queries.reshape(n * t, d), keys.reshape(m * u, d).T).view(n, t, m, u) / max(d, 1) ** 0.5
    attention = (z if key_mask is None else torch.where(key_mask, z, NOWHERE)).softmax(3)
    if query_mask is None:
        pooled = attention.sum(1) / max(t, 1)
    else:
        weights = query_mask.to(z.dtype) / query_mask.sum(1, keepdim=True).clamp_min(1)
        pooled = (weights[:, :, None, None] * attention).sum(1)
    context = matmul(pooled.transpose(0, 1), values)  # (m, n, E)
    return (F.layer_norm(context, context.shape[2:], gain, shift, eps) * items).sum(2).T
