"""Uniformity and alignment: the two properties a contrastive loss trades."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import check, pair_reduce
from ..ranks import Batch, Group, announced
from .common import LossModule, check_options, feature_pair, log_count, wide, zero


@announced
def uniformity(
    x: Tensor,
    y: Tensor | None = None,
    *,
    t: float = 2.0,
    memory_budget: int | None = None,
    backend: str = "auto",
    group: Group = None,
) -> Tensor:
    """Uniformity: the logarithm of the mean Gaussian potential over pairs of different items.

        L = log mean_{i < j} e^{-t |x_i - x_j|^2},        with y:  L = log mean_{i != j} e^{-t |x_i - y_j|^2}

    Args:
        x, y: (N, D). Not normalised here and not assumed to be: distances are exact up to float32 rounding of |x|^2.
        t: > 0, inverse squared length.

    Returns: float32, nats, <= 0. Fewer than two items: 0. Cost: 4 N^2 D FLOP forward and backward (with y 8).

    Source: Wang and Isola 2020, arXiv 2005.10242, eq. 4; the cross form: the contrastive-gap paper's L_XU.
    """
    check_options("mean", memory_budget, backend)
    if y is None:
        check.features("x", x)
    else:
        x, y = feature_pair("x", x, "y", y, normalize=False)
    scale = check.scalar("t", t, positive=True, device=x.device)
    batch = Batch.of(group, x.shape[0], two_sides=y is not None)
    if batch.total < 2:
        return zero(x, y, scale)
    engine = {"memory_budget": memory_budget, "compute_dtype": x.dtype, "backend": backend}
    return log_potential(wide(x), None if y is None else wide(y), scale, batch, **engine)


def log_potential(x: Tensor, y: Tensor | None, t: float | Tensor, batch: Batch, **engine: Any) -> Tensor:
    """`uniformity` of at least two items, of widened features: the two parts of a distance's gradient must cancel
    before they are rounded."""
    row_bias = -t * x.square().sum(1)
    col_bias = row_bias if y is None else -t * y.square().sum(1)
    rows = pair_reduce(
        x, y, scale=2.0 * t, row_bias=row_bias, col_bias=col_bias, keep="not_same_index",
        group=batch.ranks, **engine,
    ).rows  # fmt: skip
    return batch.logsumexp(rows) - log_count(batch.total * (batch.total - 1), rows)


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Alignment: the mean distance of positive pairs, to the power alpha.

        L = mean_i |x_i - y_i|^alpha

    Args: x, y: (N, D) pairs. alpha >= 1: the gradient at distance 0 is 0, below 1 it would be infinite. No
            pairs are compared: O(N D).

    Source: Wang and Isola 2020, arXiv 2005.10242, eq. 3.
    """
    power = check.scalar("alpha", alpha)
    if isinstance(power, Tensor) or power < 1.0:
        raise ValueError(f"alpha must be a number >= 1, got {alpha}")
    x, y = feature_pair("x", x, "y", y, normalize=False)
    if x.shape[0] == 0:
        return zero(x, y)
    distance: Tensor = torch.linalg.vector_norm(wide(x) - wide(y), dim=1)
    return distance.pow(power).mean()


class Uniformity(LossModule):
    """Module twin of uniformity; forward(x) or forward(x, y)."""

    function = staticmethod(uniformity)

    def __init__(
        self, t: float = 2.0, *, memory_budget: int | None = None, backend: str = "auto", group: Group = None
    ) -> None:
        super().__init__(t=t, memory_budget=memory_budget, backend=backend, group=group)


class Alignment(LossModule):
    """Module twin of alignment; forward(x, y)."""

    function = staticmethod(alignment)

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(alpha=alpha)
