"""The in-batch ranking loss of sentence-transformers on embeddings: any directions, joint or apart, with hardness.

    L = mean_i [ log Z_i - s c(q_i, d_i) ],      c = <x, y>,  s = scale

Z_i sums e^{s c} over the candidates of the chosen directions. A hardness of strength a adds a stopgrad(c) to the logits
of query -> document negatives: their value is (s + a) c, their gradient that of s c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..losses.common import paired_dot, reduced_empty
from ..ops import EngineOptions, Pairs, Weights, pair_stats, weighted_sum
from ..ops.autograd import first_order
from ..ranks import GlobalBatch
from .common import gradient_scaled

Scale = float | Tensor


def ranking_loss(
    queries: Tensor,
    documents: Sequence[Tensor],
    scale: Scale,
    engine: EngineOptions,
    *,
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    hardness_strength: float = 0.0,
) -> Tensor:
    """queries (N, D) and documents, K tensors (N, D): the positives, then hard negatives; all rows of one type.

    With a group, the documents and queries of all ranks are candidates of this rank's queries and positives.
    """
    batch = GlobalBatch.of(engine.ranks, queries.shape[0], facts=lambda: dict(documents=len(documents)))
    if batch.total == 0:
        return reduced_empty(0, "mean", queries, *documents, scale)
    mode = hardness_mode if hardness_strength > 0.0 else None
    if mode == "hard_negatives" and len(documents) == 1:
        mode = None  # the positives are no negatives
    back = "doc_to_query" in directions
    if mode is None and (len(set(directions)) == 1 or partition_mode == "per_direction"):
        return scalar_loss(queries, documents, scale, back, batch, engine)
    if mode in ("in_batch_negatives", "all_negatives"):
        parts, positive = hardened(queries, documents, scale, hardness_strength, mode, batch, engine)
        if back:
            parts.append(pair_stats(Pairs(documents[0], queries, scale), engine).rows)
    else:
        strength = hardness_strength if mode else 0.0
        parts, positive = plain(queries, documents, scale, strength, back, batch, engine)
    if partition_mode == "per_direction":
        return batch.reduced(torch.stack(parts).mean(0) - positive, "mean")
    if "query_to_query" in directions:
        parts.append(pair_stats(Pairs(queries, scale=scale, keep="other_index"), engine).rows)
    if "doc_to_doc" in directions:
        parts += among_documents(documents, scale, batch, engine)
    return batch.reduced(reduce(torch.logaddexp, parts) - positive, "mean")


def scalar_loss(
    queries: Tensor, documents: Sequence[Tensor], scale: Scale, back: bool, batch: GlobalBatch, engine: EngineOptions
) -> Tensor:
    """One softmax per direction and no hardness: the weights of all rows are known, so gradients come at once."""
    n, weight = queries.shape[0], batch.weight("mean")
    weights = Weights(weight, -weight)
    if back:
        own = queries.new_zeros(n * len(documents))
        own[:n] = 0.5 * weight  # only positives are anchors of the document -> query direction
        weights.row, weights.col = 0.5 * weight, own
    return weighted_sum(Pairs(queries, documents, scale, positives="same_index", cols=back), weights, engine)


def plain(
    queries: Tensor,
    documents: Sequence[Tensor],
    scale: Scale,
    strength: float,
    back: bool,
    batch: GlobalBatch,
    engine: EngineOptions,
) -> tuple[list[Tensor], Tensor]:
    """Log-sums of query -> document and, with `back`, document -> query, from one pass; and the positives' logits.

    With a strength, a query's own hard negatives leave the pass and come back with it.
    """
    n, k = queries.shape[0], len(documents)
    apart = strength > 0.0 and k > 1
    pairs = Pairs(queries, documents, scale, positives="same_index", cols=back)
    if apart:
        pairs.keep_positives = True
        drop_own(pairs, k, batch)
    stats = pair_stats(pairs, engine)
    assert stats.row_positives is not None
    forth = stats.rows
    if apart:
        similarity = own_similarities(queries, documents[1:])
        logits = scale * similarity + strength * similarity.detach()
        forth = torch.logaddexp(forth, logits.logsumexp(1))
    return [forth] if stats.cols is None else [forth, stats.cols[:n]], stats.row_positives


def hardened(
    queries: Tensor,
    documents: Sequence[Tensor],
    scale: Scale,
    strength: float,
    mode: str,
    batch: GlobalBatch,
    engine: EngineOptions,
) -> tuple[list[Tensor], Tensor]:
    """Log-sum of query -> document where negatives of other rows weigh more, and the positives' logits."""
    total = scale + strength
    share = (scale / total).detach() if isinstance(scale, Tensor) else scale / total
    # the similarities of the hardness are constants: right up to first derivatives
    rows, *columns = (first_order(gradient_scaled(x, share)) for x in (queries, *documents))
    pairs, own = Pairs(rows, columns, total, keep="other_index"), documents[:1]
    if mode == "in_batch_negatives":  # all of a row's own pairs keep their logits
        drop_own(pairs, len(documents), batch)
        own = documents
    negatives = pair_stats(pairs, engine).rows
    logits = scale * own_similarities(queries, own)
    return [torch.logaddexp(negatives, logits.logsumexp(1))], logits[:, 0]


def among_documents(
    documents: Sequence[Tensor], scale: Scale, batch: GlobalBatch, engine: EngineOptions
) -> list[Tensor]:
    """Log-sums of each positive over the documents of other rows: the positives, each pair once, then the rest."""
    first, *rest = documents
    parts = [pair_stats(Pairs(first, scale=scale, keep="other_index"), engine).rows]
    if rest:
        pairs = Pairs(first, rest, scale)
        drop_own(pairs, len(rest), batch)
        parts.append(pair_stats(pairs, engine).rows)
    return parts


def drop_own(pairs: Pairs, blocks: int, batch: GlobalBatch) -> None:
    """Leaves out the pairs of a row with the columns it was given with, one in each block."""
    ids = batch.index(pairs.a.device)
    pairs.keep, pairs.row_ids, pairs.col_ids = "other_id", ids, ids.repeat(blocks)


def own_similarities(queries: Tensor, documents: Sequence[Tensor]) -> Tensor:
    """(N, K): each query with its own documents."""
    return torch.stack([paired_dot(queries, x) for x in documents], 1)
