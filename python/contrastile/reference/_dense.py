"""What the dense losses share: masks as -inf, reductions, the 2N x 2N logits of two views."""

import torch
from torch import Tensor

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


def reduce_rows(rows: Tensor, reduction: str) -> Tensor:
    """Mean, sum or the rows themselves; the mean over no rows is 0."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if reduction == "mean":
        return rows.sum() / max(rows.numel(), 1)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def two_view_logits(z1: Tensor, z2: Tensor, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """Logits of the rows [z1; z2] against each other, (2N, 2N), and of their positives, (2N,)."""
    z = torch.cat([z1, z2])
    positive = (z1 * z2).sum(dim=1) / temperature
    return z @ z.T / temperature, positive.repeat(2)


def other_instances(z1: Tensor) -> Tensor:
    """(2N, 2N) bool: the column is neither the row itself nor the other view of its instance."""
    instance = torch.arange(len(z1), device=z1.device).repeat(2)
    return instance[:, None] != instance[None, :]
