"""Bags of candidates of which one or another fits: MIL-NCE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import Pairs, check, log_add, pair_stats, softplus
from ..ranks import GlobalBatch, Group, collective, given
from .common import added, cleaned, engine_options, inverse, reduced_empty, unit
from .weights import NOWHERE, Counted, direction_weights, keep_present


@collective
def mil_nce(
    video: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    joint: bool = True,
    direction: Direction = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """MIL-NCE: every video has a bag of texts; some fit and some don't, and one that fits is enough.

        z_i,jl = <v_i, t_jl> / temperature,   B_i = log sum_l e^(z_i,il)
        R_i = log sum_jl e^(z_i,jl)   of the video against all texts
        C_i = log sum_jl e^(z_j,il)   of the texts of bag i against all videos
        joint:   L_i = log( e^R_i + e^C_i ) - B_i,   which contains the positives twice, so L_i >= log 2
        else:    "rows"  L_i = R_i - B_i;   "cols"  L_i = C_i - B_i;   "sum" | "mean" of both

    Args:
        video: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        text: (N, K, D), the texts of each video.
        temperature: > 0, a float or a 0-dim tensor with gradient. The official MIL-NCE code uses 1 and rows of any
            length; VATT's uses 0.07 and unit rows.
        mask: (N, K) bool, True where there is a text. A missing text is no candidate, and its features may hold
            anything. A video without texts has loss 0 and does not count in the mean, but it stays a candidate for the
            others' texts.
        joint: True: one softmax over both directions, as both official codes have it. False: one softmax per direction.
        direction: With joint=False, "mean" or "sum" of both; "rows": video -> texts only; "cols": texts -> video only.
        weights: (N,) >= 0, no gradient. The weight of each video: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over videos, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            and every rank must make the call. All ranks must have bags of the same size.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 8 N (N K) D FLOP forward and backward.

    Example:
        >>> video, text = torch.randn(4, 16), torch.randn(4, 3, 16)
        >>> loss = mil_nce(video, text, normalize=True)

    Source: Miech et al. 2020, https://arxiv.org/abs/1912.06430, eq. 1, official code antoine77340/MIL-NCE_HowTo100M
    loss.py; Akbari et al. 2021 (VATT), https://arxiv.org/abs/2104.11178, objectives.py, AsymmetricNCE (joint) and
    SymmetricNCE (direction="sum").
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    row, col = direction_weights(direction)
    if joint and direction != "mean":
        raise ValueError(f"direction must be 'mean' with joint=True, got {direction!r}: it would have no effect")
    check.same_width("text", check.features("text", text, ndim=3), "video", check.features("video", video))
    check.same_device("text", text, video.device)
    n, size, _ = text.shape
    if n != video.shape[0] or size == 0:
        raise ValueError(f"text must have shape ({video.shape[0]}, K, D), K > 0, got {tuple(text.shape)}")
    here = None if mask is None else check.bool_mask("mask", mask, (n, size), text.device)
    some = None if here is None else here.any(1)
    counted, scale = Counted.weighted(weights, some, video, n), inverse(temperature, video)
    dtype = torch.promote_types(video.dtype, text.dtype)
    video = unit(check.as_type(video, dtype), normalize)
    text = unit(cleaned(check.as_type(text, dtype), here), normalize)
    batch = GlobalBatch.of(
        engine.ranks, n, facts=lambda: dict(weights=given(weights), mask=given(mask), texts=size, joint=bool(joint))
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, video, text, scale)
    ids = batch.index(video.device)
    pairs = Pairs(
        video, text.flatten(0, 1), scale, positives="same_id", row_ids=ids, col_ids=ids.repeat_interleave(size),
        cols=joint or col > 0.0, split=True,
    )  # fmt: skip
    if here is not None:
        keep_present(pairs, None, [here.flatten()])
        pairs.positives = ("same_id", "same_group")
    stats = pair_stats(pairs, engine)
    others, bag = stats.row_negatives, stats.row_positives_lse
    assert others is not None and bag is not None
    bag, back = cleaned(bag, some), None
    if stats.col_negatives is not None:  # finite, so that a bag of nothing has a second derivative
        back = stats.col_negatives.clamp_min(NOWHERE).view(n, size).logsumexp(1)
    if joint:
        assert back is not None
        rows = math.log(2.0) + softplus(log_add(others, back) - bag - math.log(2.0))
    else:
        sides = [weight * softplus(x - bag) for weight, x in ((row, others), (col, back)) if weight and x is not None]
        rows = added(sides)
    return counted.reduced(batch, rows, reduction)
