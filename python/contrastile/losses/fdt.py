"""Finite discrete tokens (FDT): both modalities as sparse mixtures of one codebook's vectors, then CLIP."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check, matmul, segment_reduce
from ..ranks import Group, collective
from .clip import clip_loss
from .common import cleaned, upcast
from .sparsemax import sparsemax
from .tokens import both_there, there

OverItem: TypeAlias = Literal["max", "mean", "sum"]
Padding: TypeAlias = Literal["drop", "zero"]


@collective
def fdt_loss(
    image_tokens: Tensor,
    text_tokens: Tensor,
    codebook: Tensor,
    logit_scale: float | Tensor,
    *,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    pool: OverItem = "max",
    padding: Padding = "drop",
    direction: Direction = "mean",
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CLIP's loss of images and texts that are both mixtures of a codebook's vectors (finite discrete tokens).

        L = clip_loss(fdt_features(image_tokens, codebook), fdt_features(text_tokens, codebook), logit_scale)

    Args:
        image_tokens: (N, R, D), patches, after their own projection to the codebook's width.
        text_tokens: (N, T, D), words, likewise.
        codebook: (K, D), a parameter that both share, of vectors of any length; the same on every rank.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        image_mask: (N, R) bool, True = a token. A pair with an empty side takes no part.
        text_mask: (N, T) bool, likewise.
        temperature: > 0, a float or a 0-dim tensor. A high temperature mixes all vectors alike. The official code
            starts it at 1000.
        pool: "max", "mean", or "sum" over tokens.
        padding: "drop", or "zero": a padded token scores 0, as in the official code.
        direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 6 N (R + T) K D FLOP for the codebook's scores, 8 N K D for the mixtures, 8 N²D for the pairs, forward and
    backward. Holds a few vectors of K numbers per item.

    Example:
        >>> image_tokens, text_tokens = torch.randn(4, 9, 16), torch.randn(4, 5, 16)
        >>> codebook = torch.nn.Parameter(torch.randn(64, 16))
        >>> loss = fdt_loss(image_tokens, text_tokens, codebook, 14.3)

    Source: Chen et al. 2023 (FDT), https://arxiv.org/abs/2303.14865, eq. 2 to 5; official code yuxiaochen1103/FDT.
    """
    options = {"temperature": temperature, "pool": pool, "padding": padding, "backend": backend}
    image = fdt_features(image_tokens, codebook, mask=image_mask, **options)  # type: ignore[arg-type]
    text = fdt_features(text_tokens, codebook, mask=text_mask, **options)  # type: ignore[arg-type]
    here = both_there(image_tokens, text_tokens, image_mask, text_mask)
    return clip_loss(
        image, text, logit_scale, present=here, normalize=True, direction=direction, reduction=reduction,
        memory_budget=memory_budget, backend=backend, group=group,
    )  # fmt: skip


def fdt_features(
    tokens: Tensor,
    codebook: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    pool: OverItem = "max",
    padding: Padding = "drop",
    backend: BackendName = "auto",
) -> Tensor:
    """Each item as a sparse mixture of a codebook's vectors, by how well they fit its tokens.

        r_ik = max_l <x_il, c_k> / (sqrt(D) temperature),   f_i = sum_k sparsemax(r_i)_k c_k

    Args:
        tokens: (N, L, D), float32 | bfloat16 | float16 | float64.
        codebook: (K, D).
        mask: (N, L) bool, True = a token. Padding may hold anything and gets no gradient; an item without tokens gives
            zeros.
        temperature: > 0, a float or a 0-dim tensor. A high temperature mixes all vectors alike.
        pool: "max", "mean", or "sum" over tokens.
        padding: "drop", or "zero": a padded token scores 0, as in the official code, so that no maximum of an item with
            padding is negative, and its mean covers all L.
        backend: For pool="max": "auto", "cpu", "torch", "triton", or "cuda". A named backend raises BackendUnsupported
            instead of falling back.

    Returns: (N, D), float32 (float64 for float64 features), not unit.

    Example:
        >>> fdt_features(torch.randn(4, 9, 16), torch.randn(64, 16)).shape
        torch.Size([4, 16])

    Source: Chen et al. 2023 (FDT), https://arxiv.org/abs/2303.14865, eq. 2 to 4.
    """
    check.features("tokens", tokens, ndim=3)
    check.same_width("codebook", check.features("codebook", codebook), "tokens", tokens)
    check.same_device("codebook", codebook, tokens.device)
    check.choice("pool", pool, get_args(OverItem))
    check.choice("padding", padding, get_args(Padding))
    sharpness = check.scalar("temperature", temperature, positive=True, device=tokens.device)
    n, length, width = tokens.shape
    if mask is not None:
        mask = check.bool_mask("mask", mask, (n, length), tokens.device)
    tokens = cleaned(tokens, mask)
    kind = torch.promote_types(tokens.dtype, codebook.dtype)
    vectors = upcast(check.as_type(codebook, kind))
    if pool == "max":
        scores = largest(tokens, codebook, mask, padding, backend)
    else:
        total = upcast(check.as_type(tokens, kind)).sum(1)
        if pool == "mean":
            count = length if mask is None or padding == "zero" else mask.sum(1, keepdim=True).clamp_min(1)
            total = total / (max(count, 1) if isinstance(count, int) else count)
        scores = matmul(total, vectors.T)
    here = there(tokens, mask)
    if here is not None:
        here = here[:, None].expand(scores.shape)
        scores = torch.where(here, scores, 0.0)
    return matmul(sparsemax(scores / (math.sqrt(width) * sharpness), mask=here), vectors)


def largest(tokens: Tensor, codebook: Tensor, mask: Tensor | None, padding: Padding, backend: BackendName) -> Tensor:
    """(N, K): the largest score of a token of each item with each vector."""
    n, length, _ = tokens.shape
    segments = length or torch.zeros(n + 1, dtype=torch.int64, device=tokens.device)
    kept = None if mask is None or padding == "zero" else mask.flatten()  # padding is zeros by now
    return segment_reduce(codebook, tokens.flatten(0, 1), segments, mask=kept, backend=backend).T
