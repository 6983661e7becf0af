"""The formulas behind memeff's classes, as per-row losses of unit rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...losses.common import log_count, paired_dot, private_dots, upcast
from ...ops import check, pair_reduce, softplus
from ...ranks import GlobalBatch

Prior = float | Tensor | None


def class_prior(default: float, override: float | Tensor | None, rows: int, device: torch.device) -> Prior:
    """tau_plus of this call: None where nothing is to be corrected, a number, or one number per row."""
    value = default if override is None else override
    if isinstance(value, Tensor):
        if tuple(value.shape) != (rows,):
            raise ValueError(f"tau_plus must be a number or have shape ({rows},), got {tuple(value.shape)}")
        return value.detach().to(device=device, dtype=torch.float32)
    return share("tau_plus", value) or None


def share(name: str, value: Any) -> float:
    number = check.scalar(name, value)
    if isinstance(number, Tensor) or not 0.0 <= number < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return number


def softmax_rows(negative: Tensor, positive: Tensor, count: int, prior: Prior, scale: float) -> Tensor:
    """log(e^positive + the sum over negatives) - positive, with that sum corrected for a class prior.

        (sum - count prior e^positive) / (1 - prior),     at least count e^-scale

    negative is the log of the sum over `count` negatives, of which some may have been dropped. All in logs relative to
    the positive, so that no temperature over- or underflows.
    """
    ratio = negative - positive
    if prior is not None:
        prior = torch.as_tensor(prior, dtype=ratio.dtype, device=ratio.device)
        removed = count * prior * torch.exp(-ratio.clamp_min(-80.0))
        left = torch.where(removed < 1.0, ratio + torch.log1p(-removed.clamp_max(1.0 - 1e-7)), -torch.inf)
        ratio = torch.maximum(left - torch.log1p(-prior), log_count(count, positive) - scale - positive)
    return softplus(ratio)


def log_sum(parts: Tensor) -> Tensor:
    """log of the sum over dim 0 of e^parts; -inf without gradient, not with NaN, where all parts are -inf."""
    if len(parts) == 1:
        return parts[0]
    empty = (parts == -torch.inf).all(0)
    return parts.masked_fill(empty, 0.0).logsumexp(0).masked_fill(empty, -torch.inf)


def debiased_clip(
    x: Tensor, y: Tensor, scale: float, prior: Prior, both: bool, batch: GlobalBatch, **engine: Any
) -> Tensor:
    """Debiased rows of x against y, and with `both` their mean with the columns, (N,)."""
    engine |= {"keep": "other_index", "positives": "same_index", "cols": both, "group": batch.ranks}
    stats, others = pair_reduce(x, y, scale=scale, **engine), batch.total - 1
    assert stats.row_positives is not None
    rows = softmax_rows(stats.rows, stats.row_positives, others, prior, scale)
    if not both:
        return rows
    assert stats.cols is not None and stats.col_positives is not None
    return 0.5 * (rows + softmax_rows(stats.cols, stats.col_positives, others, prior, scale))


@dataclass
class Qwen3:
    """Queries against documents, and as asked for against queries, documents against documents, hard negatives.

    A negative counts in row i while its score is at most <q_i, d_i> + margin; the positive always counts.
    """

    batch: GlobalBatch
    q: Tensor  # (N, D), float32 or float64
    d: Tensor  # (N, D)
    h: Tensor | None  # (N, K, D)
    scale: float
    margin: float
    qq: bool
    dd: bool

    @property
    def count(self) -> int:
        """Negatives of a row, dropped ones included."""
        hard = 0 if self.h is None else self.h.shape[1]
        return (self.batch.total - 1) * (1 + self.qq + self.dd) + hard

    def rows(self, prior: Prior, smoothing: float, **engine: Any) -> Tensor:
        limit = None
        if self.margin < math.inf:
            limit = (self.scale * (paired_dot(self.q, self.d) + self.margin)).detach()
        options = {
            "scale": self.scale, "keep": "other_index", "row_high": limit, "group": self.batch.ranks, **engine,
        }  # fmt: skip
        stats = pair_reduce(self.q, self.d, positives="same_index", **options)
        positive = stats.row_positives
        assert positive is not None
        parts = [stats.rows]
        parts += [pair_reduce(x, **options).rows for x, asked in ((self.q, self.qq), (self.d, self.dd)) if asked]
        logs = torch.stack(parts)
        if self.h is not None:
            hard = self.scale * private_dots(self.q, self.h).T
            logs = torch.cat([logs, hard if limit is None else hard.masked_fill(hard > limit, -torch.inf)])
        rows = softmax_rows(log_sum(logs), positive, self.count, prior, self.scale)
        return rows + smoothing * (positive - self.mean_logits()) if smoothing else rows

    def mean_logits(self) -> Tensor:
        """Over all candidates of a row, dropped ones included: linear in the scores, so no pairs are needed."""
        total = paired_dot(self.q, self.batch.column_sum(self.d))
        for x, asked in ((self.q, self.qq), (self.d, self.dd)):
            total = total + paired_dot(x, self.batch.column_sum(x) - x) if asked else total
        if self.h is not None:
            total = total + paired_dot(self.q, self.h.sum(1))
        return self.scale * total / (self.count + 1)


def smoothing_of_pairs(x: Tensor, y: Tensor, scale: float, batch: GlobalBatch) -> Tensor:
    """What a smoothed target adds to the loss, per share: the mean positive logit less the mean logit."""
    x, y = upcast(x), upcast(y)
    return scale * batch.reduced(paired_dot(x, y - batch.column_sum(y) / batch.total), "mean")
