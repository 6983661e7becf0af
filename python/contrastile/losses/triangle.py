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

    Computed from residual vectors of differences formed in float64 (half precision: float32), so that thin triangles
    keep their digits; the gradient is bounded by the sides. Unlike a volume, an area sees signs.

    Args:
        anchor, x, y: (N, D), float32 | bfloat16 | float16 | float64. Not normalized here.

    Returns: (N,), float32 (float64 for float64 features).

    Example:
        >>> anchor, x, y = torch.eye(3)[:, None]
        >>> area(anchor, x, y)
        tensor([0.8660])

    Source: TRIANGLE (NeurIPS 2025), https://arxiv.org/abs/2509.24734; official code ispamm/TRIANGLE, utils/area.py.
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
    """TRIANGLE: the anchor and its sample's other two modalities must find each other by the smallest triangle.

        z_ij = -Q_ij / temperature,     Q_ij = 2 area(a_i, x_j, y_j)^2   (squared=False: the area itself)
        L = mean_i 1/2 [ CE(row i of z, i) + CE(column i of z, i) ]

    Args:
        anchor: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        x, y: (N, D), or (M, D) with M >= N for keys gathered from elsewhere.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
            torch.nn.functional.cross_entropy does. The official code uses 0.1.
        squared: True: the official training logit, whose gradient is bounded and vanishes at area 0. False: the area.
        symmetric: True: both directions in one pass. False: anchor -> others only.
        direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (anchor -> others only),
            or "cols" (others -> anchor only).
        key_offset: The pair of anchor i is row key_offset + i of x and y. Only the N own pairs look for their anchor
            among the N anchors.
        weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool: a sample that lacks a modality (False) has no triangle and takes no part. Only with M = N.
        detach_keys: Candidates get no gradient: each direction trains only its queries. Takes two passes.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the samples that take part, or "none": (N,), 0 for the others.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. 0 if no sample takes part.

    Cost: 16 N M D FLOP forward and backward: Q = 1/2 |x - y|^2 (distance of the anchor from the line through x and y)^2
    takes two dot products per pair. In half precision the line's point and direction are rounded once to the features'
    type.

    Example:
        >>> anchor, x, y = torch.randn(3, 8, 16)
        >>> loss = triangle_loss(anchor, x, y, normalize=True)

    Source: TRIANGLE (NeurIPS 2025), https://arxiv.org/abs/2509.24734; official code ispamm/TRIANGLE, model/triangle.py
    and utils/area.py.
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
