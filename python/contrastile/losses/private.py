"""Candidates that each query has of its own: lists of any length, rows of a bank by index, logits added to theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops import check, gathered_dots
from ..ranks.facts import Fact
from .common import cleaned, private_dots, unit, upcast
from .weights import NOWHERE


@dataclass(frozen=True)
class Candidates:
    """Private candidates of N queries, where a plain (N, K, D) tensor does not say enough.

        Candidates(features, mask)              padded lists, (N, K, D) and (N, K)
        Candidates.packed(features, offsets)    lists one after the other, (T, D)
        Candidates.of_bank(bank, index)         K rows of a bank for each query, without copying them

    Args:
        features: (N, K, D), float32 | bfloat16 | float16 | float64; with index: a bank, (B, D).
        mask: (N, K) bool, True = there. Missing candidates may hold anything. A query may have none. Not with index.
        bias: Added to the logits (similarity / temperature): a float, a 0-dim tensor, or (N, K), finite, with gradient
            if it requires one. A positive bias makes candidates count more: SimCSE's hard negative weight.
        index: (N, K) integers: candidate k of query i is row index_ik of features; -1: none. Use of_bank.

    The features are converted to the type of the statistics; the queries' type decides. normalize=True of a loss
    normalizes the whole bank at every call: keep a large bank at unit length.

    Raises: ValueError for shapes that do not fit, and for indices and offsets outside the features. On a GPU the values
    are not checked, since that would wait for it: an index outside the bank then counts as none.

    Example:
        >>> query, key = torch.nn.functional.normalize(torch.randn(2, 4, 16), dim=2)
        >>> texts = torch.nn.functional.normalize(torch.randn(7, 16), dim=1)
        >>> own = Candidates.packed(texts, torch.tensor([0, 3, 3, 5, 7]), bias=0.5)  # the second query has none
        >>> loss = info_nce(query, key, hard_negatives=own)

    Source: bias: Gao et al. 2021 (SimCSE), https://arxiv.org/abs/2104.08821, `hard_negative_weight`; by index: Xie et
    al. 2020 (InterCLR), https://arxiv.org/abs/2008.11702.
    """

    features: Tensor
    mask: Tensor | None = None
    bias: float | Tensor | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        device = check.features("features", self.features, ndim=3 if self.index is None else 2).device
        if self.mask is not None:
            if self.index is not None:
                raise ValueError("mask must be None with index: -1 says that there is no candidate")
            check.bool_mask("mask", self.mask, self.shape, device)
        if self.index is not None:
            check_index(self.index, self.features)
        if self.bias is not None:
            check_bias(self.bias, self.shape, device)

    @staticmethod
    def of_bank(bank: Tensor, index: Tensor, *, bias: float | Tensor | None = None) -> Candidates:
        """Rows of a bank (B, D) by index, (N, K); -1: none. They are gathered a part at a time, in the backward pass
        again; a bank without gradient costs none."""
        return Candidates(bank, bias=bias, index=index)

    @staticmethod
    def packed(features: Tensor, offsets: Tensor, *, bias: float | Tensor | None = None) -> Candidates:
        """Lists of any length, one after the other: those of query i are rows offsets_i to offsets_{i+1} of features
        (T, D). offsets: N + 1 integers from 0 to T that do not decrease; reading the longest length waits for a GPU.
        bias: a float, a 0-dim tensor or (T,)."""
        total, device = check.features("features", features).shape[0], features.device
        if check.tensor("offsets", offsets).dim() != 1 or not offsets.shape[0]:
            raise ValueError(f"offsets must have shape (N + 1,), got {tuple(offsets.shape)}")
        offsets = check.ids("offsets", offsets, offsets.shape[0], device)
        lengths = offsets.diff()
        if bool((lengths < 0).any()) or int(offsets[0]) != 0 or int(offsets[-1]) != total:
            raise ValueError(f"offsets must go from 0 to {total}, the number of features, and not decrease")
        place = torch.arange(int(lengths.max()) if len(lengths) else 0, device=device)
        index = torch.where(place < lengths[:, None], offsets[:-1, None] + place, -1)
        if isinstance(bias, Tensor) and bias.dim():
            bias = torch.where(index < 0, 0.0, check.vector("bias", bias, total, device)[index])
        return Candidates(features, bias=bias, index=index)

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        n, k = (self.features if self.index is None else self.index).shape[:2]
        return n, k

    @property
    def kept(self) -> Tensor | None:
        """(N, K) bool; None: all are there."""
        if self.index is None:
            return self.mask
        return (self.index >= 0) & (self.index < self.features.shape[0])

    def detach(self) -> Candidates:
        """With features that get no gradient."""
        return replace(self, features=self.features.detach())

    def prepared(self, present: Tensor | None, normalize: bool) -> Candidates:
        """Unit rows if asked, and none of queries that are not present; what is not there becomes zeros."""
        if self.index is not None:
            index = self.index if present is None else torch.where(present[:, None], self.index.long(), -1)
            return replace(self, features=unit(self.features, normalize), index=index)
        features = cleaned(cleaned(self.features, self.mask), present)
        return replace(self, features=unit(features, normalize))

    def logits(self, query: Tensor, scale: float | Tensor) -> Tensor:
        """(N, K), NOWHERE where there is no candidate. query: (N, D), wide; scale: a number or (N, 1)."""
        if self.index is None:
            found = private_dots(query, self.features.to(query.dtype))
        else:
            found = gathered_dots(query, self.features, self.index)
        found = scale * found
        if self.bias is not None:
            found = found + (self.bias.to(found.dtype) if isinstance(self.bias, Tensor) else self.bias)
        kept = self.kept
        return found if kept is None else torch.where(kept, found, NOWHERE)


def check_index(index: Tensor, bank: Tensor) -> None:
    if check.tensor("index", index).dim() != 2:
        raise ValueError(f"index must have shape (N, K), got {tuple(index.shape)}")
    if index.dtype not in check.ID_DTYPES:
        raise TypeError(f"index must be int64, int32, int16, int8 or uint8, got {index.dtype}")
    check.same_device("index", index, bank.device)
    rows = bank.shape[0]
    check.condition(lambda: f"index must be -1 (none) or from 0 to {rows - 1}", (index >= -1) & (index < rows))


def check_bias(bias: float | Tensor, shape: tuple[int, int], device: torch.device) -> None:
    if not isinstance(bias, Tensor) or check.tensor("bias", bias).dim() == 0:
        check.scalar("bias", bias, device=device)
        return
    if bias.shape != shape:
        raise ValueError(f"bias must be a number or have shape {tuple(shape)}, got {tuple(bias.shape)}")
    if not bias.dtype.is_floating_point:
        raise TypeError(f"bias must be floating point, got {bias.dtype}")
    check.same_device("bias", bias, device)
    check.condition("bias must be finite", bias.isfinite())


def private_candidates(name: str, x: Tensor | Candidates, query: Tensor) -> Tensor | Candidates:
    """Those of the rows of query, checked: a plain tensor (N, K, D), or lists."""
    n = query.shape[0]
    if isinstance(x, Candidates):
        if x.shape[0] != n:
            raise ValueError(f"{name} must be those of {n} queries, got those of {x.shape[0]}")
    elif check.features(name, check.tensor(name, x, "a torch.Tensor or Candidates"), ndim=3).shape[0] != n:
        raise ValueError(f"{name} must have shape ({n}, K, D), got {tuple(x.shape)}")
    features = x.features if isinstance(x, Candidates) else x
    check.same_width(name, features, "query", query)
    check.same_device(name, features, query.device)
    return x


def prepared(x: Tensor | Candidates, present: Tensor | None, normalize: bool) -> Tensor | Candidates:
    """Unit rows if asked, and nothing of queries that are not present."""
    return x.prepared(present, normalize) if isinstance(x, Candidates) else unit(cleaned(x, present), normalize)


def private_logits(x: Tensor | Candidates, query: Tensor, scale: float | Tensor) -> Tensor:
    """(N, K), NOWHERE where there is no candidate. They never meet another row, so they are N K dot products."""
    wide, each = upcast(query), per_row(scale)
    return x.logits(wide, each) if isinstance(x, Candidates) else each * private_dots(wide, upcast(x))


def per_row(scale: float | Tensor) -> float | Tensor:
    """A factor of (N, K)."""
    return scale.unsqueeze(-1) if isinstance(scale, Tensor) and scale.dim() else scale


def private_sum(x: Tensor | Candidates, logits: Tensor) -> tuple[Tensor, int | Tensor]:
    """(N,): the sum of the logits of candidates that are there, and how many these are."""
    kept = x.kept if isinstance(x, Candidates) else None
    if kept is None:
        return logits.sum(1), logits.shape[1]
    return torch.where(kept, logits, 0.0).sum(1), kept.sum(1)


def lists_of(x: Tensor | Candidates | None) -> Fact:
    """What ranks must agree on: K of a plain tensor; each rank has lists of its own lengths."""
    if isinstance(x, Candidates):
        return Fact(-2, shown)
    return Fact(-1 if x is None else int(x.shape[1]), shown)


def shown(code: int) -> str:
    return str(code) if code >= 0 else "not given" if code == -1 else "Candidates"
