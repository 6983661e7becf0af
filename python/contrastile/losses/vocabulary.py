"""Cross-entropy over a vocabulary without its logits: captions (CoCa)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import Pairs, Weights, check, pair_stats, weighted_sum
from ..ranks import Group, collective, given
from .candidates import smoothing_share
from .common import (
    as_rows,
    cleaned,
    cross_entropy,
    engine_options,
    of_rows,
    own_columns,
    reduced_empty,
    upcast,
)
from .weights import Counted


@collective
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Cross-entropy of a linear layer's outputs without holding the logits: captions over a vocabulary.

        L_i = log sum_v e^{z_iv} - z_iy,    z_iv = <h_i, w_v> + b_v,    y = labels_i

    Args:
        hidden: h, (N, D), or (B, T, D) for tokens of texts.
        weight: w, (V, D), the weight of torch.nn.Linear(D, V).
        labels: (N,) or (B, T) integers in [0, V), or ignore_index: such a row takes no part and may hold anything.
        bias: b, (V,).
        ignore_index: As in torch.nn.functional.cross_entropy. CoCa uses the padding index, 0.
        label_smoothing: In [0, 1): spreads this share of the target over the vocabulary.
        weights: (N,) or (B, T) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w.
        reduction: "mean" over the rows that take part (0 if none does, where torch gives NaN), "sum", or "none": (N,)
            or (B, T).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the rows of all
            ranks; weight and bias are the same on every rank and stay there.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 6 N V D FLOP forward and backward, O((N + V) D) memory.

    Example:
        >>> hidden, weight = torch.randn(4, 7, 16), torch.randn(1000, 16)
        >>> labels = torch.randint(0, 1000, (4, 7))
        >>> loss = linear_cross_entropy(hidden, weight, labels, ignore_index=0)

    Source: Yu et al. 2022 (CoCa), https://arxiv.org/abs/2205.01917, eq. 3; torch.nn.functional.linear and
    cross_entropy.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    rows, shape = as_rows("hidden", hidden)
    check.same_width("weight", check.features("weight", weight), "hidden", rows)
    check.same_device("weight", weight, rows.device)
    own = check.ids("labels", of_rows("labels", labels, shape), rows.shape[0], rows.device)
    if bias is not None:
        check.vector("bias", bias, weight.shape[0], rows.device)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, torch.SymInt)):
        raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
    there = own != ignore_index
    inside = (own >= 0) & (own < weight.shape[0])
    check.condition("labels must be rows of weight, or ignore_index", ~there | inside)
    counted = Counted.weighted(
        None if weights is None else of_rows("weights", weights, shape), there, rows, own.shape[0]
    )
    smoothing = smoothing_share(label_smoothing)
    batch = own_columns(
        engine, own.shape[0],
        lambda: dict(**counted.facts(), bias=given(bias), label_smoothing=given(smoothing or None)),
    )  # fmt: skip
    dtype = torch.promote_types(rows.dtype, weight.dtype)
    rows, columns = cleaned(rows.to(dtype), there), weight.to(dtype)
    if batch.total == 0:
        return reduced_empty(0, reduction, rows, columns, bias).reshape(shape if reduction == "none" else ())
    if smoothing:  # the mean logit is linear: its gradients meet the others before they are rounded
        engine.compute_dtype, rows, columns = dtype, upcast(rows), upcast(columns)
    pairs = Pairs(
        rows, columns, col_bias=bias, keep="no_partner", positives="partner", partner=torch.where(there, own, -1)
    )
    mean = mean_logits(rows, columns, bias) if smoothing else None
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        loss = cross_entropy(stats.rows, stats.row_positives)
        if mean is not None:
            loss = loss + smoothing * (stats.row_positives - mean)
        return counted.reduced(batch, loss, reduction).reshape(shape)
    each = counted.weight(batch, reduction, rows)
    value = weighted_sum(pairs, Weights(each, smoothing * each, cross_entropy=True), engine)
    return value if mean is None else value - smoothing * (each * mean).sum()


def mean_logits(rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    mean = (rows * columns.mean(0)).sum(1)
    return mean if bias is None else mean + upcast(bias).mean()
