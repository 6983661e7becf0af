"""Whether two sets of embeddings, of any widths, have the same geometry: centred kernel alignment and neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..losses.common import unit, upcast
from ..ops import check, stat_dtype
from ..retrieval.candidates import count
from ..retrieval.largest import topk

CkaKernel: TypeAlias = Literal["linear", "rbf"]
PAIRS = 1 << 18  # of rows, whose kernels are held at a time


def cka(
    x: Tensor,
    y: Tensor,
    *,
    kernel: CkaKernel = "linear",
    rbf_sigma: float = 1.0,
    unbiased: bool = False,
    eps: float = 0.0,
) -> Tensor:
    """Centered kernel alignment: how similar the similarities within x are to those within y, in [0, 1].

        HSIC(K, L) / (sqrt(HSIC(K, K) HSIC(L, L)) + eps),      K of the rows of x, L of those of y
        biased    HSIC = tr(K H L H),  H = 1 - 1/N
        unbiased  HSIC = [ tr(K~ L~) + sum K~ sum L~ / ((N-1)(N-2)) - 2 sum (K~ L~) / (N-2) ] / (N (N-3)),
                  K~: K without its diagonal; it may be negative, and so may the alignment be

    Args:
        x, y: (N, D), (N, E): row i of both is the same item. Not normalized here. N >= 1, unbiased N >= 4.
        kernel: "linear": K_ij = <x_i, x_j>. "rbf": K_ij = e^{-|x_i - x_j|^2 / (2 rbf_sigma^2)}.
        rbf_sigma: > 0, a length. No effect with "linear".
        unbiased: See above.
        eps: >= 0; 1e-6 in the code of the Platonic representation hypothesis.

    Returns: A 0-dim tensor with gradient; NaN if all rows of x or of y are equal and eps = 0. Computed in float64.
    Cost: "linear": N D E FLOP, O(D E) memory. "rbf": 2 N^2 (D + E) FLOP in float64, and three times that backward; O(N
    (D + E)) memory.

    Example:
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        >>> turned = x @ torch.linalg.qr(x.T @ x).Q * 3.0
        >>> round(cka(x, turned).item(), 6)
        1.0

    Source: Kornblith et al. 2019, https://arxiv.org/abs/1905.00414; unbiased: Song et al. 2012, equation 5; official
    code minyoungg/platonic-rep, metrics.py (Huh et al. 2024, https://arxiv.org/abs/2405.07987), as LCO-Emb,
    https://arxiv.org/abs/2510.11693, uses it.
    """
    check.choice("kernel", kernel, get_args(CkaKernel))
    least, sigma = number("eps", eps, 0.0), number("rbf_sigma", rbf_sigma, 0.0)
    if sigma == 0.0:
        raise ValueError("rbf_sigma must be > 0, got 0")
    x, y = matched(x, y, 4 if unbiased else 1)
    kind, (x, y) = stat_dtype(x.dtype), (centred(z.double()) for z in (x, y))
    sums = linear_sums(x, y) if kernel == "linear" else rbf_sums(x / sigma, y / sigma, unbiased)
    both, first, second = (hsic(z, unbiased) for z in sums)
    return alignment(both, first, second, least).to(kind)


def cknna(x: Tensor, y: Tensor, *, k: int = 10, unbiased: bool = True, eps: float = 0.0) -> Tensor:
    """Centered kernel nearest-neighbor alignment: linear cka over only those pairs that are neighbors in both sets.

        K_ij = <x_i, x_j>, L_ij = <y_i, y_j>  where j is among the k largest of row i in K and in L; else 0

    with the quotient of `cka`, whose denominator takes the neighbors of one set each.

    Args:
        x, y: (N, D), (N, E), N >= 4; matched rows, not normalized here.
        k: 2 <= k < N neighbors per item. An item is not its own neighbor, except with unbiased=False.
        unbiased: Which of the two estimates of HSIC (see `cka`) to use.
        eps: >= 0, added to the denominator; 1e-6 in the official code.

    Returns: A 0-dim tensor with gradient through the kernels, computed in float64 from neighbors in the features' type;
    NaN without common neighbors if eps = 0.
    Cost: 2 N^2 (D + E) FLOP, O(N (k + D + E)) memory.

    Example:
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        >>> round(cknna(x, x, k=5).item(), 4)
        1.0

    Source: Huh et al. 2024 (Platonic representation hypothesis), https://arxiv.org/abs/2405.07987, appendix A; official
    code minyoungg/platonic-rep, metrics.py, with eps=1e-6.
    """
    least = number("eps", eps, 0.0)
    x, y = matched(x, y, 4)
    neighbours_of_each(k, x, 2)
    indices = [topk(z.detach(), None if unbiased else z.detach(), k).indices for z in (x, y)]
    kind, (x, y) = stat_dtype(x.dtype), (x.double(), y.double())
    sets = list(zip((x, y), indices, strict=True))

    def of(first: int, second: int) -> Tensor:
        (a, nearest), (b, other) = sets[first], sets[second]
        return hsic(neighbour_sums(a, b, nearest, among(nearest, other)), unbiased)

    return alignment(of(0, 1), of(0, 0), of(1, 1), least).to(kind)


def mutual_knn(x: Tensor, y: Tensor, *, k: int = 10, normalize: bool = True) -> Tensor:
    """The share of an item's k nearest neighbors in x that are among its k nearest in y, in [0, 1].

        mean_i |kNN_x(i) n kNN_y(i)| / k

    Args:
        x, y: (N, D), (N, E): row i of both is the same item.
        k: 1 <= k < N. An item is not its own neighbor; of equal similarities the lowest index is nearer.
        normalize: Neighbors by cosine; False: by dot product.

    Returns: A 0-dim tensor, without gradient. Unrelated sets have k / (N - 1). Rows with NaN are ordered as topk orders
    them.
    Cost: 2 N^2 (D + E) FLOP, O(N (k + D + E)) memory.

    Example:
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        >>> mutual_knn(x, -2.0 * x, k=5).item()
        1.0

    Source: Huh et al. 2024, https://arxiv.org/abs/2405.07987, section 2; official code minyoungg/platonic-rep,
    metrics.py; LCO-Emb, https://arxiv.org/abs/2510.11693, Analysis/kernel_alignment.py, k = 10.
    """
    first, second = neighbours(x, y, k, normalize)
    return among(first, second).to(stat_dtype(x.dtype)).mean()


def cycle_knn(x: Tensor, y: Tensor, *, k: int = 10, normalize: bool = True) -> Tensor:
    """The share of items that are among the neighbors in x of one of their own neighbors in y. Not symmetric.

        mean_i [ i in kNN_x(j) for some j in kNN_y(i) ]

    Args:
        x, y: (N, D), (N, E): row i of both is the same item.
        k: 1 <= k < N. An item is not its own neighbor; of equal similarities the lowest index is nearer.
        normalize: Neighbors by cosine; False: by dot product.

    Returns: A 0-dim tensor, without gradient.
    Cost: 2 N^2 (D + E) FLOP, O(N (k + D + E)) memory.

    Example:
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        >>> 0.0 <= cycle_knn(x, x, k=5).item() <= 1.0
        True

    Source: Huh et al. 2024, https://arxiv.org/abs/2405.07987, appendix A; official code minyoungg/platonic-rep,
    metrics.py.
    """
    first, second = neighbours(x, y, k, normalize)
    own = torch.arange(len(first), device=first.device).unsqueeze(1)
    back = [(first[column] == own).any(1) for column in second.unbind(1)]
    return torch.stack(back).any(0).to(stat_dtype(x.dtype)).mean()


def matched(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Items of two sets, of any widths, at least in float32."""
    check.features("x", x)
    check.same_device("y", check.features("y", y), x.device)
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"y must have the rows of x, {x.shape[0]}, got {y.shape[0]}")
    if x.shape[0] < least:
        raise ValueError(f"x must have at least {least} rows, got {x.shape[0]}")
    return upcast(x), upcast(y)


def number(name: str, x: float, least: float) -> float:
    value = check.scalar(name, x)
    if isinstance(value, Tensor) or value < least:
        raise ValueError(f"{name} must be a number >= {least:g}, got {x}")
    return value


# ---- sums over pairs, from which HSIC follows


@dataclass(frozen=True)
class Sums:
    """Of two kernels over N items, with their diagonals or without."""

    n: int
    product: Tensor  # sum_ij K_ij L_ji
    rows: tuple[Tensor, Tensor]  # (N,): sums of the rows of K, of L
    columns: tuple[Tensor, Tensor]  # and of their columns
    diagonals: tuple[Tensor, Tensor] | None = None  # (N,), to be left out where they are not wanted


def hsic(sums: Sums, unbiased: bool) -> Tensor:
    n, product, rows, columns = sums.n, sums.product, sums.rows, sums.columns
    if unbiased and sums.diagonals is not None:
        product = product - (sums.diagonals[0] * sums.diagonals[1]).sum()
        rows, columns = (tuple(map(torch.sub, x, sums.diagonals)) for x in (rows, columns))  # type: ignore[assignment]
    total = rows[0].sum() * rows[1].sum()
    across = (columns[0] * rows[1]).sum()  # 1' K L 1
    if unbiased:
        value: Tensor = product + total / ((n - 1) * (n - 2)) - 2.0 * across / (n - 2)
        return value / (n * (n - 3))
    return product - (across + (columns[1] * rows[0]).sum()) / n + total / (n * n)


def alignment(both: Tensor, first: Tensor, second: Tensor, eps: float) -> Tensor:
    return both / ((first * second).sqrt() + eps)


def centred(x: Tensor) -> Tensor:
    """Equal rows become zeros: their mean need not be one of them."""
    x = x - x[0].detach()
    return x - x.mean(0)


def linear_sums(x: Tensor, y: Tensor) -> list[Sums]:
    """K with L, K with K, L with L, of centred rows: the sums of the kernels' rows are then 0."""
    zero = x.new_zeros(x.shape[0])
    return [
        Sums(len(x), (a.T @ b).square().sum(), (zero, zero), (zero, zero), (a.square().sum(1), b.square().sum(1)))
        for a, b in ((x, y), (x, x), (y, y))
    ]


def rbf_sums(x: Tensor, y: Tensor, unbiased: bool) -> list[Sums]:
    """As linear_sums, for sigma = 1; backward computes the kernels again. unbiased: without diagonals."""
    sides, n = [Rbf.of(x), Rbf.of(y)], len(x)

    def of_rows(start: int, stop: int) -> tuple[Tensor, Tensor]:
        a, b = (side.rows(start, stop, unbiased) for side in sides)
        return torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()]), torch.stack([a.sum(1), b.sum(1)])

    step = max(PAIRS // n, 1)
    parts = [
        checkpoint(of_rows, start, min(start + step, n), use_reentrant=False, preserve_rng_state=False)
        for start in range(0, n, step)
    ]
    products = torch.stack([product for product, _ in parts]).sum(0)
    first, second = torch.cat([rows for _, rows in parts], 1)
    pairs = (first, second), (first, first), (second, second)  # kernels are symmetric
    return [Sums(n, product, rows, rows) for product, rows in zip(products, pairs, strict=True)]


@dataclass(frozen=True)
class Rbf:
    """K_ij = e^{-|x_i - x_j|^2 / 2}, or K - 1, which is centred alike: digits of whichever is smaller are kept."""

    x: Tensor
    bias: Tensor
    close: Tensor  # bool: K - 1

    @staticmethod
    def of(x: Tensor) -> Rbf:
        bias = -0.5 * x.square().sum(1)
        return Rbf(x, bias, bias.detach().mean() > -0.5)  # half the mean of |x_i - x_j|^2 / 2

    def rows(self, start: int, stop: int, others: bool) -> Tensor:
        logs = self.x[start:stop] @ self.x.T + self.bias[start:stop, None] + self.bias
        k = torch.where(self.close, logs.expm1(), logs.exp())
        if others:
            k.diagonal(start).zero_()
        return k


def neighbour_sums(x: Tensor, y: Tensor, index: Tensor, kept: Tensor) -> Sums:
    """Of dot products of those neighbours, index (N, k), that are kept."""
    first, second = (torch.where(kept, at(z, index), 0.0) for z in (x, y))
    own = torch.arange(len(x), device=x.device).unsqueeze(1)
    # a pair counts in K_ij L_ji where each of both has the other
    mutual = [((index[column] == own) & kept[column]).any(1) for column in index.unbind(1)]
    product = (first * second * torch.stack(mutual, 1)).sum()
    columns = [z.new_zeros(len(z)).index_add(0, index.flatten(), z.flatten()) for z in (first, second)]
    return Sums(len(x), product, (first.sum(1), second.sum(1)), (columns[0], columns[1]))


def at(x: Tensor, index: Tensor) -> Tensor:
    """<x_i, x_j>, (N, k), for j at the index."""
    return torch.stack([(x * x[column]).sum(1) for column in index.unbind(1)], 1)


# ---- neighbours


def neighbours(x: Tensor, y: Tensor, k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """(N, k) indices of both."""
    x, y = matched(x, y, 0)
    neighbours_of_each(k, x, 1)
    first, second = (topk(unit(z.detach(), normalize), None, k).indices for z in (x, y))
    return first, second


def neighbours_of_each(k: int, x: Tensor, least: int) -> None:
    if not least <= count("k", k) < max(x.shape[0], 1):
        raise ValueError(f"k must be >= {least} and less than the number of items, {x.shape[0]}, got {k}")


def among(index: Tensor, other: Tensor) -> Tensor:
    """(N, k) bool: whether an entry is in the same row of the other."""
    return torch.stack([(column.unsqueeze(1) == other).any(1) for column in index.unbind(1)], 1)
