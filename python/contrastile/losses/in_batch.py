"""How well a batch is told apart: by-products of a loss."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..ranks import GlobalBatch
from .weights import Counted


@dataclass(eq=False)
class InBatch:
    """What a call of `info_nce` or `clip_loss` sees of its batch. Pass one as `report`, and the call fills it.

    Every number is a mean over the queries, a 0-dim tensor without gradient on the features' device, so nothing waits
    for it: read it when you log. With `present` it covers the pairs that are present, with `group` those of all ranks;
    `weights` and `reduction` do not matter. Names with key_ belong to the direction key -> query (text -> image). What
    a call does not compute is None: a direction you leave out, or everything for an empty batch.

        recall: the share of queries whose own key has a larger logit than every other candidate, in-batch R@1
        probability: of the query's own key, the softmax e^{-L_i}
        largest_negative: the largest logit among the query's other candidates, over the queries that have others

    Candidates are those of the loss: keys that ids or a margin drop are not candidates. The entropy of the softmax does
    not come for free; its mean, for a loss without smoothing and log-probabilities, is L - logit_scale dL/dlogit_scale.

    Args:
        recall, probability, largest_negative: Filled by the call; leave them out.
        key_recall, key_probability, key_largest_negative: The same for the direction key -> query.

    Example:
        >>> report, (x, y) = InBatch(), torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = clip_loss(x, y, 20.0, report=report)
        >>> 0.0 <= report.recall.item() <= 1.0
        True
    """

    recall: Tensor | None = None
    probability: Tensor | None = None
    largest_negative: Tensor | None = None
    key_recall: Tensor | None = None
    key_probability: Tensor | None = None
    key_largest_negative: Tensor | None = None

    def clear(self) -> None:
        for name in FIELDS:
            setattr(self, name, None)

    def fill(self, keys: bool, numbers: tuple[Tensor, Tensor, Tensor]) -> None:
        """keys: of key -> query."""
        for name, value in zip(FIELDS[3:] if keys else FIELDS[:3], numbers, strict=True):
            setattr(self, name, value)


FIELDS = tuple(field.name for field in fields(InBatch))


def given_report(report: InBatch | None, prefixes: object, in_batch: bool = True) -> InBatch | None:
    """The argument `report` of a loss, empty from now on. prefixes: of the features, if the loss is a sum over some."""
    if report is None:
        return None
    if not isinstance(report, InBatch):
        raise TypeError(f"report must be a contrastile.metrics.InBatch, got {type(report).__name__}")
    if prefixes is not None:
        raise ValueError("report must be None with matryoshka: each prefix would have its own")
    if not in_batch:
        raise ValueError("report must be None with in_batch=False: there are no candidates of the batch to report on")
    report.clear()
    return report


@torch.no_grad()
def measured(
    peak: Tensor, others: Tensor, positive: Tensor, counted: Counted, batch: GlobalBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of InBatch, of this rank's queries: from the largest logit and the log-sum-exp of their other
    candidates, and from the logit of their own."""
    some = peak != -torch.inf  # a NaN is passed on
    share = torch.sigmoid(positive - others)
    each = torch.stack([positive > peak, share, torch.where(some, peak, 0.0), some, torch.ones_like(share)])
    if counted.present is not None:
        each = torch.where(counted.present, each, 0.0)
    found, share, top, negatives, count = batch.sum(each.sum(1)).unbind()
    return found / count, share / count, torch.where(negatives > 0, top / negatives, -torch.inf)
