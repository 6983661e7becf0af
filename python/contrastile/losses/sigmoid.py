"""The sigmoid pair loss (SigLIP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ops import check, pair_loss, pair_reduce
from ..ranks import GlobalBatch, Group, collective, given
from .common import LossModule, check_options, feature_pair, owned, reduced_empty, upcast
from .contrastive import pair_ids


@collective
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    image_labels: Tensor | None = None,
    text_labels: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    memory_budget: int | None = None,
    backend: str = "auto",
    group: Group = None,
) -> Tensor:
    """SigLIP: every image-text pair is a binary classification, matched or not.

        L = 1/N sum_ij log(1 + e^{-y_ij z_ij}),   z_ij = logit_scale <image_i, text_j> + logit_bias,
        y_ij = +1 if matched else -1; pairs of equal index are matched

    Args:
        image_features, text_features: (N, D), unit rows expected, or normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient.
        logit_bias: float or 0-dim tensor with gradient; None is 0.
        image_labels, text_labels: (N,) integers: pairs with equal labels are matched, and no others. text_labels
            default to image_labels.
        image_ids, text_ids: (N,) integers, as in clip_loss: a pair with equal ids is no negative; unless its index is
            equal too, which matches it, it is left out of the sum. text_ids default to image_ids. Not with labels.
        reduction: "mean" divides the sum over all pairs by N, "sum" does not, "none": (N,) sums per image.

    Returns: float32, nats. Cost: 6 N^2 D FLOP forward and backward.

    Source: Zhai et al. 2023, arXiv 2303.15343, algorithm 1; open_clip SigLipLoss.
    """
    check_options(reduction, memory_budget, backend)
    image, text = feature_pair("image_features", image_features, "text_features", text_features, normalize)
    ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    labels = pair_ids(image, "image_labels", image_labels, "text_labels", text_labels)
    if image_ids is not None and image_labels is not None:
        raise ValueError("image_ids must be None with image_labels: labels say of every pair whether it is matched")
    scale = check.scalar("logit_scale", logit_scale, device=image.device)
    bias = row_bias(logit_bias, image)
    batch = GlobalBatch.of(
        group, image.shape[0], facts=lambda: dict(image_labels=given(image_labels), image_ids=given(image_ids))
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, bias)
    keep, positives, (row_ids, col_ids) = pair_rules(ids, labels)
    options: dict[str, Any] = {
        "scale": scale, "row_bias": bias, "reduce": "softplus", "keep": keep, "positives": positives,
        "row_ids": row_ids, "col_ids": col_ids, "memory_budget": memory_budget, "backend": backend,
        "group": batch.ranks,
    }  # fmt: skip
    if reduction == "none":
        stats = pair_reduce(image, text, **options)
        assert stats.row_positives is not None
        return stats.rows + stats.row_positives
    weight = batch.weight(reduction)
    return pair_loss(image, text, row_weight=weight, row_positive_weight=weight, **options)


Ids = tuple[Tensor | None, Tensor | None]


def pair_rules(ids: Ids, labels: Ids) -> tuple[str | tuple[str, ...], str, Ids]:
    """Which pairs are negatives, which are positives, and what of rows and columns tells them."""
    if labels[0] is not None:
        return "other_id", "same_id", labels
    return "other_index" if ids[0] is None else ("other_index", "other_id"), "same_index", ids


def row_bias(logit_bias: float | Tensor | None, image: Tensor) -> Tensor | None:
    if logit_bias is None:
        return None
    bias = check.scalar("logit_bias", logit_bias, device=image.device)
    n = image.shape[0]
    return bias.expand(n) if isinstance(bias, Tensor) else upcast(image.new_empty(0)).new_full((n,), bias)


class SigLipLoss(LossModule):
    """Module twin of siglip_loss. forward(image_features, text_features, logit_scale=..., logit_bias=...); without
    those that the module has. With learnable=True it learns both: parameters log_logit_scale (from logit_scale or 10)
    and logit_bias (from logit_bias or -10)."""

    function = staticmethod(siglip_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        *,
        learnable: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        memory_budget: int | None = None,
        backend: str = "auto",
        group: Group = None,
    ) -> None:
        scale = 10.0 if learnable and logit_scale is None else logit_scale
        super().__init__(
            "logit_scale" if learnable else None, **owned(logit_scale=scale, logit_bias=logit_bias),
            normalize=normalize, reduction=reduction, memory_budget=memory_budget, backend=backend, group=group,
        )  # fmt: skip
        if learnable:
            start = check.scalar("logit_bias", self.options.pop("logit_bias", -10.0))
            self.logit_bias = nn.Parameter(torch.tensor(start))

    def learned(self) -> dict[str, Tensor]:
        values = super().learned()
        return values if self.learn is None else {**values, "logit_bias": self.logit_bias}
