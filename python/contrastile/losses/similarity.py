"""Softmax losses whose targets are similarities within one modality: SoftCLIP, CWCL."""

from __future__ import annotations

from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import Pairs, Targets, Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective, given
from .common import engine_options, feature_pair, inverse, reduced_empty, unit
from .soft_targets import Distillation, frozen, frozen_scale, same_items, widened
from .weights import Counted, direction_weights


@collective
def softclip_loss(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 0.125,
    detach_targets: bool = False,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """SoftCLIP as in M3CoL: the target of a pair is how alike the items of the second modality are.

        L = 1/2N sum_i [ - sum_j r_ij log softmax_j(<x_i, y_j> / temperature)
                         - sum_j r_ij log softmax_j(<y_i, x_j> / temperature) ]
        r_ij = softmax_j(<y_i, y_j> / temperature)

    Args:
        x, y: Pairs of two modalities, (N, D), unit rows expected, or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        detach_targets: True keeps gradients out of r. The official code lets them through.
        direction, weights, reduction, memory_budget, backend, group: As in info_nce.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch gives 0. Cost: 16 N^2 D FLOP forward and
    backward, 12 with detach_targets.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = softclip_loss(x, y) + softclip_loss(y, x)

    Source: Kumar et al. 2024 (M3CoL), arXiv 2409.17777; its soft_clip_loss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, None, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize)
    scale = inverse(temperature, x)
    row, col = direction_weights(direction)
    batch = GlobalBatch.of(
        engine.ranks, x.shape[0], facts=lambda: dict(**counted.facts(), detach_targets=bool(detach_targets))
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y, scale)
    if not detach_targets:
        x, y = widened(engine, x, y)
    same = frozen(y, detach_targets)
    targets = Targets(same, same, frozen_scale(scale, detach_targets))
    if not row:  # the target of both directions is the same: r is symmetric before its softmax
        x, y, row, col = y, x, col, 0.0
    problem = Distillation(batch, engine, x, [y], scale, targets, 1.0, counted, row=row, col=col)
    return problem.loss(reduction)


@collective
def cwcl_loss(
    anchor: Tensor,
    other: Tensor,
    logit_scale: float | Tensor,
    *,
    weight_features: Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CWCL: every pair counts by how alike the items are within the pretrained modality, from 0 to 1.

        w_ij = (1 + <f_i, f_j>) / 2
        L = 1/N sum_i [ - sum_j w_ij log softmax_j(z_ij) / sum_j w_ij - log softmax_j(z_ji)_i ]
        z_ij = logit_scale <anchor_i, other_j>

    Args:
        anchor: (N, D) of the pretrained modality; other: (N, D) of the one that is trained. Unit rows expected, or
            normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient.
        weight_features: f, (N, T), unit rows; default anchor. No gradient: weights are constants. A row whose weights
            have no positive sum has its partner alone as target.
        weights, reduction, memory_budget, backend, group: As in info_nce.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch gives 0. Cost: 12 N^2 D FLOP forward and
    backward for T = D.

    Example:
        >>> speech, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = cwcl_loss(text, speech, 20.0)

    Source: Srinivasa et al. 2023, arXiv 2309.14580, eq. 3 and 4.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, None, check.features("anchor", anchor))
    anchor, other = feature_pair("anchor", anchor, "other", other, normalize)
    scale = check.scalar("logit_scale", logit_scale, device=anchor.device)
    similar = anchor if weight_features is None else check.features("weight_features", weight_features)
    same_items("weight_features", similar, anchor)
    similar = (similar if weight_features is None else unit(similar, normalize)).detach()
    batch = GlobalBatch.of(
        engine.ranks, anchor.shape[0], facts=lambda: dict(**counted.facts(), weight_features=given(weight_features))
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, anchor, other, scale)
    pairs = Pairs(
        anchor, other, scale, positives="same_index", cols=True,
        targets=Targets(similar, similar, 0.5, "affine", 0.5),
    )  # fmt: skip
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        assert stats.row_target_loss is not None and stats.cols is not None and stats.col_positives is not None
        return counted.reduced(batch, stats.row_target_loss + stats.cols - stats.col_positives, reduction)
    weight = counted.weight(batch, reduction, anchor)
    return weighted_sum(pairs, Weights(weight, col=weight, col_positive=-weight, row_target=-weight), engine)
