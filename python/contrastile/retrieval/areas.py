"""Areas of all triangles, for retrieval-sized inputs."""

from __future__ import annotations

from torch import Tensor

from ..losses.common import upcast
from ..losses.triangle import lines
from ..losses.tuples import check_tuples
from ..ops import matmul
from .values import distance


def triangle_area_matrix(anchor: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Area of the triangle of every anchor with the x and y of every sample: (N, M).

        A_ij = 1/2 |x_j - y_j| * distance of a_i from the line through x_j and y_j

    Holds a few N x M matrices, also for the backward pass; `topk` and `ranks` with score="area" hold none. A distance
    that float32 dot products cannot tell from 0 counts as that bound, without gradient; `area` is exact for matched
    triples.

    Args:
        anchor: (N, D). Not normalized here.
        x, y: (M, D).

    Returns: float32 (float64 for float64 features).

    Example:
        >>> triangle_area_matrix(torch.eye(3)[:1], torch.eye(3)[1:2], torch.eye(3)[2:])
        tensor([[0.8660]])

    Source: TRIANGLE (NeurIPS 2025), https://arxiv.org/abs/2509.24734; official code ispamm/TRIANGLE, utils/area.py.
    """
    anchor, x, y = check_tuples(("anchor", "x", "y"), (anchor, x, y))
    a, columns = upcast(anchor), lines(x, y, squared=False)
    assert columns.norm is not None
    dots = [matmul(a, direction.T) for direction in columns.directions]
    return distance(dots, a.square().sum(1, keepdim=True) + columns.norm, offset=True).sqrt() * columns.factor
