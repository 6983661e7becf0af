"""Softmax contrastive losses: InfoNCE, CLIP, NT-Xent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, Weights, check, no_autocast, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, Ranks, collective, given, size_of
from .common import (
    cross_entropy,
    engine_options,
    feature_pair,
    inverse,
    paired_dot,
    private_dots,
    reduced_empty,
    unit,
    upcast,
)


@dataclass
class Softmax:
    """One softmax problem: rows, column blocks, which pairs count. Arguments are checked before it is made."""

    batch: GlobalBatch
    engine: EngineOptions
    query: Tensor
    key: Tensor
    scale: float | Tensor
    negatives: Tensor | None = None
    hard: Tensor | None = None
    row_ids: Tensor | None = None
    col_ids: Tensor | list[Tensor | None] | None = None
    margin: float | Tensor | None = None
    smoothing: float = 0.0
    symmetric: bool = False

    def pairs(self) -> Pairs:
        """Every row against the others; its positive apart, so that a converged model's loss keeps its digits."""
        pairs = Pairs(
            self.query, self.blocks(), self.scale, keep="other_index", positives="same_index", cols=self.symmetric
        )
        if self.row_ids is not None:
            pairs.keep, pairs.row_ids, pairs.col_ids = ("other_index", "other_id"), self.row_ids, self.col_ids
        if self.margin is not None:
            limit = (self.scale * (paired_dot(self.query, self.key) + self.margin)).detach()
            pairs.row_high = limit
            if self.symmetric:  # columns of the extra negatives have weight 0; their limit is never used
                extra = 0 if self.negatives is None else self.negatives.shape[0]
                pairs.col_high = torch.cat([limit, limit.new_zeros(extra)])
        return pairs

    def blocks(self) -> list[Tensor]:
        return [self.key] if self.negatives is None else [self.key, self.negatives]

    def loss(self, reduction: Reduction) -> Tensor:
        if self.smoothing > 0.0 or self.hard is not None:
            # terms beside the engine's: their gradients meet in float32 and are rounded once, after cancelling
            self.engine.compute_dtype = self.query.dtype
            self.query, self.key = upcast(self.query), upcast(self.key)
            self.negatives = None if self.negatives is None else upcast(self.negatives)
            self.hard = None if self.hard is None else upcast(self.hard)
        if reduction == "none" or self.hard is not None:
            return self.batch.reduced(self.rows(), reduction)
        weight = self.batch.weight(reduction) * (0.5 if self.symmetric else 1.0)
        value = weighted_sum(self.pairs(), self.weights(weight), self.engine)
        if self.smoothing > 0.0:
            value = value - self.smoothing * self.batch.reduced(self.mean_logits(), reduction)
        return value

    def weights(self, weight: float) -> Weights:
        positive = weight * self.smoothing
        if not self.symmetric:
            return Weights(weight, positive, cross_entropy=True)
        if self.negatives is None:
            return Weights(weight, positive, weight, positive, cross_entropy=True)
        own = upcast(self.key).new_zeros(self.key.shape[0] + self.negatives.shape[0])
        own[: self.key.shape[0]] = 1.0  # only the paired keys are anchors of the key -> query direction
        return Weights(weight, positive, own * weight, own * positive, cross_entropy=True)

    def rows(self) -> Tensor:
        """Per-row losses, (N,)."""
        n = self.query.shape[0]
        stats = pair_stats(self.pairs(), self.engine)
        assert stats.row_positives is not None
        others, positive = stats.rows, stats.row_positives
        if self.hard is not None and self.hard.shape[1]:
            others = torch.logaddexp(others, self.hard_logits().logsumexp(1))
        rows = cross_entropy(others, positive)
        if self.symmetric:
            assert stats.cols is not None
            rows = 0.5 * (rows + cross_entropy(stats.cols[:n], positive))
        return rows + self.smoothing * (positive - self.mean_logits()) if self.smoothing > 0.0 else rows

    def hard_logits(self) -> Tensor:
        """(N, K): private negatives never meet another row, so they are N K dot products, not N^2."""
        assert self.hard is not None
        scale = self.scale.unsqueeze(-1) if isinstance(self.scale, Tensor) and self.scale.dim() else self.scale
        return scale * private_dots(upcast(self.query), upcast(self.hard))

    def mean_logits(self) -> Tensor:
        """Mean logit of each row over its candidates, (N,): linear in the scores, so no pairs are needed."""
        hard = 0 if self.hard is None else self.hard.shape[1]
        total = (upcast(self.query) * self.batch.column_sum(self.key, self.negatives)).sum(1)
        if self.hard is not None:
            total = total + (upcast(self.query) * upcast(self.hard).sum(1)).sum(1)
        mean = self.scale * total / (self.batch.total + self.batch.extra + hard)
        if not self.symmetric:
            return mean
        back = self.scale * (upcast(self.key) * self.batch.column_sum(self.query)).sum(1) / self.batch.total
        return 0.5 * (mean + back)


@collective
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    negatives: Tensor | None = None,
    hard_negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    false_negative_margin: float | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = False,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE: every query must find its own key among all keys of the batch and any further negatives.

        L_i = log sum_j e^{z_ij} - z_ii,    z_ij = <q_i, k_j> / temperature,
        j over [key | negatives | hard_negatives_i]

    Args:
        query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows expected, or normalize=True.
        temperature: > 0; float, 0-dim tensor or (N,) tensor per query. Dimensionless, divides the similarity.
        negatives: Columns shared by all queries (a queue, other documents), (M, D).
        hard_negatives: Private columns of each query, (N, K, D). Holds N K logits.
        query_ids, key_ids, negative_ids: Integers, (N,), (N,), (M,). A column with the row's id is no negative of
            that row (its own positive stays). key_ids default to query_ids; negatives without ids are always kept.
        false_negative_margin: Drops columns of key and negatives with <q_i, k_j> > <q_i, k_i> + margin (similarity
            units). No gradient flows through the decision; ties are decided at rounding error.
        label_smoothing: In [0, 1): that share of the target is spread over all candidates of the row, as in
            torch.nn.functional.cross_entropy. Not with ids or margin.
        symmetric: Mean of query -> key and key -> query, from one pass; the extra negatives belong to the queries.
        reduction: "mean" | "sum" over rows, or "none": (N,).
        memory_budget, backend, group: As in pair_reduce / pair_loss.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch gives 0.

    Source: van den Oord et al. 2018, arXiv 1807.03748, eq. 4; margin as in the Qwen3-Embedding report,
    arXiv 2506.05176.
    """
    n = check.features("query", query).shape[0]
    engine = engine_options(reduction, memory_budget, backend, group)
    query, key = feature_pair("query", query, "key", key, normalize=False)
    scale = inverse(temperature, query, n)
    smoothing = smoothing_share(label_smoothing)
    if symmetric and isinstance(scale, Tensor) and scale.dim() == 1:
        raise ValueError("temperature must be one number with symmetric=True, got one per query")
    if smoothing > 0.0 and (query_ids is not None or false_negative_margin is not None):
        raise ValueError("label_smoothing cannot be combined with ids or false_negative_margin")
    negatives = None if negatives is None else extra_columns("negatives", negatives, query)
    hard_negatives = None if hard_negatives is None else private_columns(hard_negatives, query)
    query, key, negatives, hard_negatives = promoted(query, key, negatives, hard_negatives)
    query, key = unit(query, normalize), unit(key, normalize)
    negatives = None if negatives is None else unit(negatives, normalize)
    hard_negatives = None if hard_negatives is None else unit(hard_negatives, normalize)
    row_ids, col_ids = softmax_ids(query, query_ids, key_ids, negative_ids, negatives)
    margin: float | Tensor | None = false_negative_margin
    if margin is not None:
        margin = check.scalar("false_negative_margin", margin, device=query.device)
    batch = GlobalBatch.of(
        engine.ranks, n, 0 if negatives is None else negatives.shape[0],
        lambda: dict(
            negatives=given(negatives), hard_negatives=size_of(hard_negatives, 1), query_ids=given(row_ids),
            false_negative_margin=given(margin), symmetric=symmetric, label_smoothing=given(smoothing or None),
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, query, key, scale, negatives, hard_negatives)
    problem = Softmax(
        batch, engine, query, key, scale, negatives, hard_negatives, row_ids, col_ids, margin, smoothing, symmetric
    )
    return problem.loss(reduction)


def promoted(
    query: Tensor, key: Tensor, negatives: Tensor | None, hard: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """All features in one type, as torch promotes them."""
    dtype = query.dtype
    for extra in (negatives, hard):
        dtype = dtype if extra is None or extra.dtype == dtype else torch.promote_types(dtype, extra.dtype)
    negatives = None if negatives is None else check.as_type(negatives, dtype)
    hard = None if hard is None else check.as_type(hard, dtype)
    return check.as_type(query, dtype), check.as_type(key, dtype), negatives, hard


def smoothing_share(label_smoothing: float) -> float:
    value = check.scalar("label_smoothing", label_smoothing)
    if isinstance(value, Tensor) or not 0.0 <= value < 1.0:
        raise ValueError(f"label_smoothing must be a number in [0, 1), got {label_smoothing}")
    return value


def extra_columns(name: str, x: Tensor, query: Tensor) -> Tensor:
    check.same_width(name, check.features(name, x), "query", query)
    check.same_device(name, x, query.device)
    return x


def private_columns(x: Tensor, query: Tensor) -> Tensor:
    check.same_width("hard_negatives", check.features("hard_negatives", x, ndim=3), "query", query)
    if x.shape[0] != query.shape[0]:
        raise ValueError(f"hard_negatives must have shape ({query.shape[0]}, K, D), got {tuple(x.shape)}")
    check.same_device("hard_negatives", x, query.device)
    return x


def pair_ids(
    x: Tensor, row_name: str, row_ids: Tensor | None, col_name: str, col_ids: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Ids of the rows and of as many columns; (None, None) without row_ids."""
    if row_ids is None:
        if col_ids is not None:
            raise ValueError(f"{col_name} need {row_name}")
        return None, None
    rows = check.ids(row_name, row_ids, x.shape[0], x.device)
    return rows, rows if col_ids is None else check.ids(col_name, col_ids, x.shape[0], x.device)


def softmax_ids(
    query: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    negative_ids: Tensor | None,
    negatives: Tensor | None,
) -> tuple[Tensor | None, Tensor | list[Tensor | None] | None]:
    """Ids of rows and of every block of columns; (None, None) without query_ids."""
    if negative_ids is not None and (negatives is None or query_ids is None):
        raise ValueError(f"negative_ids need {'negatives' if negatives is None else 'query_ids'}")
    rows, cols = pair_ids(query, "query_ids", query_ids, "key_ids", key_ids)
    if rows is None or cols is None or negatives is None:
        return rows, cols
    if negative_ids is not None:
        negative_ids = check.ids("negative_ids", negative_ids, negatives.shape[0], query.device)
    return rows, [cols, negative_ids]


@collective
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    *,
    label_smoothing: float = 0.0,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CLIP: the mean of the image -> text and text -> image cross-entropies over the batch.

        L = 1/2N sum_i [ log sum_j e^{z_ij} + log sum_j e^{z_ji} - 2 z_ii ],      z_ij = logit_scale * <image_i, text_j>

    Args:
        image_features, text_features: (N, D), unit rows expected, or normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient.
        label_smoothing, image_ids, text_ids, reduction, memory_budget, backend, group: As in info_nce.

    Returns: float32, nats. Cost: 8 N^2 D FLOP forward and backward (6 where the scores fit memory_budget).

    Source: Radford et al. 2021, arXiv 2103.00020, figure 3; open_clip ClipLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    image, text = feature_pair("image_features", image_features, "text_features", text_features, normalize)
    smoothing = smoothing_share(label_smoothing)
    if smoothing > 0.0 and image_ids is not None:
        raise ValueError("label_smoothing cannot be combined with ids")
    row_ids, col_ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    scale = check.scalar("logit_scale", logit_scale, device=image.device)
    batch = GlobalBatch.of(
        engine.ranks, image.shape[0],
        facts=lambda: dict(image_ids=given(row_ids), label_smoothing=given(smoothing or None)),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale)
    problem = Softmax(
        batch, engine, image, text, scale, row_ids=row_ids, col_ids=col_ids, smoothing=smoothing, symmetric=True
    )
    return problem.loss(reduction)


def two_views(z1: Tensor, z2: Tensor, normalize: bool, ranks: Ranks | None) -> tuple[Tensor, Tensor, GlobalBatch]:
    """The 2N rows [z1; z2], the instance each belongs to, and the batch of instances."""
    z1, z2 = feature_pair("z1", z1, "z2", z2, normalize)
    with no_autocast(z1):  # in a float16 region, torch.cat refuses bfloat16
        x = torch.cat([z1, z2])
    batch = GlobalBatch.of(ranks, z1.shape[0])
    return x, batch.index(z1.device).repeat(2), batch


@collective
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """NT-Xent (SimCLR): each of the 2N views must find the other view of its instance among the 2N - 1 others.

        L_i = log sum_{j != i} e^{<x_i, x_j> / temperature} - <x_i, x_p(i)> / temperature,      x = [z1; z2]

    Args:
        z1, z2: Two views of the same N instances, (N, D), unit rows expected, or normalize=True.
        temperature: > 0, float or 0-dim tensor.
        reduction: "mean" | "sum" over the 2N rows, or "none": (2N,), z1's rows first.

    Returns: float32, nats. Cost: 4 (2N)^2 D FLOP forward and backward: each unordered pair is computed once.

    Source: Chen et al. 2020, arXiv 2002.05709, eq. 1.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    x, instance, batch = two_views(z1, z2, normalize, engine.ranks)
    scale = inverse(temperature, x)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, scale)
    return other_view_loss(x, instance, scale, reduction, batch, engine)


def other_view_loss(
    x: Tensor,
    ids: Tensor,
    scale: float | Tensor,
    reduction: Reduction,
    batch: GlobalBatch,
    engine: EngineOptions,
    decoupled: bool = False,
) -> Tensor:
    """The cross entropy of the other view, for the two views x of a batch against themselves; decoupled: the
    log-sum-exp over the other instances minus the other view, which is not among the candidates."""
    pairs = Pairs(x, scale=scale, keep="other_id", positives="same_id", row_ids=ids)
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        return stats.rows - stats.row_positives if decoupled else cross_entropy(stats.rows, stats.row_positives)
    weight = batch.weight(reduction, views=2)
    weights = Weights(weight, -weight) if decoupled else Weights(weight, cross_entropy=True)
    return weighted_sum(pairs, weights, engine)
