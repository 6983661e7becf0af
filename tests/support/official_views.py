"""Formulas of official multi-view code, restated: dense, on raw exponentials. Views (k, N, D) of unit rows.

pakoromilas/Multi-View-CL @c26ae77, models/losses.py, and pakoromilas/DHEL-KCL @dc5a477, losses.py and utils.py. They
normalise inside and take the views as (k N, D), which changes nothing here.
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def off_diagonal_sums(x: Tensor, temperature: float | Tensor) -> Tensor:
    """sum_{j != i} e^{<x_i, x_j> / temperature}, the diagonal cut out of the matrix."""
    n = x.shape[0]
    e = torch.exp(x @ x.T / temperature)
    return e[~torch.eye(n, dtype=torch.bool)].view(n, n - 1).sum(1)


def pair_sums(views: Tensor, temperature: float | Tensor) -> Tensor:
    """sum_{l < m} e^{<u_li, u_mi> / temperature}, (N,)."""
    k = views.shape[0]
    products = torch.einsum("ind,jnd->ijnd", views, views)[torch.ones(k, k).triu(1).bool()]
    return torch.exp(products.sum(-1) / temperature).sum(0)


def mv_infonce(views: Tensor, *, temperature: float | Tensor) -> Tensor:
    """MVINFONCE."""
    denominator = off_diagonal_sums(views.flatten(0, 1), temperature).view(views.shape[:2]).sum(0)
    return -torch.log(2 * pair_sums(views, temperature) / denominator).mean()


def mv_dhel(views: Tensor, *, temperature: float | Tensor) -> Tensor:
    """MVDHEL."""
    energies = torch.stack([off_diagonal_sums(view, temperature) for view in views])
    return -torch.log(pair_sums(views, temperature) / energies.prod(0)).mean()


def dhel(a: Tensor, b: Tensor, *, temperature: float | Tensor, include_augs: bool = True) -> Tensor:
    """DHEL, and NTXentHPS of the other repository."""
    energy = off_diagonal_sums(a, temperature)
    if include_augs:
        energy = energy * off_diagonal_sums(b, temperature)
    return -torch.log(torch.exp((a * b).sum(-1) / temperature) / energy).mean()


def pvc_losses(views: Tensor, temperature: float | Tensor) -> Tensor:
    """The mean over the batch of the cross-entropy of view m given view l, (k, k - 1), as PVCLoss masks it."""
    k, n, _ = views.shape
    scores = torch.einsum("jad,bnd->jabn", views.transpose(0, 1), views) / temperature
    rows = []
    for anchor in range(k):
        row = []
        for other in (m for m in range(k) if m != anchor):
            hidden = torch.eye(n, dtype=views.dtype)[:, None] * (torch.arange(k) != other)[:, None]
            logits = (scores[:, anchor] - 1e9 * hidden).flatten(1)
            row.append(F.cross_entropy(logits, torch.arange(n) + other * n))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def pvc_geometric(views: Tensor, *, temperature: float | Tensor) -> Tensor:
    """PVCLoss, method "geometric"."""
    return pvc_losses(views, temperature).mean()


def pvc_arithmetic(views: Tensor, temperature: float | Tensor) -> Tensor:
    """PVCLoss, method "arithmetic": not the arithmetic mean of likelihoods that the name promises."""
    losses = pvc_losses(views, temperature)
    return (losses.logsumexp(1) - torch.tensor(float(views.shape[1])).log()).mean()


def softmax_of_pairs(z: Tensor, tau: float | Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """NTXent.pairwise_loss of rows already normalised, and its accuracy; positives (n, p): row numbers."""
    logits = (z @ z.T / tau).fill_diagonal_(-1e9)
    loss = -logits.log_softmax(1).gather(1, positives).mean()
    best = logits.topk(positives.shape[1], dim=1)[1].sort(1)[0]
    return loss, (best == positives.sort(1)[0]).all(1).float()


def shifted(rows: int, m: int) -> Tensor:
    return (torch.arange(rows)[:, None] + torch.arange(1, m) * rows // m) % rows


def nt_xent(
    views: Tensor, tau: float | Tensor, pwe: bool = False, average: bool = False, mv: bool = False
) -> tuple[Tensor, Tensor]:
    """NTXent: loss and accuracy."""
    k = len(views)
    if pwe or average:
        pairs = combinations(views, 2) if pwe else [(v, others(views, i)) for i, v in enumerate(views)]
        found = [softmax_of_pairs(torch.cat(pair), tau, shifted(2 * len(views[0]), 2)) for pair in pairs]
        return tuple(torch.stack(x).mean(0) for x in zip(*found, strict=True))
    z = views.flatten(0, 1)
    return softmax_of_pairs(z, tau, shifted(len(z), k if mv else 2))


def others(views: Tensor, i: int) -> Tensor:
    return torch.cat([views[:i], views[i + 1 :]]).mean(0)
