"""What neighbours make of points: graphs, assignments to centres, graph convolutions of a gallery."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.common import unit, upcast
from ..ops import check, matmul, no_autocast
from ..ranks import GlobalBatch, Group, collective
from .candidates import Candidates, count
from .largest import best, numbers, topk
from .transport import positive

GraphScaling: TypeAlias = Literal["symmetric", "row", "none"]


def knn_graph(x: Tensor, k: int, *, normalize: bool = True, scaling: GraphScaling = "symmetric") -> Tensor:
    """The k nearest neighbors of every point by cosine, as a sparse adjacency matrix.

        A_ij = 1 if j is one of the k largest <x_i, x_j>, j != i;   "symmetric": A_ij / sqrt(d_i d_j), "row": A_ij / d_i

    with d_i the number of neighbors of i. The graph is directed: j may be a neighbor of i without the reverse.

    Args:
        x: (N, D).
        k: >= 1; points with fewer others have only these.
        normalize: True: cosines. False: dot products.
        scaling: "symmetric" | "row" | "none".

    Returns: (N, N) sparse COO, coalesced, float32 (float64 for float64 points). No gradient.
    Cost: 2 N^2 D FLOP, O(N k) memory.

    Example:
        >>> knn_graph(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 1, scaling="none").to_dense()
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 1., 0.]])

    Source: Zhou et al. 2025 (SIGER), https://arxiv.org/abs/2508.06154; Zhang et al. 2021 (LATTICE),
    https://arxiv.org/abs/2104.09036.
    """
    check.choice("scaling", scaling, get_args(GraphScaling))
    x = unit(upcast(check.features("x", x).detach()), normalize)
    found = topk(x, None, k).indices
    row, which = (found >= 0).nonzero(as_tuple=True)
    degree = (found >= 0).sum(1).to(x.dtype)
    weight = x.new_ones(len(row))
    column = found[row, which]
    if scaling == "row":
        weight = degree[row].reciprocal()
    elif scaling == "symmetric":
        weight = (degree[row] * degree[column]).rsqrt()
    size = (x.shape[0], x.shape[0])
    return torch.sparse_coo_tensor(torch.stack([row, column]), weight, size, check_invariants=False).coalesce()


def kmeans_assign(x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest center of every point, and the squared distance from it: the assignment step of k-means.

        label_i = argmin_c |x_i - m_c|^2 = argmax_c ( <x_i, m_c> - |m_c|^2 / 2 ),   of equal ones the first

    Args:
        x: (N, D).
        centers: (C, D), C >= 1.

    Returns: labels (N,) int64, and squared distances (N,), float32 (float64 for float64 points). No gradient. For unit
    rows the labels are those of the largest cosine. Products use points minus the mean of the centers. A center with
    NaN, or so far from that mean that its squared distance overflows, gets no points; a point without a center, such as
    one with NaN, has label -1 and distance NaN.
    Cost: 2 N C D FLOP, O((N + C) D) memory.

    Example:
        >>> kmeans_assign(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.9], [0.3]]))[0].tolist()
        [1, 0]

    Source: Xie et al. 2020 (InterCLR), https://arxiv.org/abs/2008.11702.
    """
    x, centers = (upcast(check.features(n, v).detach()) for n, v in (("x", x), ("centers", centers)))
    if not centers.shape[0]:
        raise ValueError("centers must hold at least one row, got none")
    check.same_width("centers", centers, "x", x)
    check.same_device("centers", centers, x.device)
    middle = centers.nan_to_num(0.0, 0.0, 0.0).mean(0)  # far from the origin products would leave no digits
    x, centers = x - middle, centers - middle
    found = best(Candidates(x, centers, col_bias=-0.5 * centers.square().sum(1)), 1, numbers).indices[:, 0]
    square = (x - centers[found.clamp_min(0)]).square().sum(1)
    return found, square.masked_fill(found < 0, torch.nan)


@collective
def invgc(gallery: Tensor, bank: Tensor, rate: float, *, group: Group = None) -> Tensor:
    """InvGC: moves gallery points away from what they have in common with a bank of points, before retrieval.

        T' = unit( T - rate / M (S - mean(S)) G ),   S = T G^T

    in O((N + M) D^2), without S. Only the gallery moves. With two banks take unit(T'_1 + T'_2).

    Args:
        gallery: T, (N, D), unit rows.
        bank: G, (M, D), of training data: its gallery or its queries.
        rate: > 0; tune it.
        group: None: this process only. "world", a process group, or distributed.Ranks: gallery and bank are this rank's
            share.

    Returns: (N, D), unit rows in the gallery's type, with gradients to both.

    Example:
        >>> invgc(torch.eye(3), torch.eye(3)[:2], 0.5).shape
        torch.Size([3, 3])

    Source: Jian et al. 2023, https://arxiv.org/abs/2310.13276; official code yimuwangcs/Better_Cross_Modal_Retrieval,
    InvGC/InvGC.py, which subtracts mean(S); the paper's formula does not.
    """
    t, g = pair(gallery, bank)
    batches = GlobalBatch.several(group, [t.shape[0], g.shape[0]])
    n, m = (max(batch.total, 1) for batch in batches)
    sums, total = (batch.column_sum(x) for batch, x in zip(batches[::-1], (g, t), strict=True))
    mean = (total * sums).sum() / (n * m)
    square = batches[1].sum(matmul(g.T, g))
    return unit(t - positive("rate", rate) / m * (matmul(t, square) - mean * sums), True).to(gallery.dtype)


def local_adj(gallery: Tensor, bank: Tensor, rate: float, *, k: int) -> Tensor:
    """LocalAdj: like `invgc`, with only the k nearest points of the bank.

        T'_i = unit( T_i - rate / k sum over the k largest s_ij of s_ij G_j ),   s_ij = <T_i, G_j>

    Args:
        gallery: T, (N, D), unit rows.
        bank: G, (M, D).
        rate: > 0; tune it.
        k: >= 1; the official code takes a hundredth of M.

    Returns: (N, D), unit rows in the gallery's type, with gradients to both.
    Cost: 2 N M D FLOP, O(N k + (N + M) D) memory.

    Example:
        >>> local_adj(torch.eye(3), torch.eye(3)[:2], 0.5, k=1).shape
        torch.Size([3, 3])

    Source: Jian et al. 2023, https://arxiv.org/abs/2310.13276; official code yimuwangcs/Better_Cross_Modal_Retrieval,
    InvGC/InvGC.py.
    """
    t, g = pair(gallery, bank)
    step = positive("rate", rate) / count("k", k)
    found = topk(t, g, k)
    if not g.shape[0]:
        return unit(t, True).to(gallery.dtype)
    missing = found.indices < 0  # another of the row's own stands there with weight 0
    index = torch.where(missing, found.indices.amax(1, keepdim=True).clamp_min(0), found.indices)
    weights = found.values.masked_fill(missing, 0.0)
    with no_autocast(t):
        common = F.embedding_bag(index, g, per_sample_weights=weights, mode="sum")
        return unit(t - step * common, True).to(gallery.dtype)


def pair(gallery: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    t, g = (upcast(check.features(name, x)) for name, x in (("gallery", gallery), ("bank", bank)))
    check.same_width("bank", g, "gallery", t)
    check.same_device("bank", g, t.device)
    kind = torch.promote_types(t.dtype, g.dtype)
    return t.to(kind), g.to(kind)
