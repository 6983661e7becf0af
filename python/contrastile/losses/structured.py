"""Softmax losses whose candidates are told apart by where they stand in the batch: tokens, blocks, modalities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import Pairs, check, matmul, pair_stats
from ..ranks import GlobalBatch, Group, collective, given
from .common import (
    added,
    cleaned,
    cross_entropy,
    engine_options,
    feature_pair,
    inverse,
    number,
    private_dots,
    reduced_empty,
    unit,
    upcast,
)
from .soft_targets import widened
from .weights import NOWHERE, Counted, direction_weights, keep_present


@collective
def global_local_info_nce(
    global_features: Tensor,
    local_features: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE of whole items against parts: each part of an item must beat the parts of all other items.

        L_i = mean_l log(1 + sum_{j != i, m} e^{(<g_i, p_jm> - <g_i, p_il>) / temperature})

    Args:
        global_features: g, (N, D), one vector per item; unit rows, or set normalize=True.
        local_features: p, (N, L, D), the item's tokens or patches; unit rows, or set normalize=True. For parts of a
            momentum encoder, pass local_features.detach().
        mask: (N, L) bool, True where there is a part. A missing part is no candidate, and its features may hold
            anything. An item without parts has loss 0 and does not count in "mean".
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch, or one item, gives 0.
    Cost: 8 N^2 L D FLOP forward and backward, 6 for parts without gradient.

    Example:
        >>> global_features, local_features = torch.randn(8, 16), torch.randn(8, 5, 16)
        >>> mask = torch.rand(8, 5) < 0.8
        >>> loss = global_local_info_nce(global_features, local_features, mask, normalize=True)

    Source: Yang et al. 2022 (TCL), https://arxiv.org/abs/2202.10401, local mutual information; uta-smile/TCL,
    in_batch_g2l_loss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    whole, parts = check.features("global_features", global_features), local_features
    check.same_width("local_features", check.features("local_features", parts, ndim=3), "global_features", whole)
    check.same_device("local_features", parts, whole.device)
    n, count = whole.shape[0], parts.shape[1]
    if parts.shape[0] != n:
        raise ValueError(f"local_features must have shape ({n}, L, D), got {tuple(parts.shape)}")
    if mask is not None:
        mask = check.bool_mask("mask", mask, (n, count), whole.device)
    elif not count:
        mask = parts.new_ones(n, 0, dtype=torch.bool)
    counted = Counted.weighted(weights, None if mask is None else mask.any(1), whole, n)
    scale = inverse(temperature, whole)
    batch = GlobalBatch.of(engine.ranks, n, facts=lambda: dict(**counted.facts(), mask=given(mask)))
    dtype = torch.promote_types(whole.dtype, parts.dtype)
    whole = unit(cleaned(check.as_type(whole, dtype), counted.present), normalize)
    parts = unit(cleaned(check.as_type(parts, dtype), mask), normalize)
    if batch.total == 0:
        return reduced_empty(0, reduction, whole, parts, scale)
    whole, parts = widened(engine, whole, parts)
    own = batch.index(whole.device)
    pairs = Pairs(
        whole, parts.flatten(0, 1), scale, keep="other_id", row_ids=own,
        col_ids=own.unsqueeze(1).expand(n, count).flatten(),
    )  # fmt: skip
    if mask is not None:
        pairs.keep, pairs.row_groups = ("other_id", "same_group"), torch.ones_like(own)
        pairs.col_groups = mask.flatten().long()
    others = pair_stats(pairs, engine).rows
    each = cross_entropy(others.unsqueeze(1), scale * private_dots(whole, parts))
    if mask is None:
        return counted.reduced(batch, each.mean(1), reduction)
    rows = torch.where(mask, each, 0.0).sum(1) / mask.sum(1).clamp_min(1)
    return counted.reduced(batch, rows, reduction)


@collective
def block_info_nce(
    x: Tensor,
    y: Tensor,
    blocks: int,
    *,
    same_pair_weight: float = 1.0,
    other_block_weight: float = 1.0,
    temperature: float | Tensor = 1.0,
    direction: Direction = "sum",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE over several versions of each pair (such as forward and reversed), with negatives weighted by block.

        L = 1/N sum_i [ log(sum_j c_ij e^{z_ij}) + log(sum_j c_ij e^{z_ji}) - 2 z_ii ],  z_ij = <x_i, y_j> / temperature
        c_ij = 1 in i's block; elsewhere same_pair_weight for other versions of i's pair, other_block_weight for the
        rest

    Args:
        x, y: (N, D): blocks of N / blocks rows, one after the other. Row i of every block is a version of pair i. The
            papers neither normalize nor use a temperature.
        blocks: The number of blocks. With a group every rank has as many, of its own pairs.
        same_pair_weight, other_block_weight: Numbers >= 0. 1 and 1 give info_nce of all N rows.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        direction: "sum" (the official codes) or "mean" of both directions; "rows": x -> y only; "cols": y -> x only.
        weights: (N,) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over rows, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 8 N^2 D FLOP forward and backward.

    Example:
        >>> x, y = torch.randn(2, 16, 16)  # 8 pairs, then the same 8 reversed in time
        >>> loss = block_info_nce(x, y, 2, same_pair_weight=2.0)

    Source: Bagad et al. 2023 (TACT), https://arxiv.org/abs/2301.02074; Sinha et al. 2024 (TeminAL),
    https://arxiv.org/abs/2408.09269. Both official codes add 1e-8 to the weights.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, None, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize)
    scale, n = inverse(temperature, x), x.shape[0]
    of_pair, of_block = (
        log_weight("same_pair_weight", same_pair_weight),
        log_weight("other_block_weight", other_block_weight),
    )
    row, col = direction_weights(direction)
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks must be an int >= 1, got {blocks!r}")
    if n % blocks:
        raise ValueError(f"x must have a multiple of blocks = {blocks} rows, got {n}")
    batch = GlobalBatch.of(engine.ranks, n, facts=lambda: dict(**counted.facts(), blocks=blocks))
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y, scale)
    x, y = widened(engine, x, y)
    own = torch.arange(n // blocks, device=x.device)
    ids = (own + batch.offset // blocks).repeat(blocks)
    block = torch.arange(blocks, device=x.device).unsqueeze(1).expand(blocks, n // blocks).flatten()
    stats = pair_stats(
        Pairs(
            x, y, scale, keep="other_id", positives="same_group", row_ids=ids, col_ids=ids, row_groups=block,
            col_groups=block, split=True, cols=col > 0.0,
        ),
        engine,
    )  # fmt: skip
    versions = scale * versions_of_pairs(x, y, blocks)
    matched = versions.diagonal(dim1=1, dim2=2).T.flatten()
    rest = versions.masked_fill(torch.eye(blocks, dtype=torch.bool, device=x.device), NOWHERE)
    parts = []
    for weight, same, other, dim in (
        (row, stats.row_positives_lse, stats.row_negatives, 2), (col, stats.col_positives_lse, stats.col_negatives, 1),
    ):  # fmt: skip
        if weight:
            assert same is not None and other is not None
            # finite, so that a sum over nothing has a derivative
            found = [same.clamp_min(NOWHERE), other.clamp_min(NOWHERE) + of_block]
            found.append(rest.logsumexp(dim).T.flatten() + of_pair)
            parts.append(weight * cross_entropy(torch.stack(found).logsumexp(0), matched))
    return counted.reduced(batch, added(parts), reduction)


def versions_of_pairs(x: Tensor, y: Tensor, blocks: int) -> Tensor:
    """(N / blocks, blocks, blocks): products of all versions of each pair; they meet no other pair's."""
    left, right = (z.unflatten(0, (blocks, z.shape[0] // blocks)).transpose(0, 1) for z in (x, y))
    return matmul(left, right.transpose(1, 2))


def log_weight(name: str, weight: float) -> float:
    value = check.scalar(name, weight)
    if isinstance(value, Tensor) or value < 0.0:
        raise ValueError(f"{name} must be a number >= 0, got {weight}")
    return math.log(value) if value else NOWHERE


@collective
def m3el_loss(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    intra_scale: float | Tensor = 0.8,
    inter_scale: float | Tensor = 1.0,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """M3EL: each item must find its partner among the other side and its own side, whose similarities count less.

        L = 1/2N sum_i [ log(1 + sum_j e^{z_ij} + sum_{j != i} e^{u_ij}) - z_ii
                       + log(1 + sum_j e^{z_ji} + sum_{j != i} e^{v_ij}) - z_ii ]
        z_ij = inter_scale <x_i, y_j> / temperature,    u_ij, v_ij = intra_scale (<x_i, x_j>, <y_i, y_j>) / temperature

    The official code multiplies an item's similarity with itself by 0, which gives the 1 in the sums.

    Args:
        x, y: Pairs (mentions, entities), (N, D), unit rows, or set normalize=True.
        temperature: > 0, a float or a 0-dim tensor with gradient. The paper uses 0.03.
        intra_scale, inter_scale: Factors of similarities within a side and across sides, floats or 0-dim tensors.
        direction: "mean" or "sum" of both directions; "rows": x only; "cols": y only.
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

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 16 N^2 D FLOP forward and backward, 12 in one direction.

    Example:
        >>> x, y = torch.randn(2, 8, 16)  # mentions and entities
        >>> loss = m3el_loss(x, y, temperature=0.03, normalize=True)

    Source: Hu et al. 2024 (M3EL), https://arxiv.org/abs/2412.10440; official code, contrastive_loss.py,
    WeightedContrastiveLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("x", x))
    x, y = feature_pair("x", x, "y", y, normalize, counted.present)
    scale = inverse(temperature, x)
    intra, inter = number("intra_scale", intra_scale, upcast(x)), number("inter_scale", inter_scale, upcast(x))
    row, col = direction_weights(direction)
    batch = GlobalBatch.of(engine.ranks, x.shape[0], facts=counted.facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, x, y, scale, intra, inter)
    x, y = widened(engine, x, y)
    sides = [(row, x, y), (col, y, x)]
    if not row:  # the other way round, without the rows' statistics
        sides.reverse()
    across = Pairs(
        sides[0][1], sides[0][2], inter * scale, keep="other_index", positives="same_index", cols=row > 0.0 < col
    )
    keep_present(across, counted.present, [counted.present])
    stats = pair_stats(across, engine)
    matched, parts = stats.row_positives, []
    for (weight, anchor, _), cross in zip(sides, (stats.rows, stats.cols), strict=True):
        if weight:
            within = Pairs(anchor, None, intra * scale, keep="other_index")
            keep_present(within, counted.present)
            assert cross is not None and matched is not None
            own = pair_stats(within, engine).rows
            others = torch.stack([cross, own, torch.zeros_like(own)]).logsumexp(0)
            parts.append(weight * cross_entropy(others, matched))
    return counted.reduced(batch, added(parts), reduction)
