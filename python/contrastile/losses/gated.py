"""Contrast within a subspace that a gate of each row selects (Hydra)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import Pairs, check, pair_stats
from ..ranks import GlobalBatch, Group, collective, given
from .common import engine_options, feature_pair, reduced_empty, unit, upcast


@collective
def hydra_loss(
    x: Tensor,
    gate: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    logit_scale: float | Tensor = 10.0,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Hydra: every sample finds those of its partner class in the subspace that the gate of the two classes selects.

        z_ij = logit_scale cos(g_i x_i, g_i k_j)
        L_ij = log(1 + sum_n e^(z_in - z_ij)),   j of class partner_i, n of neither class_i nor partner_i

    Args:
        x: Samples, (N, D), of any norm.
        gate: g, (N, D), from 0 to 1: how much each sample's pair of classes uses each feature.
        labels, partner_labels: (N,) integers, the class of each sample and the class it is paired with.
        keys, key_labels: (M, D), (M,): what samples are compared with, for example from a momentum encoder. Default: x
            and labels; then a sample whose partner class is its own is its own positive too, as in the official code.
        logit_scale: 1 / temperature: a float or a 0-dim tensor with gradient.
        reduction: "mean" over all pairs (i, j), "sum", or "none": (N,), the sum per sample; 0 for a sample without
            pairs.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats; 0 without pairs. Where <g_i^2, k_j^2> <= 1e-24 there is
    nothing to compare: cos is 0, without gradient.
    Cost: 32 N M D FLOP forward and backward, O((N + M) D) memory.

    Example:
        >>> x, gate = torch.randn(8, 16), torch.rand(8, 16)
        >>> labels, partner_labels = torch.arange(8) % 4, torch.arange(8) % 3
        >>> loss = hydra_loss(x, gate, labels, partner_labels)

    Source: Wu et al. 2024, "Rethinking Positive Pairs in Contrastive Learning", https://arxiv.org/abs/2410.18200;
    erow/vitookit simlap.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    x, gate = feature_pair("x", x, "gate", gate, normalize=False)
    n = x.shape[0]
    if keys is None and key_labels is not None:
        raise ValueError("key_labels must be None without keys: it would have no effect")
    if keys is not None and key_labels is None:
        raise ValueError("key_labels must be given with keys")
    labels = check.ids("labels", labels, n, x.device)
    partners = check.ids("partner_labels", partner_labels, n, x.device)
    columns, of_columns = x, labels
    if keys is not None and key_labels is not None:
        columns = check.features("keys", keys)
        check.same_width("keys", columns, "x", x)
        check.same_device("keys", columns, x.device)
        of_columns = check.ids("key_labels", key_labels, columns.shape[0], x.device)
    scale = check.scalar("logit_scale", logit_scale, device=x.device)
    extra = 0 if keys is None else columns.shape[0]
    batch = GlobalBatch.of(engine.ranks, n, extra, lambda: dict(keys=given(keys)))
    if batch.total == 0:
        return reduced_empty(0, reduction, x, gate, columns, scale)
    # gradients of features that are in both products meet in float32 and are rounded once
    engine.compute_dtype = torch.promote_types(x.dtype, columns.dtype)
    x, gate, columns = upcast(x), upcast(gate), upcast(columns)
    if engine.compute_dtype == torch.float16:
        columns = near_one(columns)
    pairs = Pairs(
        gated_rows(x, gate), columns, scale, score="gated", gate=(gate.square(), columns.square()),
        keep=("other_id", "other_group"), row_ids=labels, col_ids=of_columns, row_groups=partners,
        col_groups=of_columns,
    )  # fmt: skip
    others = pair_stats(pairs, engine).rows
    found = pair_stats(
        replace(
            pairs, scale=-scale, row_bias=others, reduce="softplus", keep="same_group", counts=True, row_ids=None,
            col_ids=None,
        ),
        engine,
    )  # fmt: skip
    assert found.row_kept is not None
    if reduction == "none":
        return found.rows
    total = found.rows.sum() * batch.weight("sum")
    if reduction == "sum":
        return total
    return total / batch.sum(found.row_kept.sum()).clamp_min(1)


def near_one(keys: Tensor) -> Tensor:
    """Each key divided by a power of two, which changes none of its cosines, so that its largest element is from 1/2 to
    1: squares of others may leave the range of float16."""
    if not keys.numel():
        return keys
    largest = keys.detach().abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest.nan_to_num(1.0, 1.0)).exponent
    return torch.ldexp(keys, -exponent)


def gated_rows(x: Tensor, gate: Tensor) -> Tensor:
    """g^2 x / |g x|: its product with a key is the cosine times the norm of the gated key."""
    return unit(x * gate, True) * gate
