"""CLIP of several views of each image and text (CLIP-rocket)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check
from ..ranks import GlobalBatch, Group, collective, given
from .candidates import smoothing_share
from .common import engine_options, reduced_empty, unit, upcast
from .softmax import Softmax, softmax_loss
from .views import Views, cleaned_views, stacked
from .weights import Counted, direction_weights


@collective
def multiview_clip_loss(
    images: Views,
    texts: Views,
    logit_scale: float | Tensor,
    *,
    local_logit_scale: float | Tensor | None = None,
    local_weight: float | None = None,
    label_smoothing: float = 0.0,
    direction: Direction = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CLIP of a global view of each item, plus all pairs of local views (CL2L of CLIP-rocket).

        L = [ CLIP(x_0, y_0) + w mean_{a, b >= 1} CLIP'(x_a, y_b) ] / (1 + w)

    CLIP' has its own scale and label smoothing. With A local views on both sides, w is A.

    Args:
        images: (k, N, D) or a list of k tensors (N, D): the global view first, then the local views, k - 1 >= 0.
        texts: (l, N, D) or a list, likewise. l = 1 if and only if k = 1.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        local_logit_scale: The scale of local views; None: logit_scale.
        local_weight: w >= 0; None: sqrt((k - 1) (l - 1)).
        label_smoothing: In [0, 1), for local views only: spreads this share of the target over all candidates.
        direction: "mean" or "sum" of image -> text and text -> image ("sum" is the official recipe for CC12M and YFCC);
            "rows" or "cols": one direction only.
        detach_keys: Candidates get no gradient, as in the official code on several processes. Takes two passes.
        weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. An item with False takes no part and is no candidate; its features may hold anything and get
            gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 8 N^2 D FLOP forward and backward for each of the 1 + (k - 1) (l - 1) pairs of views.

    Example:
        >>> images, texts = torch.randn(2, 3, 8, 16)
        >>> loss = multiview_clip_loss(images, texts, 14.3, local_logit_scale=10.0, normalize=True)

    Source: Fini et al. 2023 (CLIP-rocket), https://arxiv.org/abs/2305.08675; official code, CL2LLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    image, text = stacked(images, name="images", least=1), stacked(texts, name="texts", least=1)
    locals_ = image.shape[0] - 1, text.shape[0] - 1
    check.same_shape("texts[0]", text[0], "images[0]", image[0])
    check.same_device("texts", text, image.device)
    counted, smoothing = Counted.of(weights, present, image[0]), smoothing_share(label_smoothing)
    scale = local_scale = check.scalar("logit_scale", logit_scale, device=image.device)
    if local_logit_scale is not None:
        local_scale = check.scalar("local_logit_scale", local_logit_scale, device=image.device)
    share = weight_of_locals(locals_, local_weight, local_logit_scale, smoothing)
    direction_weights(direction)
    batch = GlobalBatch.of(
        engine.ranks, image.shape[1],
        facts=lambda: dict(
            **counted.facts(), views=locals_[0], text_views=locals_[1], local_logit_scale=given(local_logit_scale),
            label_smoothing=given(smoothing or None), detach_keys=bool(detach_keys),
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, local_scale)
    # a view is in several terms: their gradients meet in float32 and are rounded once
    engine.compute_dtype = dtype = torch.promote_types(image.dtype, text.dtype)
    image, text = (unit(cleaned_views(z, counted.present), normalize).to(dtype) for z in (image, text))
    x, y = upcast(image).unbind(0), upcast(text).unbind(0)
    problem = Softmax(batch, engine, x[0], y[0], scale, counted)
    total = softmax_loss(problem, reduction, direction, True, None, detach_keys) / (1.0 + share)
    factor = share / (1.0 + share) / max(locals_[0] * locals_[1], 1)
    for own in x[1:]:
        for other in y[1:]:
            part = Softmax(batch, engine, own, other, local_scale, counted, smoothing=smoothing)
            total = total + factor * softmax_loss(part, reduction, direction, True, None, detach_keys)
    return total


def weight_of_locals(
    count: tuple[int, int], weight: float | None, scale: float | Tensor | None, smoothing: float
) -> float:
    """count: local views of images and of texts."""
    if (count[0] == 0) != (count[1] == 0):
        raise ValueError(f"images and texts must both have local views, or neither, got {count[0]} and {count[1]}")
    given_alone = dict(local_weight=weight, local_logit_scale=scale, label_smoothing=smoothing or None)
    for name, value in given_alone.items():
        if value is not None and count[0] == 0:
            raise ValueError(f"{name} must not be given without local views: it would have no effect")
    if weight is None:
        return math.sqrt(count[0] * count[1])
    value = check.scalar("local_weight", weight)
    if isinstance(value, Tensor) or value < 0.0:
        raise ValueError(f"local_weight must be a number >= 0, got {weight}")
    return value
