"""Areas of matched triangles and the TRIANGLE loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check
from ..ops.basis import basis, exact_dtype
from ..ranks import GlobalBatch, Group, collective
from .candidates import smoothing_share
from .common import check_gathered, cleaned, engine_options, inverse, reduced_empty, unit, upcast
from .tuples import Columns, TupleProblem, check_tuples, product, tuple_loss
from .weights import Counted, direction_weights


def area(anchor: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Area of the triangle with the matched vectors as corners.

        A_i = 1/2 sqrt(|u_i|^2 |w_i|^2 - <u_i, w_i>^2),      u = anchor - x,  w = anchor - y

    From residual vectors of differences formed in float64 (half precision: float32), so that thin triangles keep their
    digits; the gradient is bounded by the sides. Unlike a volume it sees signs.

    Args: anchor, x, y: (N, D), float32 | bfloat16 | float16 | float64. Not normalised here.

    Returns: (N,), float32 (float64 for float64 inputs).

    Source: TRIANGLE (NeurIPS 2025), arXiv 2509.24734; official code ispamm/TRIANGLE, utils/area.py.
    """
    check.same_shape("x", check.features("x", x), "anchor", check.features("anchor", anchor))
    corners = check_tuples(("anchor", "x", "y"), (anchor, x, y))
    a, x, y = (v.to(exact_dtype(v)) for v in corners)
    return 0.5 * product(basis([x - a, y - a], 0)[1]).to(upcast(corners[0]).dtype)


@collective
def triangle_loss(
    anchor: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    label_smoothing: float = 0.1,
    squared: bool = True,
    symmetric: bool = True,
    direction: Direction = "mean",
    key_offset: int = 0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    detach_keys: bool = False,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """TRIANGLE: the anchor must find the other two modalities of its sample by the smallest triangle, and they it.

        z_ij = -Q_ij / temperature,     Q_ij = 2 area(a_i, x_j, y_j)^2   (squared=False: the area itself)
        L = mean_i 1/2 [ CE(row i of z, i) + CE(column i of z, i) ]

    Args:
        anchor: (N, D). x, y: (N, D), or (M, D), M >= N, for keys gathered from elsewhere. Unit rows expected, or
            normalize=True. float32 | bfloat16 | float16 | float64.
        squared: The official training logit; its gradient is bounded and vanishes at area 0.
        present: (N,) bool: a sample that lacks a modality has no triangle and takes no part. Only with M = N.
        temperature, label_smoothing, symmetric, direction, key_offset, weights, detach_keys, reduction, memory_budget,
            backend, group: As in gram_loss.

    Returns: float32 (float64 for float64 inputs), nats.

    Cost: 16 N M D FLOP forward and backward: Q = 1/2 |x - y|^2 (distance of the anchor from the line through x and y)^2
    takes two dot products per pair. In half precision the line's point and direction are rounded once to the features'
    type.

    Source: TRIANGLE (NeurIPS 2025), arXiv 2509.24734; official code ispamm/TRIANGLE, model/triangle.py and
    utils/area.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    anchor, x, y = check_tuples(("anchor", "x", "y"), (anchor, x, y))
    check_gathered(anchor, "x", x, key_offset, group)
    scale, smoothing = inverse(temperature, anchor), smoothing_share(label_smoothing)
    directions, counted = direction_weights(direction, symmetric), Counted.of(weights, present, anchor)
    if present is not None and x.shape[0] != anchor.shape[0]:
        raise ValueError(f"present must be None with gathered keys, {x.shape[0]} for {anchor.shape[0]} anchors")
    tensors = [unit(cleaned(v, counted.present), normalize) for v in (anchor, x, y)]
    batch = GlobalBatch.of(engine.ranks, anchor.shape[0], facts=counted.facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, *tensors, scale)

    def build(given: list[Tensor]) -> TupleProblem:
        columns, matched = areas(given, key_offset, squared)
        return TupleProblem(batch, engine, given[0], columns, matched, -scale, smoothing, key_offset, counted)

    return tuple_loss(build, tensors, directions, detach_keys, reduction)


def areas(tensors: list[Tensor], key_offset: int, squared: bool) -> tuple[Columns, Tensor]:
    """The columns, and the scores of the matched triangles."""
    anchor, x, y = tensors
    own = slice(key_offset, key_offset + anchor.shape[0])
    size = area(anchor, x[own], y[own])
    return lines(x, y, squared), 2.0 * size.square() if squared else size


def lines(x: Tensor, y: Tensor, squared: bool) -> Columns:
    """The lines that x and y make."""
    left, right = upcast(x), upcast(y)
    (direction,), (side,) = basis([right - left], 1)
    point = left - (left * direction).sum(1, keepdim=True) * direction  # of the line, the nearest to 0
    directions, norm = torch.stack([point, direction]), point.square().sum(1)
    if squared:
        return Columns(directions, 0.5 * side.square(), norm, "squared_distance", offset=True)
    return Columns(directions, 0.5 * side, norm, "distance", offset=True)
