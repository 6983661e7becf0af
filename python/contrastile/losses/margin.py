"""InfoNCE and CLIP whose positives count otherwise: by a margin, or against a part of the log-sum-exp."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from ..literals import BackendName, Direction, MarginKind, Reduction
from ..ops import Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective, given, one_of
from .blocks import Block
from .candidates import check_in_batch, extra_columns, pair_ids, promoted, softmax_ids
from .common import cleaned, cross_entropy, engine_options, feature_pair, inverse, paired_dot, reduced_empty, unit
from .softmax import Softmax
from .weights import Counted, direction_weights

KINDS = get_args(MarginKind)


@collective
def margin_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    margin: float,
    kind: MarginKind = "cos",
    temperature: float | Tensor = 0.07,
    negatives: Tensor | None = None,
    in_batch: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    symmetric: bool = False,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE whose positive must win by a margin: MarginNCE, additive margin softmax.

        L_i = log(1 + sum_{j != i} e^{(<q_i, k_j> - f(<q_i, k_i>)) / temperature}),    j over [key | negatives]
        f(c) = c - margin ("cos"),    cos(arccos c + margin) ("arc")

    Args:
        query, key: Pairs, (N, D), unit rows, or set normalize=True.
        margin: A number: of the cosine, or ("arc") of the angle in radians, in [-pi, pi]. A negative margin is lenient:
            InterCLR uses -0.5 between images.
        kind: "cos" | "arc". Where the angle would leave [0, pi], "arc" continues as the line c - |margin| sin |margin|
            (plus for a negative margin), as in the official code. Where c is 1 or -1, its gradient is that of
            cos(margin) c.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        negatives: Further candidates that all queries share (a queue, a memory bank), (M, D).
        in_batch: False: only negatives are candidates, not the other keys of the batch (MoCo, InterCLR).
        query_ids, key_ids, negative_ids: Integers, (N,), (N,), (M,). Candidates with the query's id are not negatives.
            key_ids default to query_ids. Negatives without ids always count.
        symmetric: Adds the key -> query direction, with the same margin, from the same pass.
        direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (query -> key only), or
            "cols" (key -> query only).
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over rows, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch, and a query without negatives, give 0.
    Cost: 8 N (N + M) D FLOP forward and backward, 6 for negatives without gradient.

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> loss = margin_info_nce(query, key, margin=0.3, negatives=queue, temperature=0.2, normalize=True)

    Source: Xie et al. 2020 (InterCLR), https://arxiv.org/abs/2008.11702; mmselfsup 0.x, interclr_moco.py. Both
    directions: Yang et al. 2019, https://arxiv.org/abs/1902.08564. "arc": Deng et al. 2019 (ArcFace),
    https://arxiv.org/abs/1801.07698.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    margin = checked_margin(margin, check.choice("kind", kind, KINDS))
    counted = Counted.of(weights, present, check.features("query", query))
    query, key = feature_pair("query", query, "key", key, False)
    scale = inverse(temperature, query)
    row, col = direction_weights(direction, symmetric)
    negatives = None if negatives is None else extra_columns("negatives", negatives, query)
    check_in_batch(in_batch, negatives, col > 0.0, dict(key_ids=key_ids))
    query, key, negatives, _ = promoted(query, key, negatives, None)
    query_ids, key_ids, negative_ids = softmax_ids(query, key, query_ids, key_ids, negative_ids, negatives)
    if not in_batch and query_ids is not None and negative_ids is None:
        raise ValueError("query_ids must be None with in_batch=False and no negative_ids: they would have no effect")
    if not row and negatives is not None:
        raise ValueError("negatives must be None with direction='cols': they matter to query -> key alone")
    query, key = (unit(cleaned(x, counted.present), normalize) for x in (query, key))
    others = [] if negatives is None else [Block(unit(negatives, normalize), negative_ids)]
    batch = GlobalBatch.of(
        engine.ranks, query.shape[0], sum(x.features.shape[0] for x in others),
        lambda: dict(
            **counted.facts(), negatives=given(negatives), query_ids=given(query_ids), symmetric=symmetric,
            in_batch=in_batch, kind=one_of(kind, KINDS),
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, query, key, scale, negatives)
    problem = Softmax(
        batch, engine, query, key, scale, counted, others, row_ids=query_ids, col_ids=key_ids, row=row, col=col,
        in_batch=in_batch,
    ).widened()  # fmt: skip
    positive = scale * moved(paired_dot(problem.query, problem.key), margin, kind)
    if not row:
        problem = replace(problem.turned(), col=0.0)
    stats = pair_stats(problem.pairs(), engine)
    rows = (row or col) * cross_entropy(stats.rows, positive)
    if row and col:
        assert stats.cols is not None
        rows = rows + col * cross_entropy(stats.cols[: query.shape[0]], positive)
    return counted.reduced(batch, rows, reduction)


def checked_margin(margin: float, kind: str) -> float:
    value = check.scalar("margin", margin)
    if isinstance(value, Tensor):
        raise TypeError("margin must be a number, got Tensor")
    if kind == "arc" and abs(value) > math.pi:
        raise ValueError(f"margin must lie in [-pi, pi] with kind='arc', got {margin}")
    return value


def moved(cosine: Tensor, margin: float, kind: str) -> Tensor:
    """f(c): the cosine of a pair, made harder by the margin."""
    if kind == "cos" or margin == 0.0:
        return cosine - margin if margin else cosine
    square = (1.0 - cosine) * (1.0 + cosine)
    inside = square > 0.0
    sine = torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)
    turned = math.cos(margin) * cosine - math.sin(margin) * sine
    reached = cosine < math.cos(margin) if margin < 0.0 else cosine > -math.cos(margin)
    return torch.where(reached, turned, cosine - math.sin(abs(margin)) * margin)


@collective
def cma_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    *,
    lam: float,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CMA: CLIP minus a share of its log-sum-exps, which brings matched pairs closer than CLIP alone does.

        L = 1/2N sum_i [ (1 - lam) (log sum_j e^{z_ij} + log sum_j e^{z_ji}) - 2 z_ii ]
        z_ij = logit_scale <image_i, text_j>

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        lam: A number in [0, 1]. 0 gives clip_loss; the official code trains with 0.001.
        image_ids, text_ids: (N,) integers. Pairs with equal ids at different indices are not negatives. The official
            code uses class names as texts and keeps equal names as negatives.
        direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats; not bounded below. An empty batch gives 0.
    Cost: 8 N^2 D FLOP forward and backward (6 where the scores fit memory_budget), 6 in one direction.

    Example:
        >>> image, text = torch.randn(2, 8, 16)
        >>> loss = cma_loss(image, text, 100.0, lam=0.001, normalize=True)

    Source: Kim and Hwang 2025 (CMA), https://arxiv.org/abs/2503.18817; ma-kjh/CMA-OoDD, train_utils.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("image_features", image_features))
    image, text = feature_pair(
        "image_features", image_features, "text_features", text_features, normalize, counted.present
    )
    row_ids, col_ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    scale, part = check.scalar("logit_scale", logit_scale, device=image.device), check.scalar("lam", lam)
    if isinstance(part, Tensor) or not 0.0 <= part <= 1.0:
        raise ValueError(f"lam must be a number in [0, 1], got {lam}")
    row, col = direction_weights(direction)
    batch = GlobalBatch.of(
        engine.ranks, image.shape[0], facts=lambda: dict(**counted.facts(), image_ids=given(row_ids))
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale)
    problem = Softmax(batch, engine, image, text, scale, counted, [], None, row_ids, col_ids, row=row, col=col)
    if not row:  # text -> image alone: as rows, without the other side's statistics
        problem, row, col = replace(problem.turned(), col=0.0), col, 0.0
    pairs = problem.pairs()
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        matched = stats.row_positives
        assert matched is not None
        rows = row * ((1.0 - part) * cross_entropy(stats.rows, matched) - part * matched)
        if stats.cols is not None:
            rows = rows + col * ((1.0 - part) * cross_entropy(stats.cols, matched) - part * matched)
        return counted.reduced(batch, rows, reduction)
    weight = counted.weight(batch, reduction, image)
    each = Weights((1.0 - part) * row * weight, -part * row * weight, cross_entropy=True)
    if col:
        each.col, each.col_positive = (1.0 - part) * col * weight, -part * col * weight
    return weighted_sum(pairs, each, engine)
