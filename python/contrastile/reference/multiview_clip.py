"""CLIP of several views of each image and text."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ._dense import Scalar
from .contrastive import clip_loss

Views = Tensor | Sequence[Tensor]


def multiview_clip_loss(
    images: Views,
    texts: Views,
    logit_scale: Scalar,
    *,
    local_logit_scale: Scalar | None = None,
    local_weight: float | None = None,
    label_smoothing: float = 0.0,
    direction: str = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """( CLIP of the first views + w mean of CLIP of all pairs of the others, with label smoothing ) / (1 + w)

    w: local_weight, or the number of other views (the geometric mean of both sides' numbers).

    Source: Fini et al. 2023 (arXiv 2305.08675); official code facebookresearch/clip-rocket @ebd9e58,
    losses.py `CL2LLoss`.
    """
    term = partial(
        clip_loss, direction=direction, detach_keys=detach_keys, weights=weights, present=present, normalize=normalize,
        reduction=reduction,
    )  # fmt: skip
    total = term(images[0], texts[0], logit_scale)
    scale = logit_scale if local_logit_scale is None else local_logit_scale
    local = [term(x, y, scale, label_smoothing=label_smoothing) for x in list(images)[1:] for y in list(texts)[1:]]
    if not local:
        return total
    weight = len(local) ** 0.5 if local_weight is None else local_weight
    return (total + weight * torch.stack(local).mean(dim=0)) / (1 + weight)
