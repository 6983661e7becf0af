"""Losses of the contrastive-gap paper: CLIP with uniformity and alignment."""

from torch import Tensor

from ._dense import Scalar, of_present, unit
from .contrastive import clip_loss
from .uniform import alignment, uniformity


def cua(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar = 100.0,
    *,
    t: float = 2.0,
    clip_weight: Scalar = 1.0,
    uniformity_weight: Scalar = 1.0,
    alignment_weight: Scalar = 1.0,
    present: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """L_CLIP + L_U + L_A, each with its weight.

        L_U = (uniformity(x) + uniformity(y)) / 2,   L_A = mean_i |x_i - y_i|^2

    Source: Fahim et al. 2024 (arXiv 2405.18570), L_CUA; official code abrar-fahim/contrastive-gap @8c1a17b,
    clips/hf_clip.py.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (image_features, text_features))
    spread = (uniformity(x, t=t) + uniformity(y, t=t)) / 2
    return clip_weight * clip_loss(x, y, logit_scale) + uniformity_weight * spread + alignment_weight * alignment(x, y)


def cuaxu(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar = 100.0,
    *,
    t: float = 2.0,
    clip_weight: Scalar = 1.0,
    uniformity_weight: Scalar = 1.0,
    alignment_weight: Scalar = 1.0,
    cross_uniformity_weight: Scalar = 1.0,
    present: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """L_CUA + L_XU, the uniformity between x and y without the positive pairs.

    Source: as for `cua`, L_CUAXU.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (image_features, text_features))
    spread = (uniformity(x, t=t) + uniformity(y, t=t)) / 2 * uniformity_weight
    across = uniformity(x, y, t=t) * cross_uniformity_weight
    return clip_weight * clip_loss(x, y, logit_scale) + spread + across + alignment_weight * alignment(x, y)
