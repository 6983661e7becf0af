"""What the dense losses share: masks as -inf, reductions, the 2N x 2N logits of two views."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Tensor])
Scalar = float | Tensor  # a 0-dim tensor may require grad


def unit(x: Tensor, normalize: bool) -> Tensor:
    """x with unit rows if `normalize`, else x itself. Rows with a norm of at most 1e-12 become constant zeros."""
    if not normalize:
        return x
    squares = x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(dim=-1, keepdim=True)
    short = squares.sqrt() <= 1e-12
    safe = torch.where(short, torch.ones_like(x), x)  # in the place of a row without derivatives one that has them
    return torch.where(short, torch.zeros_like(x), safe / safe.norm(dim=-1, keepdim=True))


def masked_logsumexp(logits: Tensor, keep: Tensor) -> Tensor:
    """log sum_{j kept} exp(logits_ij) per row; -inf where a row keeps nothing."""
    return logits.masked_fill(~keep, -torch.inf).logsumexp(dim=1)


def reduce_rows(
    rows: Tensor, reduction: str, weights: Tensor | None = None, present: Tensor | None = None, views: int = 1
) -> Tensor:
    """Mean, sum or the rows themselves; the mean over no rows is 0.

    weights: w_i of each item, of which every view has a row: w_i L_i, and the mean is divided by sum w_i. present: (N,)
    bool; rows are those of the items that are there, those of the others are 0 and have no part in the mean.
    """
    each = torch.ones_like(rows) if weights is None else weights.repeat(views)
    if present is not None:
        there = present.repeat(views)
        each = there.to(rows) if weights is None else there * each
        rows = rows.new_zeros(len(there)).masked_scatter(there, rows)
    if reduction == "none":
        return rows * each
    if reduction == "sum":
        return (rows * each).sum()
    if reduction == "mean":
        total = each.sum()
        return (rows * each).sum() / torch.where(total > 0, total, torch.ones_like(total))
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def direction_weights(direction: str) -> tuple[float, float]:
    """What the losses of rows and of columns count."""
    weights = {"mean": (0.5, 0.5), "sum": (1.0, 1.0), "rows": (1.0, 0.0), "cols": (0.0, 1.0)}
    return weights[direction]


def of_present(x: Scalar | None, present: Tensor | None) -> Any:
    """The items that are there of what has one for each item."""
    return x if x is None or present is None or not isinstance(x, Tensor) or x.dim() == 0 else x[present]


def two_view_logits(z1: Tensor, z2: Tensor, temperature: Scalar, detach_keys: bool = False) -> tuple[Tensor, Tensor]:
    """Logits of the rows [z1; z2] against each other, (2N, 2N), and of their positives, (2N,)."""
    z = torch.cat([z1, z2])
    logits = z @ (z.detach() if detach_keys else z).T / temperature
    return logits, torch.cat([logits.diagonal(len(z1)), logits.diagonal(-len(z1))])


def reduce_views(
    rows: Tensor, direction: str, reduction: str, weights: Tensor | None, present: Tensor | None
) -> Tensor:
    """Of 2N rows [z1; z2]: both, one side, or for "sum" the sum of both sides' means."""
    n = len(rows) // 2
    if direction == "sum" and reduction == "mean":
        return reduce_rows(rows[:n], "mean", weights, present) + reduce_rows(rows[n:], "mean", weights, present)
    chosen = {"rows": rows[:n], "cols": rows[n:]}.get(direction, rows)
    return reduce_rows(chosen, reduction, weights, present, views=1 if direction in ("rows", "cols") else 2)


def other_instances(z1: Tensor) -> Tensor:
    """(2N, 2N) bool: the column is neither the row itself nor the other view of its instance."""
    instance = torch.arange(len(z1), device=z1.device).repeat(2)
    return instance[:, None] != instance[None, :]


def over_prefixes(*features: str) -> Callable[[F], F]:
    """Gives a loss its arguments matryoshka and matryoshka_weights: the weighted sum of a call for each prefix of the
    features that are named here."""

    def decorate(loss: F) -> F:
        @wraps(loss)
        def total(*args: Any, matryoshka: Any = None, matryoshka_weights: Any = None, **kwargs: Any) -> Tensor:
            if matryoshka is None:
                return loss(*args, **kwargs)
            given = dict(zip(loss.__code__.co_varnames, args, strict=False)) | kwargs
            losses = []
            for m in matryoshka:
                cut = {name: given[name][..., :m] for name in features if given.get(name) is not None}
                losses.append(loss(**{**given, **cut}))
            weights = [1.0] * len(losses) if matryoshka_weights is None else matryoshka_weights
            return sum((w * x for w, x in zip(weights, losses, strict=True)), torch.zeros_like(losses[0]))

        return total  # type: ignore[return-value]

    return decorate
