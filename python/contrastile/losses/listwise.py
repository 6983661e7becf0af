"""Losses of a list: N scores shall have the order, or the course, of N grades."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName
from ..ops import EngineOptions, Pairs, check, pair_stats, softplus
from ..ranks import GlobalBatch, Group, collective
from .common import unit, upcast, zero


@collective
def pro_loss(
    scores: Tensor,
    grades: Tensor,
    *,
    temperature: float = 0.05,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Preference rank optimization: every item of a list must beat all items with lower grades, in proportion.

        L = mean_k log [ 1 + sum_{j: y_j < y_k} e^{(y_k - y_j) x_j} / e^{(y_k - min y) x_k} ]

    over the items k that have one with a lower grade; x = scores / temperature, y = grades. The logits are products of
    two numbers per row, <(y_k, 1), (x_j, -y_j x_j)>, so the N x N matrix of the formula is not held.

    Args:
        scores: (N,), such as cosines of N pairs of texts; float32 | bfloat16 | float16 | float64.
        grades: (N,) numbers, for example human ratings of the pairs; no gradient. Compared in float64: grades that
            differ at all are different, where the official code asks for 1e-8.
        temperature: > 0.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the list covers all ranks; 2
            numbers per item travel.

    Returns: float32 (float64 for float64 scores), one number for the list; 0 with gradient 0 if all grades are equal.
    Cost: 16 N^2 FLOP forward and backward, O(N) memory.

    Example:
        >>> scores, grades = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([5.0, 0.0, 3.0])
        >>> bool(pro_loss(scores, grades) < pro_loss(-scores, grades))
        True

    Source: CoDiEmb, https://arxiv.org/abs/2508.11442, which adapts https://arxiv.org/abs/2306.17492; official code
    TencentCloudADP/youtu-embedding, training/CoDiEmb/train/loss.py, PROLoss.
    """
    engine = EngineOptions.of(0, backend, group)  # keeps no scores of pairs
    found = Graded.of(scores, grades, engine)
    x = found.scores / positive_number("temperature", temperature)
    if len(x) < 2:
        return zero(x)
    lower = found.lower()
    gain = (found.grades - found.grades.min()).to(x.dtype)
    y = (found.grades - found.grades.mean()).to(x.dtype)  # logits have differences alone
    rows, columns = torch.stack([y, torch.ones_like(y)], 1), torch.stack([x, -y * x], 1)
    engine.ranks = None  # every rank has the whole list
    others = pair_stats(Pairs(rows, [columns], keep="lower_order", row_order=lower, col_order=lower), engine).rows
    some = lower > 0
    each = softplus(torch.where(some, others, 0.0) - gain * x)
    return torch.where(some, each, 0.0).sum() / some.sum().clamp_min(1) + zero(x)


@collective
def pearson_loss(scores: Tensor, grades: Tensor, *, group: Group = None) -> Tensor:
    """One minus the Pearson correlation of scores and grades, in [0, 2].

        L = 1 - sum_i (x_i - mean x) (y_i - mean y) / sqrt( sum_i (x_i - mean x)^2 sum_i (y_i - mean y)^2 )

    Computed as half the squared distance of the two unit vectors, so that a list that is nearly right keeps its digits.

    Args:
        scores: (N,), such as cosines of N pairs of texts; float32 | bfloat16 | float16 | float64.
        grades: (N,) numbers; no gradient.
        group: None: this process only. "world", a process group, or distributed.Ranks: the list covers all ranks.

    Returns: float32 (float64 for float64 scores), one number for the list. 0 if all grades are equal, as in the
    official code; 1 with gradient 0 if all scores are equal, where the official code gives NaN.
    Cost: O(N).

    Example:
        >>> scores, grades = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([9.0, 1.0, 5.0])
        >>> round(pearson_loss(scores, grades).item(), 4)
        0.0

    Source: CoDiEmb, https://arxiv.org/abs/2508.11442; official code TencentCloudADP/youtu-embedding,
    training/CoDiEmb/train/loss.py.
    """
    found = Graded.of(scores, grades, EngineOptions.of(None, "auto", group))
    if not len(found.scores):
        return zero(found.scores)
    x, y = found.scores, found.grades - found.grades.mean()
    x = x - x[0].detach()  # the mean of equal scores need not be one of them
    u, v = unit((x - x.mean())[None], True)[0], unit(y[None], True)[0].to(x.dtype)
    lost = 0.5 * (1.0 - u.detach().square().sum().round())  # of a list without direction
    same = (found.grades == found.grades[0]).all()
    return torch.where(same, 0.0, 0.5 * (u - v).square().sum() + lost) + zero(x)


@collective
def rank_kl_loss(scores: Tensor, grades: Tensor, *, temperature: float = 0.05, group: Group = None) -> Tensor:
    """The softmax of the scores should match the softmax of the grades' ranks, whatever the distances between grades.

        L = KL( softmax(r / temperature) | softmax(scores / temperature) ) / N

    r_i in [0, 1] is the share of the other items with a lower grade, counting those with the same grade half.

    Args:
        scores: (N,), such as cosines of N pairs of texts; float32 | bfloat16 | float16 | float64.
        grades: (N,) numbers; no gradient.
        temperature: > 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: the list covers all ranks.

    Returns: float32 (float64 for float64 scores), one number for the list.
    Cost: O(N log N).

    Example:
        >>> scores, grades = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([5.0, 0.0, 3.0])
        >>> bool(rank_kl_loss(scores, grades) < rank_kl_loss(-scores, grades))
        True

    Source: CoDiEmb, https://arxiv.org/abs/2508.11442; official code TencentCloudADP/youtu-embedding,
    training/CoDiEmb/train/loss.py, RankKLDivergenceLoss, whose batchmean divides by N.
    """
    found = Graded.of(scores, grades, EngineOptions.of(None, "auto", group))
    x, n = found.scores / positive_number("temperature", temperature), len(found.scores)
    if not n:
        return zero(x)
    target = (found.ranks() / (max(n - 1, 1) * temperature)).softmax(0)
    return F.kl_div(x.log_softmax(0), target.to(x.dtype), reduction="sum") / n


@dataclass(frozen=True)
class Graded:
    """The list of all ranks."""

    scores: Tensor  # (N,), in the type of statistics
    grades: Tensor  # (N,) float64

    @staticmethod
    def of(scores: Tensor, grades: Tensor, engine: EngineOptions) -> Graded:
        for name, x in (("scores", scores), ("grades", grades)):
            if check.tensor(name, x).dim() != 1:
                raise ValueError(f"{name} must have shape (N,), got {tuple(x.shape)}")
            check.same_device(name, x, scores.device)
        check.same_shape("grades", grades, "scores", scores)
        if grades.is_complex():
            raise TypeError(f"grades must be real numbers, got {grades.dtype}")
        if scores.dtype not in check.FEATURE_DTYPES:
            raise TypeError(f"scores must be float32, bfloat16, float16 or float64, got {scores.dtype}")
        if grades.requires_grad:
            raise ValueError("grades must not require grad: they have none; give grades.detach()")
        wide = grades.double()
        check.condition("grades must be finite", wide.isfinite())
        batch = GlobalBatch.of(engine.ranks, scores.shape[0])
        return Graded(batch.gather(upcast(scores)), batch.gather(wide))

    def lower(self) -> Tensor:
        """How many items have a lower grade, (N,) int64."""
        return torch.searchsorted(self.grades.sort().values, self.grades)

    def ranks(self) -> Tensor:
        """From 0 for the lowest; equal grades share the mean of theirs."""
        upto = torch.searchsorted(self.grades.sort().values, self.grades, right=True)
        return 0.5 * (self.lower() + upto - 1).double()


def positive_number(name: str, x: float) -> float:
    value = check.scalar(name, x, positive=True)
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number, got a tensor")
    return value
