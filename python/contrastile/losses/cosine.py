"""The cosine of matched rows: the loss of SimSiam and BYOL, of inversions, mappings and regularisers."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import Reduction
from ..ops import check, stat_dtype
from ..ranks import GlobalBatch, Group, collective
from .common import REDUCTIONS, as_rows, cleaned, of_rows, reduced_empty, unit
from .weights import Counted

CosineForm: TypeAlias = Literal["distance", "negative", "squared"]


@collective
def cosine_loss(
    x: Tensor,
    y: Tensor,
    *,
    form: CosineForm = "distance",
    detach_target: bool = False,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    group: Group = None,
) -> Tensor:
    """Cosine loss: each row should point where its partner points.

        L_i = 1 - c_i ("distance"),    -c_i ("negative"),    2 - 2 c_i ("squared"),    c_i = cos(x_i, y_i)

    Args:
        x, y: (N, D), or (N, L, D) for tokens of items, where L_i is per token. They need not be unit.
        form: "squared" is the squared distance of the unit rows (BYOL), "negative" is SimSiam's. The gradients of the
            forms differ by a constant factor at most.
        detach_target: True: y gets no gradient.
        mask: (N,) or (N, L) bool, True for rows that take part. The others may hold anything.
        weights: (N,) or (N, L) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w.
        reduction: "mean" over all rows that take part, "sum", or "none": (N,) or (N, L).
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the rows of all
            ranks.

    Returns: float32 (float64 for float64 features); 0 if no row takes part. The cosine of a row of zeros is 0, without
    gradient. A small distance keeps its digits.
    Cost: O(N D), no pairs.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> simsiam = cosine_loss(x, y, form="negative", detach_target=True)
        >>> tokens = cosine_loss(torch.randn(8, 5, 16), torch.randn(8, 5, 16), mask=torch.rand(8, 5) < 0.8)

    Source: Chen and He 2020 (SimSiam), https://arxiv.org/abs/2011.10566, eq. 1; Grill et al. 2020 (BYOL),
    https://arxiv.org/abs/2006.07733, eq. 2; torch.nn.CosineEmbeddingLoss of matched rows.
    """
    check.choice("reduction", reduction, REDUCTIONS)
    check.choice("form", form, get_args(CosineForm))
    rows, shape = as_rows("x", x)
    check.same_shape("y", check.features("y", y, ndim=x.dim()), "x", x)
    check.same_device("y", y, x.device)
    x, y, n = rows, y.flatten(0, -2), rows.shape[0]
    if mask is not None:
        mask = check.bool_mask("mask", mask, shape, x.device).flatten()
    counted = Counted.weighted(None if weights is None else of_rows("weights", weights, shape), mask, x, n)
    batch = GlobalBatch.of(group, n, facts=lambda: dict(**counted.facts(), detach_target=bool(detach_target)))
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y).reshape(shape if reduction == "none" else ())
    if detach_target:
        y = y.detach()
    wide = torch.promote_types(stat_dtype(x.dtype), stat_dtype(y.dtype))
    rows = distances(cleaned(x.to(wide), mask), cleaned(y.to(wide), mask))
    rows = {"distance": rows, "negative": rows - 1.0, "squared": 2.0 * rows}[form]
    found = counted.reduced(batch, rows, reduction)
    return found.reshape(shape) if reduction == "none" else found


def distances(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos(x_i, y_i) as half the squared distance of unit rows, which cancels less; 1 for rows of zeros."""
    x, y = unit(x, True), unit(y, True)
    missing = sum((z.detach().square().sum(1) < 0.5).to(z.dtype) for z in (x, y))
    return 0.5 * ((x - y).square().sum(1) + missing)
