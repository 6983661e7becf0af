"""Entropic optimal transport between two sets, on the streamed matrix of their dot products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.common import upcast
from ..losses.distill import distill_info_nce
from ..ops import check, row_lse, stat_dtype
from ..ranks import GlobalBatch, Group, collective
from .candidates import count


class Potentials(NamedTuple):
    """What `sinkhorn_potentials` found: the plan is P_ij = e^(<a_i, b_j> / eps + rows_i + cols_j), of total mass 1.

    Args:
        rows: (N,).
        cols: (M,).

    Example:
        >>> potentials = sinkhorn_potentials(torch.eye(3), torch.eye(3))
        >>> potentials.rows.shape
        torch.Size([3])
    """

    rows: Tensor  # (N,)
    cols: Tensor  # (M,)


@collective
def sinkhorn_potentials(
    a: Tensor, b: Tensor, *, eps: float = 0.05, iterations: int = 3, group: Group = None
) -> Potentials:
    """Sinkhorn's iterations without the N x M plan: in turn, columns and then rows are brought to equal masses.

        cols_j = -log M - log sum_i e^(<a_i, b_j> / eps + rows_i)
        rows_i = -log N - log sum_j e^(<a_i, b_j> / eps + cols_j)

    from rows = 0. Afterwards every row has mass 1 / N; columns have 1 / M as far as the iteration has converged.

    Args:
        a, b: (N, D), (M, D), float32 | bfloat16 | float16 | float64; not normalized here.
        eps: > 0, in units of the dot products; the smaller, the sharper the plan and the slower the convergence.
        iterations: >= 1.
        group: None: this process only. "world", a process group, or distributed.Ranks: a and b are this rank's share.

    Returns: Potentials(rows, cols), float32 (float64 for float64 features), in logs, so that no exponential overflows.
    No gradient. Zeros where there is no row or no column at all.

    Cost: 4 N M D FLOP per iteration, O((N + M) D) memory.

    Example:
        >>> a, b = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=2)
        >>> rows, cols = sinkhorn_potentials(a, b)
        >>> plan = (a @ b.T / 0.05 + rows[:, None] + cols).exp()
        >>> torch.allclose(plan.sum(1), torch.full((6,), 1 / 6))
        True

    Source: Cuturi 2013, https://arxiv.org/abs/1306.0895; as in SwALIP, https://arxiv.org/abs/2305.08675, official code
    facebookresearch/clip-rocket, losses.py.
    """
    scale = 1.0 / positive("eps", eps)
    count("iterations", iterations)
    a, b = check.features("a", a).detach(), check.features("b", b).detach()
    check.same_width("b", b, "a", a)
    check.same_device("b", b, a.device)
    n, m = (batch.total for batch in GlobalBatch.several(group, [a.shape[0], b.shape[0]]))
    kind = stat_dtype(torch.promote_types(a.dtype, b.dtype))
    rows, cols = (x.new_zeros(x.shape[0], dtype=kind) for x in (a, b))
    if n == 0 or m == 0:
        return Potentials(rows, cols)
    with torch.no_grad():
        sizes = torch.tensor([n, m], dtype=kind, device=a.device).log()
        for _ in range(iterations):
            cols = -sizes[1] - row_lse(b, a, scale=scale, col_bias=rows, group=group)
            rows = -sizes[0] - row_lse(a, b, scale=scale, col_bias=cols, group=group)
    return Potentials(rows, cols)


@collective
def swapped_prediction_loss(
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    logit_scale: float | Tensor,
    *,
    eps: float = 0.05,
    iterations: int = 3,
    detach_keys: bool = False,
    group: Group = None,
) -> Tensor:
    """SwALIP: with two views of images and of texts, each pair predicts the assignment of the pair of the other views.

        L = 1/4 sum_{a, b in {0, 1}} 1/2 [ CE(s I_a T_b', Q(I_{1-a}, T_{1-b})) + CE(s T_a I_b', Q(T_{1-a}, I_{1-b})) ]

    Q(x, y), N times the plan of `sinkhorn_potentials`, has rows of sum 1: soft targets without gradient.

    Args:
        images, texts: Two tensors each, (N, D), unit rows.
        logit_scale: > 0, a float or a 0-dim tensor (the exponential of the learned parameter).
        eps: > 0, the sharpness of the plan in units of the dot products.
        iterations: >= 1, of Sinkhorn.
        detach_keys: The official code's gather: each direction trains only its queries.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks.

    Returns: A 0-dim tensor, nats. CLIP-rocket adds 0.2 of it to its other terms.

    Cost: (96 + 32 iterations) N^2 D FLOP, forward and backward: 8 cross-entropies with soft targets and as many plans;
    O(N D) memory.

    Example:
        >>> views = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=2)
        >>> loss = swapped_prediction_loss(views[:2], views[2:], 10.0)

    Source: Fini et al. 2023, https://arxiv.org/abs/2305.08675; official code facebookresearch/clip-rocket, losses.py
    (SwALIPLoss).
    """
    sides = [two("images", images), two("texts", texts)]
    first = sides[0][0]
    for name, views in zip(("images", "texts"), sides, strict=True):
        for index, view in enumerate(views):
            check.same_shape(f"{name}[{index}]", view, "images[0]", first)
            check.same_device(f"{name}[{index}]", view, first.device)
    scale = check.scalar("logit_scale", logit_scale, positive=True, device=first.device)
    total = upcast(first).new_zeros(())
    for x, y in (sides, sides[::-1]):
        for one in range(2):
            for other in range(2):
                query, key = assignment(x[1 - one], y[1 - other], eps, iterations, group)
                found = y[other].detach() if detach_keys else y[other]
                total = total + distill_info_nce(
                    x[one], found, query, key, temperature=1.0 / scale, teacher_temperature=eps, alpha=1.0,
                    group=group,
                )  # fmt: skip
    return total / 8.0


def assignment(a: Tensor, b: Tensor, eps: float, iterations: int, group: Group) -> tuple[Tensor, Tensor]:
    """Features whose softmax at temperature eps is the plan, row by row."""
    cols = sinkhorn_potentials(a, b, eps=eps, iterations=iterations, group=group).cols.unsqueeze(1)
    wide_a, wide_b = a.detach().to(cols.dtype), b.detach().to(cols.dtype)
    return torch.cat([wide_a, cols.new_full((a.shape[0], 1), eps)], 1), torch.cat([wide_b, cols], 1)


def two(name: str, views: Sequence[Tensor]) -> Sequence[Tensor]:
    if not isinstance(views, (Tensor, list, tuple)):
        raise TypeError(f"{name} must be two tensors, got {type(views).__name__}")
    if len(views) != 2:
        raise ValueError(f"{name} must be two views, got {len(views)}")
    return [check.features(f"{name}[{index}]", x) for index, x in enumerate(views)]


def positive(name: str, x: float) -> float:
    value = check.scalar(name, x, positive=True)
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number, got a tensor")
    return value
