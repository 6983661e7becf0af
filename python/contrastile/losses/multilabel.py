"""Pairs with learned soft labels (RepBlend, LoRS): streamed in torch, so that it can be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..literals import MultilabelForm
from ..ops import check, no_autocast
from .common import feature_pair, upcast, zero

FORMS = get_args(MultilabelForm)
EPSILON = 1e-6  # of the official code: inside logarithms, and of counts to divide by
CHUNK = 1 << 20  # pairs that are held at a time


@dataclass(frozen=True)
class LowRank:
    """Soft labels of all pairs, S = diag(diagonal) + alpha / r left right^T, for multilabel_contrastive.

    Args:
        diagonal: (N,).
        left, right: (N, r). All three may be learned.
        alpha: A number.

    Example:
        >>> labels = LowRank(torch.ones(8), torch.randn(8, 3), torch.zeros(8, 3))
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = multilabel_contrastive(x, y, labels)
    """

    diagonal: Tensor
    left: Tensor
    right: Tensor
    alpha: float = 1.0

    def rows(self, start: int, stop: int) -> Tensor:
        own = torch.diag_embed(self.diagonal[start:stop])
        labels = self.alpha / self.left.shape[1] * (self.left[start:stop] @ self.right.T)
        n = self.right.shape[0]
        return labels + F.pad(own, (start, n - stop))

    def turned(self) -> LowRank:
        return LowRank(self.diagonal, self.right, self.left, self.alpha)


class Sums(NamedTuple):
    """Of the pairs of some rows: terms, and how many there are; of positives and of the others, or of all."""

    positive: Tensor
    positives: Tensor
    negative: Tensor
    negatives: Tensor


def multilabel_contrastive(
    x: Tensor,
    y: Tensor,
    labels: Tensor | LowRank,
    *,
    logit_scale: float | Tensor = 1.0 / 0.07,
    form: MultilabelForm = "wbce",
    normalize: bool = False,
) -> Tensor:
    """Every pair has a soft label S_ij, which may be learned, as in dataset distillation.

        z_ij = logit_scale <x_i, y_j>,   P = sigmoid(z)
        "wbce"  the mean of two means: over pairs with S > 0.5, and over the others, of
                - S log(P + 1e-6) - (1 - S) log(1 - P + 1e-6)
        "bce"   the mean over all pairs of - S log P - (1 - S) log(1 - P)
        "mse"   the mean over all pairs of (P - S)^2
        "nce"   - 1/N sum_ij S_ij log softmax_j(z_ij), and the same with rows and columns exchanged: their mean
        "cwcl"  the same with each row of S divided by its sum + 1e-6
        "kl"    1/N^2 sum_ij KL(softmax_j(10 S_ij) || softmax_j(z_ij)), and the same exchanged: their mean

    It runs in plain torch, in chunks of rows that backward computes again: O(N D) memory, and second derivatives are
    right, as trajectory matching needs them (create_graph=True).

    Args:
        x, y: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        labels: S, (N, N), or LowRank, which never holds N^2 numbers.
        logit_scale: A float or a 0-dim tensor with gradient.
        form: One of the six names above.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.

    Returns: 0-dim float32 (float64 for float64 features), nats, over this process's pairs only. An empty batch gives 0.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> labels = LowRank(torch.ones(8), torch.randn(8, 3), torch.zeros(8, 3))
        >>> loss = multilabel_contrastive(x, y, labels, normalize=True)

    Source: RepBlend, zhangxin-xd/RepBlend src/similarity_mining.py, MultilabelContrastiveLoss; Xu et al. 2024 (LoRS),
    https://arxiv.org/abs/2406.07529, eq. 7.
    """
    check.choice("form", form, FORMS)
    x, y = feature_pair("x", x, "y", y, normalize)
    scale = check.scalar("logit_scale", logit_scale, device=x.device)
    _check_labels(labels, x)
    if x.shape[0] == 0:
        return zero(x, y, scale, *([labels] if isinstance(labels, Tensor) else vars(labels).values()))
    with no_autocast(x):
        x, y = upcast(x), upcast(y)
        if form in PAIRWISE:
            return _pairwise(x, y, scale, labels, form)
        turned = labels.T if isinstance(labels, Tensor) else labels.turned()
        return 0.5 * (_by_rows(x, y, scale, labels, form) + _by_rows(y, x, scale, turned, form))


def _check_labels(labels: Tensor | LowRank, x: Tensor) -> None:
    n = x.shape[0]
    if isinstance(labels, LowRank):
        check.vector("labels.diagonal", labels.diagonal, n, x.device)
        check.features("labels.left", labels.left)
        check.same_shape("labels.right", check.features("labels.right", labels.right), "labels.left", labels.left)
        if labels.left.shape[0] != n or labels.left.shape[1] == 0:
            raise ValueError(f"labels.left must have shape ({n}, r), r > 0, got {tuple(labels.left.shape)}")
        return
    if tuple(check.features("labels", labels).shape) != (n, n):
        raise ValueError(f"labels must have shape ({n}, {n}), got {tuple(labels.shape)}")


def _chunks(
    terms: Callable[..., tuple[Tensor, ...]], x: Tensor, y: Tensor, scale: float | Tensor, labels: Tensor | LowRank
) -> list[tuple[Tensor, ...]]:
    """`terms` of the logits and labels of some rows after the other; backward computes them again."""
    step = max(CHUNK // x.shape[0], 1)

    def of_rows(start: int, stop: int) -> tuple[Tensor, ...]:
        s = labels[start:stop] if isinstance(labels, Tensor) else labels.rows(start, stop)
        return terms(scale * (x[start:stop] @ y.T), upcast(s))

    return [
        checkpoint(of_rows, start, min(start + step, x.shape[0]), use_reentrant=False)
        for start in range(0, x.shape[0], step)
    ]


def _pairwise(x: Tensor, y: Tensor, scale: float | Tensor, labels: Tensor | LowRank, form: str) -> Tensor:
    parts = _chunks(PAIRWISE[form], x, y, scale, labels)
    found = Sums(*(torch.stack(column).sum(0) for column in zip(*parts, strict=True)))
    if form == "wbce":
        return 0.5 * (found.positive / (found.positives + EPSILON) + found.negative / (found.negatives + EPSILON))
    return (found.positive + found.negative) / (found.positives + found.negatives)


def _balanced_entropies(z: Tensor, s: Tensor) -> Sums:
    p, positive = z.sigmoid(), s.detach() > 0.5
    return _split(-s * (p + EPSILON).log() - (1.0 - s) * (1.0 - p + EPSILON).log(), positive)


def _entropies(z: Tensor, s: Tensor) -> Sums:
    return _split(F.softplus(z, threshold=40.0) - s * z, torch.ones_like(s, dtype=torch.bool))


def _squares(z: Tensor, s: Tensor) -> Sums:
    return _split((z.sigmoid() - s).square(), torch.ones_like(s, dtype=torch.bool))


def _split(terms: Tensor, positive: Tensor) -> Sums:
    count = positive.sum().to(terms.dtype)
    return Sums(
        torch.where(positive, terms, 0.0).sum(), count, torch.where(positive, 0.0, terms).sum(), terms.numel() - count
    )


PAIRWISE: dict[str, Callable[[Tensor, Tensor], Sums]] = {
    "wbce": _balanced_entropies, "bce": _entropies, "mse": _squares,
}  # fmt: skip


def _by_rows(x: Tensor, y: Tensor, scale: float | Tensor, labels: Tensor | LowRank, form: str) -> Tensor:
    n = x.shape[0]
    total = torch.stack([part[0] for part in _chunks(partial(_row_entropies, form), x, y, scale, labels)]).sum()
    return total / (n * n if form == "kl" else n)


def _row_entropies(form: str, z: Tensor, s: Tensor) -> tuple[Tensor]:
    log_p = z.log_softmax(1)
    if form == "kl":
        log_target = (10.0 * s).log_softmax(1)
        return ((log_target.exp() * (log_target - log_p)).sum(),)
    share = s / (s.sum(1, keepdim=True) + EPSILON) if form == "cwcl" else s
    return (-(share * log_p).sum(),)
