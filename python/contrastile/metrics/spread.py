"""How the rows of one set lie on their sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..losses.common import unit, upcast
from ..ops import check, stat_dtype, tiles
from ..retrieval.candidates import Candidates
from ..retrieval.largest import COLUMNS
from ..spec import PairCall

BINS = 1 << 16  # of angles between -pi/2 and pi/2


def tolerance(x: Tensor, labels: Tensor, *, conditional: bool = False) -> Tensor:
    """How close items of one class are to each other, which a loss that spreads items too evenly gives up.

        mean_{i != j} <x_i, x_j> [l_i = l_j]

    Args:
        x: (N, D), N >= 2. Rows are normalized here.
        labels: (N,) integers.
        conditional: True: the mean over pairs of one class only, as most implementations have it.

    Returns: A 0-dim tensor with gradient; NaN if conditional and no class has two items. Computed from class sums in
    float64.
    Cost: O(N D) FLOP and memory.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> labels = torch.tensor([0, 1, 0])
        >>> round(tolerance(x, labels).item(), 4), round(tolerance(x, labels, conditional=True).item(), 4)
        (0.2357, 0.7071)

    Source: Wang and Liu 2021 (Understanding the Behaviour of Contrastive Loss), https://arxiv.org/abs/2012.09740,
    equation 11.
    """
    rows = unit_rows(x)
    n, kind = len(rows), stat_dtype(x.dtype)
    own = check.ids("labels", labels, n, x.device)
    _, place, count = own.unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(count), rows.shape[1]).index_add(0, place, rows)
    pairs = (count * (count - 1)).sum() if conditional else n * (n - 1)
    return ((sums.square().sum() - rows.square().sum()) / pairs).to(kind)


def anisotropy(x: Tensor) -> Tensor:
    """The mean cosine of different rows: 0 where directions are spread evenly, 1 where all are one.

        mean_{i != j} <u_i, u_j> = (|sum_i u_i|^2 - sum_i |u_i|^2) / (N (N - 1)),      u = x / |x|

    Args:
        x: (N, D), N >= 2.

    Returns: A 0-dim tensor with gradient, computed in float64.
    Cost: O(N D) FLOP and memory.

    Example:
        >>> anisotropy(torch.ones(4, 8)).item()
        1.0

    Source: Ethayarajh 2019, https://arxiv.org/abs/1909.00512; LCO-Emb, https://arxiv.org/abs/2510.11693,
    Analysis/anisotropy.py, which leaves out cosines that are exactly 0.
    """
    rows = unit_rows(x)
    n = len(rows)
    return ((rows.sum(0).square().sum() - rows.square().sum()) / (n * (n - 1))).to(stat_dtype(x.dtype))


@torch.no_grad()
def wasserstein_uniformity(x: Tensor) -> Tensor:
    """The 1-Wasserstein distance of the cosines of all pairs from those of points spread evenly over the sphere.

        integral |F(t) - F_D(t)| dt,      F of the cosines of pairs i != j,   F_D'(t) ~ (1 - t^2)^{(D - 3) / 2}

    Unlike `uniformity`, it compares a collapse of dimensions fairly between high and low D.

    Args:
        x: (N, D), N >= 2, D >= 2. Rows are normalized here.

    Returns: A 0-dim tensor without gradient in [0, 2], 0 for an even spread; NaN if a feature is not finite. Computed
    from counts over 65,536 angles, so right to 1e-4 at worst. The official code compares with 10,000 random samples
    instead, for D = 128 whatever the width.
    Cost: 2 N^2 D FLOP, O(N D) memory.

    Example:
        >>> even = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> wasserstein_uniformity(even) < 0.02, wasserstein_uniformity(even + 3.0) > 0.5
        (tensor(True), tensor(True))

    Source: Koromilas et al. 2024 (DHEL, KCL), https://arxiv.org/abs/2405.18045, appendix; official code
    pakoromilas/DHEL-KCL, metrics.py; reported in https://arxiv.org/abs/2507.06979.
    """
    rows = unit_rows(x)
    n, width = rows.shape
    if width < 2:
        raise ValueError(f"x must have at least 2 columns, got {width}")
    kind = stat_dtype(x.dtype)
    if not rows.isfinite().all():
        return rows.sum().to(kind) * torch.nan
    found = torch.zeros(BINS, dtype=torch.int64, device=x.device)

    def see(call: PairCall) -> None:
        for tile in tiles(call, COLUMNS):
            z = tile.logits()
            angle = z[z > -torch.inf].clamp(-1.0, 1.0).asin_()
            place = angle.mul_(BINS / math.pi).add_(BINS / 2).long().clamp_(0, BINS - 1)
            found.add_(torch.bincount(place, minlength=BINS))

    Candidates(rows.to(kind), None).stream()[1].visit(see)
    edges = torch.linspace(-math.pi / 2, math.pi / 2, BINS + 1, dtype=torch.float64, device=x.device)
    even = distribution(edges, width)
    apart = (torch.cat([even.new_zeros(1), found.cumsum(0) / (n * (n - 1))]) - even).abs()
    return torch.trapezoid(apart, edges.sin()).to(kind)


def distribution(edges: Tensor, width: int) -> Tensor:
    """Of the sine of an angle whose density is cos^{D - 2}."""
    density = edges.cos().clamp_min(0.0).pow(width - 2)
    total = torch.cumulative_trapezoid(density, edges)
    return torch.cat([total.new_zeros(1), total / total[-1]])


def unit_rows(x: Tensor) -> Tensor:
    """At least two, in float64."""
    if check.features("x", x).shape[0] < 2:
        raise ValueError(f"x must have at least 2 rows, got {x.shape[0]}")
    return unit(upcast(x).double(), True)
