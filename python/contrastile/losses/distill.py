"""Softmax losses with a teacher: momentum distillation with a queue, distilled CLIP."""

from __future__ import annotations

from torch import Tensor

from ..literals import BackendName, Direction, Reduction, TeacherLoss
from ..ops import Targets, check
from ..ranks import GlobalBatch, Group, collective, given, one_of
from .candidates import extra_columns, softmax_ids
from .common import engine_options, feature_pair, inverse, reduced_empty, unit
from .soft_targets import LOSSES, Distillation, frozen, frozen_scale, same_items, teacher_share, widened
from .weights import Counted, direction_weights


@collective
def distill_info_nce(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    teacher_temperature: float | Tensor | None = None,
    alpha: float | Tensor = 0.4,
    negatives: Tensor | None = None,
    teacher_negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    teacher_loss: TeacherLoss = "ce",
    filter_wrong: bool = False,
    detach_targets: bool = True,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE whose target is split between the query's own key and what a teacher says of all candidates.

        L_i = - sum_j p_ij log softmax_j(z_ij),    z_ij = <q_i, c_j> / temperature,   c = [key | negatives]
        p_ij = alpha softmax_j(<q'_i, c'_j> / teacher_temperature) + (1 - alpha) [j = i]

    With momentum encoders (ALBEF, TCL) q' is the momentum encoder's query, and c' are the candidates themselves:
    momentum keys and a queue of older ones. Leave out teacher_key. With another teacher, c' are its own features of the
    candidates.

    Args:
        query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        teacher_query: (N, T), the teacher's queries.
        teacher_key: (N, T), the teacher's keys. None: key and negatives serve the teacher too.
        temperature: > 0: a float, a 0-dim tensor, or (N,). Dimensionless; divides the similarity.
        teacher_temperature: The teacher's temperature; None: temperature, without gradient.
        alpha: The teacher's share of the target, in [0, 1]; a float or a 0-dim tensor. ALBEF ramps it up in the first
            epoch.
        negatives: Further candidates of all queries (a queue), (M, D). Without gradient they cost none.
        teacher_negatives: (M, T), the teacher's features of them, if you give teacher_key.
        query_ids, key_ids, negative_ids: Integers, (N,), (N,), (M,). All candidates with the query's id share the hard
            part of the target equally, [id_j = id_i] / count, as for several captions of an image. key_ids default to
            query_ids; negatives without ids have none.
        teacher_loss: "ce", the cross-entropy above, or "kl", which subtracts the entropy of p_i and is 0 for a student
            that equals the target. No "kl" with ids, unless alpha is 1.
        filter_wrong: True: a query whose teacher does not find its own key (the first of equals counts) has loss 0.
        detach_targets: False lets gradients through the target.
        weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over queries, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost for candidates without gradient: 6 N (N + M) D FLOP forward and backward; 10 where reduction="none", ids, or
    "kl" compute similarities twice.

    Example:
        >>> query, key, teacher_query = torch.randn(3, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> loss = distill_info_nce(query, key, teacher_query, negatives=queue, alpha=0.4, normalize=True)

    Source: Li et al. 2021 (ALBEF), https://arxiv.org/abs/2107.07651, eq. 6; Yang et al. 2022 (TCL),
    https://arxiv.org/abs/2202.10401. filter_wrong: Ni et al. 2023 (Mod-X), https://arxiv.org/abs/2305.07437.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("teacher_loss", teacher_loss, LOSSES)
    query, key = feature_pair("query", query, "key", key, normalize)
    n, counted = query.shape[0], Counted.of(weights, None, query)
    scale, alpha = inverse(temperature, query, n), teacher_share(alpha, query)
    teacher_scale = frozen_scale(scale, True)
    if teacher_temperature is not None:
        teacher_scale = inverse(teacher_temperature, query, n, "teacher_temperature")
    if teacher_key is None and not detach_targets:
        query, key = widened(engine, query, key)
    blocks = [key] if negatives is None else [key, unit(extra_columns("negatives", negatives, query), normalize)]
    columns = teacher_columns(teacher_key, teacher_negatives, key, negatives, blocks, normalize)
    query_ids, key_ids, negative_ids = softmax_ids(query, key, query_ids, key_ids, negative_ids, negatives)
    if teacher_loss == "kl" and query_ids is not None and (isinstance(alpha, Tensor) or alpha != 1.0):
        raise ValueError("teacher_loss must be 'ce' with query_ids unless alpha is 1: the entropy is not computed")
    rows = check.features("teacher_query", teacher_query)
    check.same_width("teacher_query", rows, "key" if teacher_key is None else "teacher_key", columns[0])
    same_items("teacher_query", rows, query)
    rows = unit(rows, normalize)
    batch = GlobalBatch.of(
        engine.ranks, n, sum(x.shape[0] for x in blocks[1:]),
        lambda: dict(
            **counted.facts(), negatives=given(negatives), query_ids=given(query_ids), filter_wrong=bool(filter_wrong),
            teacher_loss=one_of(teacher_loss, LOSSES), teacher_key=given(teacher_key),
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, query, *blocks, rows, *columns, scale, teacher_scale)
    rows, *columns = (frozen(x, detach_targets) for x in (rows, *columns))
    targets = Targets(rows, columns, frozen_scale(teacher_scale, detach_targets))
    ids = [key_ids, negative_ids][: len(blocks)]
    problem = Distillation(
        batch, engine, query, blocks, scale, targets, alpha, counted, teacher_loss, filter_wrong, query_ids, ids
    )
    return problem.loss(reduction)


def teacher_columns(
    teacher_key: Tensor | None, teacher_negatives: Tensor | None, key: Tensor, negatives: Tensor | None,
    blocks: list[Tensor], normalize: bool,
) -> list[Tensor]:  # fmt: skip
    """The teacher's features of all candidates."""
    if (teacher_negatives is None) != (teacher_key is None or negatives is None):
        raise ValueError("teacher_negatives must be given with teacher_key and negatives, and only with both")
    if teacher_key is None:
        return blocks
    same_items("teacher_key", check.features("teacher_key", teacher_key), key)
    if teacher_negatives is None or negatives is None:
        return [unit(teacher_key, normalize)]
    same_items("teacher_negatives", check.features("teacher_negatives", teacher_negatives), negatives)
    check.same_width("teacher_negatives", teacher_negatives, "teacher_key", teacher_key)
    return [unit(teacher_key, normalize), unit(teacher_negatives, normalize)]


@collective
def clip_distill_loss(
    image_features: Tensor,
    text_features: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    logit_scale: float | Tensor,
    teacher_logit_scale: float | Tensor | None = None,
    *,
    alpha: float | Tensor = 1.0,
    teacher_loss: TeacherLoss = "ce",
    filter_wrong: bool = False,
    detach_targets: bool = True,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CLIP with a teacher's softmax as target, in both directions and in one pass.

        L = 1/2N sum_i [ - sum_j p_ij log softmax_j(z_ij) - sum_j p'_ij log softmax_j(z_ji) ]
        z_ij = logit_scale <image_i, text_j>,   t_ij = teacher_logit_scale <teacher_image_i, teacher_text_j>
        p_ij = alpha softmax_j(t_ij) + (1 - alpha) [j = i],   p'_ij = alpha softmax_j(t_ji) + (1 - alpha) [j = i]

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        teacher_image_features, teacher_text_features: (N, T), the teacher's features.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        teacher_logit_scale: The teacher's scale; None: logit_scale, without gradient.
        alpha: The teacher's share of the target, in [0, 1]; a float or a 0-dim tensor.
        teacher_loss: "ce", the formula above, or "kl", which subtracts the entropies of p and p'.
        filter_wrong: True: an item whose teacher does not find its partner (the first of equals counts) has loss 0 in
            that direction.
        detach_targets: False lets gradients through the targets.
        direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale all four sets of rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 12 N^2 D FLOP forward and backward for T = D, 16 with gradients through the targets.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> teacher_image_features, teacher_text_features = torch.randn(2, 8, 32)
        >>> loss = clip_distill_loss(
        ...     image_features, text_features, teacher_image_features, teacher_text_features, 20.0, normalize=True
        ... )

    Source: open_clip DistillClipLoss (alpha=1, "ce"); Yamaguchi et al. 2025 (CLIP-Refine, HyCD: "kl" on features that
    are not normalized, logit_scale 1, alpha=0.5), https://arxiv.org/abs/2504.12717; Ni et al. 2023 (Mod-X: "kl",
    filter_wrong, "sum"), https://arxiv.org/abs/2305.07437.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("teacher_loss", teacher_loss, LOSSES)
    image, text = feature_pair("image_features", image_features, "text_features", text_features, normalize)
    rows, columns = feature_pair(
        "teacher_image_features", teacher_image_features, "teacher_text_features", teacher_text_features, normalize
    )
    same_items("teacher_image_features", rows, image)
    counted, alpha = Counted.of(weights, None, image), teacher_share(alpha, image)
    scale = check.scalar("logit_scale", logit_scale, device=image.device)
    teacher_scale = frozen_scale(scale, True)
    if teacher_logit_scale is not None:
        teacher_scale = check.scalar("teacher_logit_scale", teacher_logit_scale, device=image.device)
    row, col = direction_weights(direction)
    batch = GlobalBatch.of(
        engine.ranks, image.shape[0],
        facts=lambda: dict(
            **counted.facts(), filter_wrong=bool(filter_wrong), teacher_loss=one_of(teacher_loss, LOSSES)
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, rows, columns, teacher_scale)
    rows, columns = frozen(rows, detach_targets), frozen(columns, detach_targets)
    if not row:  # text -> image alone: as rows, without the other side's statistics
        image, text, rows, columns, row, col = text, image, columns, rows, col, 0.0
    targets = Targets(rows, columns, frozen_scale(teacher_scale, detach_targets))
    problem = Distillation(
        batch, engine, image, [text], scale, targets, alpha, counted, teacher_loss, filter_wrong, row=row, col=col
    )
    return problem.loss(reduction)
