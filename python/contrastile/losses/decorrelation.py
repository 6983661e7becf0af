"""Losses of D x D matrices: cross-correlations (Barlow Twins, BarLIP), the consistency of two geometries (CyCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check, matmul, widest_dtype
from ..ranks import GlobalBatch, Group, collective
from .common import at_least_one, feature_pair, like_statistics, number, upcast, zero
from .weights import Counted

EPS = 1e-5  # added to variances, as batch normalisation does


@collective
def barlow_twins_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    off_diagonal_weight: float | Tensor = 0.005,
    standardize: bool = True,
    present: Tensor | None = None,
    group: Group = None,
) -> Tensor:
    """Barlow Twins: each feature of one view correlates with the same feature of the other view, and with no other.

        L = sum_a (C_aa - 1)^2 + off_diagonal_weight sum_{a != b} C_ab^2,    C_ab = 1/N sum_i u_ia v_ib

    where u and v are z1 and z2 with each feature standardized over the batch, (z - mean) / sqrt(variance + 1e-5).

    Args:
        z1, z2: Two views of the same N instances, (N, D); rows need not be unit.
        off_diagonal_weight: A float or a 0-dim tensor.
        standardize: False uses u = z1 and v = z2, for features that a batch normalization has standardized (BarLIP).
        present: (N,) bool: all means cover the instances that are present. The features of others may hold anything and
            get gradient 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: batch statistics and C cover all
            ranks. D x D numbers travel, or, where the global batch has at most D / 2 instances, the features.

    Returns: float32 (float64 for float64 features), one number for the batch. An empty batch gives 0, one instance D.
    Cost: 6 N D^2 FLOP forward and backward and D^2 numbers, or, for 2 N <= D, 12 N^2 D and 2 N^2: sum_ab C_ab^2 = <u
    u^T, v v^T> / N^2.

    Example:
        >>> z1, z2 = torch.randn(2, 32, 16)
        >>> loss = barlow_twins_loss(z1, z2)

    Source: Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1 and 2, official code (weight 0.0051 there);
    Fini et al. 2023 (BarLIP), https://arxiv.org/abs/2305.08675.
    """
    counted, batch, u, v = prepared("z1", z1, "z2", z2, standardize, present, group)
    weight = number("off_diagonal_weight", off_diagonal_weight, u)
    if batch.total == 0:
        return zero(u, v, weight)
    count = items(counted, batch)
    if check.plain(u) and 2 * batch.total <= u.shape[1]:  # a graph is for batches of any size
        own = batch.sum((u * v).sum(0)) / count
        grams = [matmul(x, batch.gather(x).T) for x in (u, v)]
        squares = batch.sum((grams[0] * grams[1]).sum()) / count**2
        others = squares - own.square().sum()
    else:
        matrix = batch.sum(matmul(u.T, v)) / count
        own = matrix.diagonal()
        others = (matrix - own.diag()).square().sum()
    value = (own - 1.0).square().sum() + weight * others
    there = counted.count(batch)
    return torch.where(there > 0, value, 0.0) if isinstance(there, Tensor) else value


@collective
def cross_correlation(
    x: Tensor, y: Tensor, *, standardize: bool = True, present: Tensor | None = None, group: Group = None
) -> Tensor:
    """The correlation of every feature of x with every feature of y over a batch, (D, D).

        C_ab = 1/N sum_i u_ia v_ib

    where u and v are x and y with each feature standardized over the batch, (z - mean) / sqrt(variance + 1e-5).

    Args:
        x, y: (N, D), pairs; rows need not be unit.
        standardize: False uses u = x and v = y.
        present: (N,) bool: all means cover the items that are present. The features of others may hold anything and get
            gradient 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: batch statistics and C cover all
            ranks.

    Returns: float32 (float64 for float64 features). An empty batch gives zeros.
    Cost: 6 N D^2 FLOP forward and backward.

    Example:
        >>> x, y = torch.randn(2, 32, 16)
        >>> cross_correlation(x, y).shape
        torch.Size([16, 16])

    Source: Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 2.
    """
    counted, batch, u, v = prepared("x", x, "y", y, standardize, present, group)
    return batch.sum(matmul(u.T, v)) / items(counted, batch)


def prepared(
    x_name: str, x: Tensor, y_name: str, y: Tensor, standardize: bool, present: Tensor | None, group: Group
) -> tuple[Counted, GlobalBatch, Tensor, Tensor]:
    """What counts, the batch, and both features, standardised if asked."""
    counted = Counted.of(None, present, check.features(x_name, x))
    x, y = feature_pair(x_name, x, y_name, y, False, counted.present)
    batch = GlobalBatch.of(group, x.shape[0], facts=counted.facts)
    x, y = upcast(x), upcast(y)
    if standardize:
        x, y = standardized(x, batch, counted), standardized(y, batch, counted)
    return counted, batch, x, y


def items(counted: Counted, batch: GlobalBatch) -> int | Tensor:
    """How many items take part, at least 1."""
    return at_least_one(counted.count(batch)) if batch.total else 1


def standardized(x: Tensor, batch: GlobalBatch, counted: Counted) -> Tensor:
    """Mean 0 and variance 1 of every feature; an instance that is missing stays 0."""
    count = items(counted, batch)
    x = x - batch.sum(x.sum(0)) / count
    if counted.present is not None:
        x = torch.where(counted.present.unsqueeze(1), x, 0.0)
    return x * torch.rsqrt(batch.sum(x.square().sum(0)) / count + EPS)


@collective
def in_modal_consistency(
    x: Tensor, y: Tensor, *, present: Tensor | None = None, normalize: bool = False, group: Group = None
) -> Tensor:
    """In-modal consistency (CyCLIP): two items are as similar in one modality as in the other.

        L = 1/N sum_ij ( <x_i, x_j> - <y_i, y_j> )^2

    Args:
        x, y: Pairs of two modalities, (N, D); unit rows in the paper, or set normalize=True.
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks;
            3 D^2 numbers travel.

    Returns: float32 (float64 for float64 features), one number for the batch. An empty batch gives 0. Computed in
    float64 from x + y and x - y, so that nearly equal modalities keep their digits.
    Cost: 18 N D^2 FLOP forward and backward, without a matrix of pairs.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = clip_loss(x, y, 14.3) + 0.25 * in_modal_consistency(x, y)

    Source: Goel et al. 2022 (CyCLIP), https://arxiv.org/abs/2205.14459, L_I-Cyclic; official code, whose logit_scale
    cancels.
    """
    straight, crossed, count = consistency(x, y, present, normalize, group)
    return like_statistics((straight + crossed) / count, x)


@collective
def cross_modal_consistency(
    x: Tensor, y: Tensor, *, present: Tensor | None = None, normalize: bool = False, group: Group = None
) -> Tensor:
    """Cross-modal consistency (CyCLIP): x_i matches y_j as well as x_j matches y_i.

        L = 1/N sum_ij ( <x_i, y_j> - <x_j, y_i> )^2

    Args:
        x, y: Pairs of two modalities, (N, D); unit rows in the paper, or set normalize=True.
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks;
            3 D^2 numbers travel.

    Returns: float32 (float64 for float64 features), one number for the batch. An empty batch gives 0. Computed in
    float64 from x + y and x - y, so that nearly equal modalities keep their digits.
    Cost: 18 N D^2 FLOP forward and backward, without a matrix of pairs.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = clip_loss(x, y, 14.3) + 0.25 * cross_modal_consistency(x, y)

    Source: Goel et al. 2022 (CyCLIP), https://arxiv.org/abs/2205.14459, L_C-Cyclic; official code.
    """
    straight, crossed, count = consistency(x, y, present, normalize, group)
    return like_statistics((straight - crossed) / count, x)


def consistency(
    x: Tensor, y: Tensor, present: Tensor | None, normalize: bool, group: Group
) -> tuple[Tensor, Tensor, int | Tensor]:
    """1/2 tr(S^T S R^T R), 1/2 tr(R^T S R^T S) and the number of items, with S = X + Y and R = X - Y:

    X X^T - Y Y^T = 1/2 (S R^T + R S^T),    Y X^T - X Y^T = 1/2 (S R^T - R S^T)
    """
    counted = Counted.of(None, present, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize, counted.present)
    batch = GlobalBatch.of(group, x.shape[0], facts=counted.facts)
    kind = widest_dtype(x)
    x, y = x.to(kind), y.to(kind)
    s, r = x + y, x - y
    of_s, of_r, both = batch.sum(torch.stack([matmul(s.T, s), matmul(r.T, r), matmul(r.T, s)])).unbind(0)
    return 0.5 * (of_s * of_r).sum(), 0.5 * (both * both.T).sum(), items(counted, batch)
