"""How two sets of embeddings lie to each other, and how much of their space one set fills.

`contrastile.alignment` and `contrastile.uniformity` are losses and metrics in one; these are metrics alone. Rows are
normalised where it says so, computed in float32 (float64 for float64 features).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.common import feature_pair, unit, upcast
from ..ops import check, no_autocast


def centroid_distance(x: Tensor, y: Tensor) -> Tensor:
    """Modality gap: the distance between the centroids of two sets of unit vectors, in [0, 2].

        | mean_i x_i / |x_i| - mean_i y_i / |y_i| |

    Args:
        x, y: (N, D), N >= 1. Rows are normalized here.

    Returns: A 0-dim tensor.

    Example:
        >>> centroid_distance(torch.ones(8, 16), -torch.ones(8, 16)).item()
        2.0

    Source: Liang et al. 2022, https://arxiv.org/abs/2203.02053; as the contrastive-gap paper,
    https://arxiv.org/abs/2405.18570, reports it.
    """
    first, second = centroids(x, y)
    distance: Tensor = torch.linalg.vector_norm(first - second)
    return distance


def centroid_cosine(x: Tensor, y: Tensor) -> Tensor:
    """The cosine between the centroids of two sets of unit vectors, in [-1, 1]; 0 if one centroid is 0.

    Args:
        x, y: (N, D), N >= 1. Rows are normalized here.

    Returns: A 0-dim tensor.

    Example:
        >>> x = torch.randn(8, 16)
        >>> round(centroid_cosine(x, 2.0 * x).item(), 4)
        1.0

    Source: Contrastive-gap paper, https://arxiv.org/abs/2405.18570; official code abrar-fahim/contrastive-gap,
    src/evaluator.py.
    """
    first, second = centroids(x, y)
    return (unit(first, True, least=1e-8) * unit(second, True, least=1e-8)).sum()


def positive_cosine(x: Tensor, y: Tensor) -> Tensor:
    """The mean cosine of matched rows, in [-1, 1].

    Args:
        x, y: (N, D) pairs, N >= 1. Rows are normalized here.

    Returns: A 0-dim tensor.

    Example:
        >>> x = torch.randn(8, 16)
        >>> round(positive_cosine(x, -x).item(), 4)
        -1.0

    Source: Contrastive-gap paper, https://arxiv.org/abs/2405.18570.
    """
    x, y = unit_pair(x, y)
    return (x * y).sum(1).mean()


def linear_separability(
    x: Tensor,
    y: Tensor,
    *,
    train_fraction: float = 0.2,
    penalty: float = 1.0,
    generator: torch.Generator | None = None,
) -> float:
    """How well a linear classifier tells two sets of embeddings apart: its accuracy on pairs it has not seen.

    1 where a hyperplane separates the modalities, 0.5 where nothing does. Logistic regression with a bias minimizes
    sum_i log(1 + e^{-l_i (<w, z_i> + c)}) + penalty / 2 |w|^2 over both rows of the training pairs, with l = -1 for x
    and +1 for y.

    Args:
        x, y: (N, D) pairs, N >= 2. Rows are normalized here.
        train_fraction: The share of pairs to fit on, in (0, 1); at least one pair stays on either side. The paper uses
            0.2; its code evaluates the final embeddings with 0.8.
        penalty: >= 0; 1 is scikit-learn's default, which the code uses.
        generator: Chooses the pairs, on the CPU. None: the same pairs in every call.

    Returns: The accuracy over both rows of the remaining pairs, a float. No gradient.

    Raises: ValueError: also for features that are not finite.

    Example:
        >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> linear_separability(x + 9.0, x - 9.0)
        1.0

    Source: Contrastive-gap paper, https://arxiv.org/abs/2405.18570; official code abrar-fahim/contrastive-gap,
    src/evaluator.py.
    """
    fraction, weight = check.scalar("train_fraction", train_fraction), check.scalar("penalty", penalty)
    if isinstance(fraction, Tensor) or not 0.0 < fraction < 1.0:
        raise ValueError(f"train_fraction must be a number in (0, 1), got {train_fraction}")
    if isinstance(weight, Tensor) or weight < 0.0:
        raise ValueError(f"penalty must be a number >= 0, got {penalty}")
    x, y = unit_pair(x, y, least=2)
    for name, z in (("x", x), ("y", y)):
        if not z.isfinite().all():  # no fit, and an accuracy that would look like one
            raise ValueError(f"{name} must be finite")
    n = x.shape[0]
    order = torch.randperm(n, generator=generator or torch.Generator().manual_seed(0)).to(x.device)
    count = min(max(int(fraction * n), 1), n - 1)
    train, test = order[:count], order[count:]
    # also where gradients are off, or tensors belong to inference mode
    with torch.inference_mode(False), torch.enable_grad(), no_autocast(x):
        fitted = fit_logistic(x[train].detach(), y[train].detach(), weight)
        right = sum((side[test] @ fitted[:-1] + fitted[-1] > 0).eq(label).sum() for label, side in enumerate((x, y)))
    return float(right) / (2 * (n - count))


def fit_logistic(negative: Tensor, positive: Tensor, penalty: float) -> Tensor:
    """Weights and bias, (D + 1,), of the logistic regression of two sets of equal size."""
    points = torch.cat([-F.pad(negative, (0, 1), value=1.0), F.pad(positive, (0, 1), value=1.0)])
    fitted = points.new_zeros(points.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS([fitted], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.softplus(-(points @ fitted)).mean() + 0.5 * penalty / points.shape[0] * fitted[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return fitted.detach()


def effective_rank(x: Tensor) -> Tensor:
    """How many dimensions the rows use: the exponential of the entropy of the singular values.

        e^{-sum_k p_k log p_k},      p = sigma / sum_k sigma_k,      sigma the singular values of x

    It lies between 1 (all rows on a line through 0) and min(N, D) (equal singular values); 0 for x = 0. The scale of x
    does not matter. Rows are neither centered nor normalized.

    Args:
        x: (N, D).

    Returns: A 0-dim tensor without gradient.

    Example:
        >>> round(effective_rank(torch.eye(8)).item(), 4)
        8.0

    Source: Roy and Vetterli 2007; as RankMe, https://arxiv.org/abs/2210.02885, and DHEL-KCL,
    https://arxiv.org/abs/2405.18045, report it (their code adds 1e-7 to p).
    """
    x = upcast(check.features("x", x)).detach()
    if not x.isfinite().all():  # the solver refuses it
        return x.sum() * torch.nan
    sigma = torch.linalg.svdvals(x)
    total = sigma.sum()
    p = sigma / total
    return torch.where(total > 0, torch.special.entr(p).sum().exp(), total)


def unit_pair(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Two (N, D) batches in the type of statistics, unit rows."""
    x, y = feature_pair("x", x, "y", y, normalize=False)
    if x.shape[0] < least:
        raise ValueError(f"x must have at least {least} rows, got {x.shape[0]}")
    return unit(upcast(x), True), unit(upcast(y), True)


def centroids(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = unit_pair(x, y)
    return x.mean(0), y.mean(0)
