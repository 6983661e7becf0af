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
    """SoftCLIP as in M3CoL: the target of a pair is the similarity of its items within the second modality.

        L = 1/2N sum_i [ - sum_j r_ij log softmax_j(<x_i, y_j> / temperature)
                         - sum_j r_ij log softmax_j(<y_i, x_j> / temperature) ]
        r_ij = softmax_j(<y_i, y_j> / temperature)

    Args:
        x, y: Pairs of two modalities, (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        detach_targets: True keeps gradients out of r. The official code lets them through.
        direction: "mean" or "sum" of both directions; "rows": x -> y only; "cols": y -> x only.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 16 N^2 D FLOP forward and backward, 12 with detach_targets.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = softclip_loss(x, y) + softclip_loss(y, x)

    Source: Kumar et al. 2024 (M3CoL), https://arxiv.org/abs/2409.17777; its soft_clip_loss.
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
    """CWCL: every pair counts by the similarity of its items within the pretrained modality, from 0 to 1.

        w_ij = (1 + <f_i, f_j>) / 2
        L = 1/N sum_i [ - sum_j w_ij log softmax_j(z_ij) / sum_j w_ij - log softmax_j(z_ji)_i ]
        z_ij = logit_scale <anchor_i, other_j>

    Args:
        anchor, other: (N, D), the pretrained modality and the one that is trained; unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        weight_features: f, (N, T), unit rows; default anchor. No gradient: the weights are constants. A row whose
            weights have no positive sum has its partner alone as target.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 12 N^2 D FLOP forward and backward for T = D.

    Example:
        >>> anchor, other = torch.randn(2, 8, 16)  # text is pretrained, speech is trained
        >>> loss = cwcl_loss(anchor, other, 20.0, normalize=True)

    Source: Srinivasa et al. 2023, https://arxiv.org/abs/2309.14580, eq. 3 and 4.
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
