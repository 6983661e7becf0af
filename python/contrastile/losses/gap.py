"""CLIP with the terms that close the gap between modalities: uniformity, alignment, cross-modal uniformity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import EngineOptions, check
from ..ranks import GlobalBatch, Group, collective
from .common import feature_pair, number, upcast, zero
from .softmax import Softmax, softmax_loss
from .uniform import log_potential
from .weights import Counted


@collective
def cua(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor = 100.0,
    *,
    t: float = 2.0,
    clip_weight: float | Tensor = 1.0,
    uniformity_weight: float | Tensor = 1.0,
    alignment_weight: float | Tensor = 1.0,
    present: Tensor | None = None,
    normalize: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CUA: CLIP plus two terms against the modality gap, uniformity of each modality and alignment of pairs.

        L = clip_weight * clip_loss(x, y, logit_scale)
            + uniformity_weight * 1/2 [ U(x) + U(y) ] + alignment_weight * mean_i |x_i - y_i|^2
        U(x) = log mean_{i < j} e^{-t |x_i - x_j|^2},      x = image_features, y = text_features

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor. The paper keeps it at
            100.
        t: > 0, an inverse squared length.
        clip_weight, uniformity_weight, alignment_weight: Floats or 0-dim tensors. A term with weight 0.0 is not
            computed.
        present: (N,) bool. Pairs with a missing side (False) have no part in any term; their features may hold anything
            and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), one number for the batch. N = 1 has no pairs and gives the
    alignment term only.
    Cost: 16 N^2 D FLOP forward and backward.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> loss = cua(image_features, text_features, normalize=True)

    Source: Fahim et al. 2024, https://arxiv.org/abs/2405.18570; official code abrar-fahim/contrastive-gap,
    clips/hf_clip.py.
    """
    weights = {"clip": clip_weight, "uniformity": uniformity_weight, "alignment": alignment_weight}
    engine = EngineOptions.of(memory_budget, backend, group)
    return gap_loss(image_features, text_features, logit_scale, t, weights, present, normalize, engine)


@collective
def cuaxu(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor = 100.0,
    *,
    t: float = 2.0,
    clip_weight: float | Tensor = 1.0,
    uniformity_weight: float | Tensor = 1.0,
    alignment_weight: float | Tensor = 1.0,
    cross_uniformity_weight: float | Tensor = 1.0,
    present: Tensor | None = None,
    normalize: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CUAXU: `cua`, plus the uniformity between the modalities.

        L = cua(x, y, ...) + cross_uniformity_weight * log mean_{i != j} e^{-t |x_i - y_j|^2}

    The cross term excludes positive pairs.

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor. The paper keeps it at
            100.
        t: > 0, an inverse squared length.
        clip_weight, uniformity_weight, alignment_weight, cross_uniformity_weight: Floats or 0-dim tensors. A term with
            weight 0.0 is not computed.
        present: (N,) bool. Pairs with a missing side (False) have no part in any term; their features may hold anything
            and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), one number for the batch. N = 1 has no pairs and gives the
    alignment term only.
    Cost: 24 N^2 D FLOP forward and backward.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> loss = cuaxu(image_features, text_features, normalize=True)

    Source: Fahim et al. 2024, https://arxiv.org/abs/2405.18570; official code abrar-fahim/contrastive-gap,
    clips/hf_clip.py.
    """
    weights = {
        "clip": clip_weight, "uniformity": uniformity_weight, "alignment": alignment_weight,
        "cross_uniformity": cross_uniformity_weight,
    }  # fmt: skip
    engine = EngineOptions.of(memory_budget, backend, group)
    return gap_loss(image_features, text_features, logit_scale, t, weights, present, normalize, engine)


def gap_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    t: float,
    weights: dict[str, float | Tensor],
    present: Tensor | None,
    normalize: bool,
    engine: EngineOptions,
) -> Tensor:
    """The weighted terms. All see widened features, so that their gradients meet before they are rounded."""
    counted = Counted.of(None, present, check.features("image_features", image))
    x, y = feature_pair("image_features", image, "text_features", text, normalize, counted.present)
    engine.compute_dtype, x, y = x.dtype, upcast(x), upcast(y)
    scale, width = number("logit_scale", logit_scale, x), number("t", t, x, positive=True)
    weights = {name: number(f"{name}_weight", weight, x) for name, weight in weights.items()}
    terms = [name for name, weight in weights.items() if isinstance(weight, Tensor) or weight != 0.0]
    batch = GlobalBatch.of(
        engine.ranks,
        x.shape[0],
        facts=lambda: {**counted.facts(), **{f"{name}_weight (0 or not)": name in terms for name in weights}},
    )
    loss = zero(x, y, scale, width, *weights.values())

    def wanted(name: str, least: int) -> bool:
        return batch.total >= least and name in terms

    if wanted("clip", 1):
        clip = softmax_loss(Softmax(batch, engine, x, y, scale, counted), "mean", "mean", True)
        loss = loss + weights["clip"] * clip
    if wanted("uniformity", 2):
        both = torch.stack([log_potential(z, None, width, batch, engine, counted) for z in (x, y)])
        loss = loss + weights["uniformity"] * both.mean()
    if wanted("alignment", 1):
        loss = loss + weights["alignment"] * counted.reduced(batch, (x - y).square().sum(1), "mean")
    if wanted("cross_uniformity", 2):
        loss = loss + weights["cross_uniformity"] * log_potential(x, y, width, batch, engine, counted)
    return loss
