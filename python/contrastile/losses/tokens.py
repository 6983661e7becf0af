"""Items of several tokens each: their tokens side by side, and which items have any."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..ops import check, offsets_of, ordered
from .common import cleaned, unit

OverTokens: TypeAlias = Literal["sum", "mean"]


def there(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """(N,): which items of tokens (N, L, D) have one; None: all."""
    if tokens.shape[1] == 0:
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    return None if mask is None else mask.any(1)


def both_there(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor | None:
    """(N,): which pairs have a token on both sides; None: all."""
    return both(there(x, x_mask), there(y, y_mask))


def both(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x & y


class Tokens(NamedTuple):
    """Tokens of all items, one item after the other."""

    features: Tensor  # (all tokens, D), zeros for padding and what no item has: its numbers reach no gradient
    mask: Tensor | None  # (all tokens,)
    segments: int | Tensor  # what segment_reduce takes: tokens of every item, or offsets
    items: int


def tokens_of(name: str, x: Tensor, mask: Tensor | None, offsets: Tensor | None, normalize: bool) -> Tokens:
    check.features(name, x, ndim=3 if offsets is None else 2)
    one = name.removesuffix("s").replace("querie", "query")
    if mask is not None:
        check.bool_mask(f"{one}_mask", mask, tuple(x.shape[:-1]), x.device)
    if offsets is not None:
        bounds = ordered(f"{one}_offsets", offsets_of(f"{one}_offsets", offsets, x)[0], x.shape[0])
        here = inside(bounds, x)
        return Tokens(unit(cleaned(x, both(mask, here)), normalize), mask, bounds, len(bounds) - 1)
    x = unit(cleaned(x, mask), normalize)
    items, length = x.shape[:2]
    flat = None if mask is None else mask.flatten()
    segments = length or torch.zeros(items + 1, dtype=torch.int64, device=x.device)
    return Tokens(x.flatten(0, 1), flat, segments, items)


def inside(bounds: Tensor, x: Tensor) -> Tensor | None:
    """(all tokens,): which ones lie in an item; None: all, where offsets can be read."""
    if x.device.type == "cpu" and check.plain(x) and bounds[[0, -1]].tolist() == [0, x.shape[0]]:
        return None
    place = torch.arange(x.shape[0], device=x.device)
    return (place >= bounds[0]) & (place < bounds[-1])


def over_tokens(best: Tensor, queries: Tokens, reduce: OverTokens) -> Tensor:
    """(tokens, M) to (N, M). Padding adds nothing, also where a document is empty."""
    mask = queries.mask
    if mask is not None:
        best = best.masked_fill(~mask.unsqueeze(1), 0.0)
    total = total_of(best, queries)
    if reduce == "sum":
        return total
    ones = mask if mask is not None else torch.ones(best.shape[0], dtype=torch.bool, device=best.device)
    return total / total_of(ones.to(best.dtype).unsqueeze(1), queries).clamp_min(1.0)


def total_of(x: Tensor, queries: Tokens) -> Tensor:
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


def by_modality(documents: Tensor, modalities: Tensor, count: int, normalize: bool) -> Tokens:
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
    return Tokens(x.index_select(0, order), None, bounds, items * count)
