"""Gram volumes of matched tuples and the GRAM loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check, matmul
from ..ops.basis import basis
from ..ranks import GlobalBatch, Group, collective
from ..spec import FLOOR
from .candidates import smoothing_share
from .common import check_gathered, cleaned, engine_options, feature_batches, inverse, reduced_empty, unit, upcast
from .tuples import Columns, TupleProblem, check_tuples, product, tuple_loss
from .weights import Counted, direction_weights


def gram_volume(*modalities: Tensor) -> Tensor:
    """Volume of the parallelotope that matched vectors span: 0 if they are linearly dependent, 1 if orthonormal.

        V_i = sqrt(det G_i),     G_i = Gram matrix of (x_1i, ..., x_ki)

    Computed from residual vectors in float64, not from determinants: the relative error is about 1e-7 even where the
    modalities are nearly aligned (a float32 determinant keeps no digit below V = 1e-6). Half-precision vectors are
    computed in float32: about 3e-5, and residuals below 1e-6 of their vector count as 0. The gradient is bounded by the
    volume of the other vectors; where V is 0 it is 0 for a vector in the span of those before it. V does not see signs:
    x and -x span the same volume, so at k = 2, V = |sin| and opposite vectors count as aligned.

    Args:
        modalities: k >= 2 tensors (N, D), float32 | bfloat16 | float16 | float64. Not normalized here.

    Returns: (N,), float32 (float64 for float64 features).
    Cost: O(N D k^2), memory O(N D k).

    Example:
        >>> x, y, z = torch.eye(3)[:, None]  # one sample of three orthonormal vectors
        >>> gram_volume(x, y, z)
        tensor([1.])

    Source: Cicchetti et al. 2024 (GRAM), https://arxiv.org/abs/2412.11959, eq. 3; official code ispamm/GRAM,
    utils/volume.py, which takes sqrt |det| in float32, with a NaN or infinite gradient at V = 0.
    """
    return product(basis(feature_batches("modalities", modalities), 0)[1])


def gram_volume_matrix(anchor: Tensor, *others: Tensor) -> Tensor:
    """Volume of every anchor with the other modalities of every sample, (N, M), for retrieval-sized inputs.

        V_ij = volume(a_i, x_1j, ..., x_(k-1)j) = h_j * distance of a_i from the span of sample j's vectors,
        h_j = volume(x_1j, ..., x_(k-1)j)

    Holds k + 1 N x M matrices, for the backward pass too; gram_loss holds none. A distance that float32 dot products
    cannot tell from 0 (below 2^-10 |a_i|) counts as that bound, without gradient; gram_volume is exact for matched
    tuples.

    Args:
        anchor: (N, D). Not normalized here.
        others: k - 1 >= 1 tensors (M, D).

    Returns: (N, M), float32 (float64 for float64 features).

    Example:
        >>> anchor, x, y = torch.randn(4, 16), torch.randn(9, 16), torch.randn(9, 16)
        >>> gram_volume_matrix(anchor, x, y).shape
        torch.Size([4, 9])

    Source: Cicchetti et al. 2024 (GRAM), https://arxiv.org/abs/2412.11959; official code ispamm/GRAM, utils/volume.py.
    """
    anchor, *rest = check_tuples(*named(anchor, others))
    directions, lengths = basis(rest, len(rest))
    a = upcast(anchor)
    norm = a.square().sum(1, keepdim=True)
    square = norm - sum(matmul(a, direction.T).square() for direction in directions)
    floor = (norm * FLOOR[a.dtype] + 1e-30).detach()
    return torch.where(square <= floor, floor, square).sqrt() * product(lengths)


def named(anchor: Tensor, others: tuple[Tensor, ...]) -> tuple[list[str], list[Tensor]]:
    if not others:
        raise ValueError("others must be at least one tensor, got none")
    return ["anchor", *(f"others[{i}]" for i in range(len(others)))], [anchor, *others]


@collective
def gram_loss(
    anchor: Tensor,
    *others: Tensor,
    temperature: float | Tensor = 0.07,
    label_smoothing: float = 0.1,
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
    """GRAM: the anchor and its sample's other modalities must find each other by the smallest Gram volume.

        z_ij = -volume(a_i, x_1j, ..., x_(k-1)j) / temperature
        L = mean_i 1/2 [ CE(row i of z, i) + CE(column i of z, i) ]

    Args:
        anchor: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        others: k - 1 >= 1 tensors (N, D), or (M, D) with M >= N for keys gathered from elsewhere.
        temperature: > 0, a float or a 0-dim tensor with gradient. The official code learns it without a clamp, from
            0.07.
        label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
            torch.nn.functional.cross_entropy does. The official code uses 0.1.
        symmetric: True: both directions in one pass. False: anchor -> others only.
        direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (anchor -> others only),
            or "cols" (others -> anchor only).
        key_offset: The tuple of anchor i is row key_offset + i of the others. Only the N own tuples look for their
            anchor among the N anchors.
        weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N, k) bool, column 0 is the anchor: a tuple's volume covers the modalities it has. Samples without
            their anchor, or with nothing else, take no part. Missing features may hold anything. Only with M = N.
        detach_keys: As the official training code gathers, candidates get no gradient, even on one device: each
            direction trains only its queries. Takes two passes.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over the samples that take part, or "none": (N,), 0 for the others.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. 0 if no sample takes part.

    Cost: 8 (k - 1) N M D FLOP forward and backward. The orthonormal directions of every sample's other vectors are
    formed once (O(M D k^2)), so a pair needs k - 1 dot products and no k x k determinant; in half precision the
    directions are rounded once to the features' type. A mixed tuple whose anchor lies nearer to the span than float32
    products can tell (2^-10 |a_i|: a duplicate of the matched one) counts with that distance and no gradient through
    it; matched volumes are exact. Volumes do not see signs: see gram_volume.

    Example:
        >>> anchor, video, audio = torch.randn(3, 8, 16)
        >>> loss = gram_loss(anchor, video, audio, normalize=True)

    Source: Cicchetti et al. 2024 (GRAM), https://arxiv.org/abs/2412.11959, eq. 6; official code ispamm/GRAM,
    model/gram.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    anchor, *rest = check_tuples(*named(anchor, others))
    check_gathered(anchor, "others[0]", rest[0], key_offset, group)
    scale, smoothing = inverse(temperature, anchor), smoothing_share(label_smoothing)
    n, tensors, part, directions = anchor.shape[0], [anchor, *rest], None, direction_weights(direction, symmetric)
    if present is not None:
        if rest[0].shape[0] != n:
            raise ValueError(f"present must be None with gathered keys, {rest[0].shape[0]} for {n} anchors")
        present = check.bool_mask("present", present, (n, len(tensors)), anchor.device)
        part = present[:, 0] & present[:, 1:].any(1)  # has its anchor and something beside it
        present = present & part.unsqueeze(1)
        tensors = [cleaned(x, here) for x, here in zip(tensors, present.T, strict=True)]
    counted = Counted.weighted(weights, part, anchor, n)
    batch = GlobalBatch.of(engine.ranks, n, facts=lambda: dict(**counted.facts(), modalities=len(tensors)))
    if batch.total == 0:
        return reduced_empty(0, reduction, anchor, scale, *rest)
    tensors = [unit(x, normalize) for x in tensors]

    def build(given: list[Tensor]) -> TupleProblem:
        columns, matched = volumes(given, key_offset, present)
        return TupleProblem(batch, engine, given[0], columns, matched, -scale, smoothing, key_offset, counted)

    return tuple_loss(build, tensors, directions, detach_keys, reduction)


def volumes(tensors: list[Tensor], key_offset: int, present: Tensor | None) -> tuple[Columns, Tensor]:
    """What the others make of themselves, and the volumes of the matched tuples."""
    anchor, *others = tensors
    n, m = anchor.shape[0], others[0].shape[0]
    if n == m:  # one basis serves both: the anchor comes last, its residual closes the matched volume
        directions, lengths = basis([*others, anchor], len(others))
        if present is not None:  # a missing modality is a zero vector: no direction, and it counts as a factor of 1
            lengths = torch.where(torch.cat([present[:, 1:], present[:, :1]], 1).T, lengths, 1.0)
        factor = product(lengths[:-1])
        return Columns(directions, factor, None, "distance", offset=False), factor * lengths[-1]
    return spans(others), product(basis([*(x[key_offset : key_offset + n] for x in others), anchor], 0)[1])


def spans(others: list[Tensor]) -> Columns:
    """What the tuples span."""
    directions, lengths = basis(others, len(others))
    return Columns(directions, product(lengths), None, "distance", offset=False)
