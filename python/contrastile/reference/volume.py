"""Geometric losses of matched tuples: Gram volume (GRAM) and triangle area (TRIANGLE)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, of_present, reduce_rows, unit


def gram_volume(*modalities: Tensor) -> Tensor:
    """Volume of the parallelotope that the matched vectors of each sample span, (N,).

        V_i = sqrt(det G_i),   G_i = Gram matrix of (m_1i, ..., m_ki)

    Computed as base times height, vector by vector, so that it keeps its digits near 0, where the
    determinant has none: the official sqrt(|det G|) is exact only to the square root of the
    rounding. 0 if D < k. The gradient at V = 0, where V has a kink, is finite and arbitrary.

    Source: Cicchetti et al. 2025 (arXiv 2412.11959), Gramian volume; official code ispamm/GRAM
    @b70c5c2, utils/volume.py.
    """
    return _volume(modalities)


def gram_volume_matrix(anchor: Tensor, *others: Tensor) -> Tensor:
    """Volumes of every anchor with every sample's other modalities, (N, M).

        V_ij = sqrt(det G_ij),   G_ij = Gram matrix of (a_i, m_1j, ..., m_(k-1)j)

    anchor (N, D), others (M, D) each; computed as `gram_volume`. Source: as there.
    """
    return _volume([*others, anchor[:, None]])


def gram_loss(
    anchor: Tensor,
    *others: Tensor,
    temperature: Scalar = 0.07,
    label_smoothing: float = 0.1,
    symmetric: bool = True,
    direction: str = "mean",
    key_offset: int = 0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    detach_keys: bool = False,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of anchors and other modalities whose logit is the negative volume.

        z_ij   = -V(a_i, m_1j, ..., m_(k-1)j) / temperature
        loss_i = ( CE(row i of z, column i+o) + CE(column i+o of z, row i) ) / 2,   o = key_offset

    Args:
        anchor, others: (N, D); (M, D) each, M >= key_offset + N.
        label_smoothing: Share of the target that is spread evenly over the candidates.
        symmetric: False keeps the first term alone, unhalved.
        direction: Of both terms their "mean" or "sum", or one alone ("rows": the first).
        weights: (N,) of the samples.
        present: (N, k) bool, anchor first, only with M = N: V is over the modalities that a sample
            has. Without its anchor or without any other one, it is neither query nor candidate,
            its loss is 0 and it does not count in the mean. What missing entries hold is ignored.
        detach_keys: The first term gives gradient to the anchor alone, the second to the others.

    Source: Cicchetti et al. 2025 (arXiv 2412.11959), data-to-anchor and anchor-to-data losses;
    official code ispamm/GRAM @b70c5c2, model/gram.py `forward_ret`: detach_keys=True, even on one
    device; its README: detach_keys=False.
    """
    part = torch.ones(len(anchor), dtype=torch.bool, device=anchor.device)
    if present is not None:
        part = present[:, 0] & present[:, 1:].any(dim=1)
        anchor, present = anchor[part], present[part]
        others = tuple(x[part].where(present[:, [m]], 0) for m, x in enumerate(others, start=1))
    anchor, others = unit(anchor, normalize), tuple(unit(x, normalize) for x in others)

    def logits(a: Tensor, *m: Tensor) -> Tensor:
        return -_volume([*m, a[:, None]], None if present is None else present[:, 1:]) / temperature

    directions = _two_logits(logits, anchor, others, detach_keys)
    losses = _contrast(directions, key_offset, label_smoothing, symmetric, direction)
    return reduce_rows(losses, reduction, weights, None if present is None else part)


def area(anchor: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Area of the triangle whose corners are the matched rows of anchor, x and y, (N,).

        A = sqrt( |u|^2 |w|^2 - <u, w>^2 ) / 2,   u = a - x,   w = a - y

    Computed as base times height over 2, accurate near 0. Its gradient at A = 0 is finite.

    Source: TRIANGLE (arXiv 2509.24734); official code ispamm/TRIANGLE @6951d49, README,
    `basic_area_computation`.
    """
    return _volume([anchor - x, anchor - y]) / 2


def triangle_loss(
    anchor: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    temperature: Scalar = 0.07,
    label_smoothing: float = 0.1,
    squared: bool = True,
    symmetric: bool = True,
    direction: str = "mean",
    key_offset: int = 0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    detach_keys: bool = False,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy whose logit is the negative area of the triangle (a_i, x_j, y_j).

        z_ij = -Q_ij / temperature,   Q_ij = 2 A_ij^2 = (|u|^2 |w|^2 - <u, w>^2) / 2

    or Q_ij = A_ij with squared=False. Cross-entropies and other arguments as in `gram_loss`.

    Source: TRIANGLE (arXiv 2509.24734); official code ispamm/TRIANGLE @6951d49, utils/area.py and
    model/triangle.py `forward_ret`, which trains on 2 A^2 with detach_keys=True.
    """
    anchor, x, y = (unit(of_present(v, present), normalize) for v in (anchor, x, y))

    def logits(a: Tensor, p: Tensor, q: Tensor) -> Tensor:
        areas = _volume([a[:, None] - p, a[:, None] - q]) / 2
        return -(2 * areas.square() if squared else areas) / temperature

    directions = _two_logits(logits, anchor, (x, y), detach_keys)
    losses = _contrast(directions, key_offset, label_smoothing, symmetric, direction)
    return reduce_rows(losses, reduction, weights, present)


def _volume(vectors: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
    """Product of each vector's height above the span of those before it; of (..., D) that broadcast.

    present: (..., number of vectors or fewer); a missing vector, which must be 0, has height 1.
    """
    volume = vectors[0].new_ones(())
    basis: list[Tensor] = []
    for index, vector in enumerate(vectors):
        for direction in basis:
            vector = vector - (vector * direction).sum(dim=-1, keepdim=True) * direction
        height = torch.linalg.vector_norm(vector, dim=-1)
        basis.append(vector / height.where(height > 0, 1)[..., None])  # a vector in the span adds none
        if present is not None and index < present.shape[-1]:
            height = height.where(present[..., index], 1)
        volume = volume * height
    return volume


def _two_logits(
    logits: Callable[..., Tensor], anchor: Tensor, others: tuple[Tensor, ...], detach_keys: bool
) -> tuple[Tensor, Tensor]:
    """The (N, M) logits as the two directions differentiate them."""
    if not detach_keys:
        both = logits(anchor, *others)
        return both, both
    return logits(anchor, *(x.detach() for x in others)), logits(anchor.detach(), *others)


def _contrast(
    directions: tuple[Tensor, Tensor], key_offset: int, label_smoothing: float, symmetric: bool, direction: str
) -> Tensor:
    """Cross-entropy of each row of the (N, M) logits, with that of its own column if symmetric, (N,)."""
    forward, backward = directions
    own = slice(key_offset, key_offset + len(forward))
    rows = _cross_entropy(forward, key_offset, label_smoothing)
    if not symmetric:
        return rows
    row, col = direction_weights(direction)
    return row * rows + col * _cross_entropy(backward[:, own].T, 0, label_smoothing)


def _cross_entropy(logits: Tensor, offset: int, label_smoothing: float) -> Tensor:
    log_p = logits.log_softmax(dim=1)
    own = log_p.diagonal(offset)
    return -(1 - label_smoothing) * own - label_smoothing * log_p.mean(dim=1)
