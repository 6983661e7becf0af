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
        query, key: Pairs, (N, D), unit rows expected, or normalize=True.
        margin: A number: of the cosine, or ("arc") of the angle, in radians, in [-pi, pi]. A negative one is lenient:
            InterCLR has -0.5 between images.
        kind: "cos" | "arc". "arc" goes on as a line, c - |margin| sin |margin| (+ for a negative margin), where the
            angle would leave [0, pi], as in the official code. Where c is 1 or -1 its gradient is that of
            cos(margin) c.
        temperature: > 0, float or 0-dim tensor.
        negatives: Further candidates of all queries (a queue, a memory bank), (M, D).
        in_batch: False: the negatives alone, no other keys of the batch, as MoCo and InterCLR have it.
        query_ids, key_ids, negative_ids: As in info_nce: candidates with the query's id are no negatives.
        symmetric, direction: As in info_nce, with the same margin in both directions.
        weights, present, reduction, memory_budget, backend, group: As in info_nce.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch, and a query without negatives, give 0. Cost:
    8 N (N + M) D FLOP forward and backward, 6 for negatives without gradient.

    Example:
        >>> q, k = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> loss = margin_info_nce(q, k, margin=-0.5, negatives=queue, in_batch=False, temperature=0.2)

    Source: Xie et al. 2020 (InterCLR), arXiv 2008.11702; mmselfsup 0.x, interclr_moco.py; both directions: Yang et al.
    2019, arXiv 1902.08564; "arc": Deng et al. 2019 (ArcFace), arXiv 1801.07698.
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
    """CMA: CLIP less a share of its log-sum-exps, so that matched pairs come closer than CLIP alone brings them.

        L = 1/2N sum_i [ (1 - lam) (log sum_j e^{z_ij} + log sum_j e^{z_ji}) - 2 z_ii ]
        z_ij = logit_scale <image_i, text_j>

    Args:
        image_features, text_features: (N, D), unit rows expected, or normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient.
        lam: A number in [0, 1]; 0 gives clip_loss, the official code trains with 0.001.
        image_ids, text_ids: As in clip_loss: pairs of equal ids are no negatives. The official code has class names as
            texts and leaves the same names in.
        direction, weights, present, reduction, memory_budget, backend, group: As in clip_loss.

    Returns: float32 (float64 for float64 inputs), nats; not bounded below. An empty batch gives 0. Cost: as clip_loss.

    Example:
        >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> loss = cma_loss(image, text, 100.0, lam=0.001)

    Source: Kim and Hwang 2025 (CMA), arXiv 2503.18817; ma-kjh/CMA-OoDD, train_utils.py.
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
