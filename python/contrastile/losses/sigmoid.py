"""The sigmoid pair loss (SigLIP)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import check, pair_loss, pair_reduce
from ..ranks import Batch, Group, announced
from .common import LossModule, check_options, feature_pair, reduced_empty, wide
from .contrastive import pair_ids


@announced
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
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
        y_ij = +1 if matched else -1

    Args:
        image_features, text_features: (N, D), unit rows expected, or normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient.
        logit_bias: float or 0-dim tensor with gradient; None is 0.
        image_ids, text_ids: (N,) integers: pairs with equal ids are matched; without ids, pairs with equal index are.
        reduction: "mean" divides the sum over all pairs by N, "sum" does not, "none": (N,) sums per image.

    Returns: float32, nats. Cost: 6 N^2 D FLOP forward and backward.

    Source: Zhai et al. 2023, arXiv 2303.15343, algorithm 1; open_clip SigLipLoss.
    """
    check_options(reduction, memory_budget, backend)
    image, text = feature_pair("image_features", image_features, "text_features", text_features, normalize)
    row_ids, col_ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    scale = check.scalar("logit_scale", logit_scale, device=image.device)
    bias = row_bias(logit_bias, image)
    batch = Batch.of(group, image.shape[0], ids=row_ids is not None)
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, bias)
    rule = "index" if row_ids is None else "id"
    options: dict[str, Any] = {
        "scale": scale, "row_bias": bias, "reduce": "softplus", "keep": f"not_same_{rule}", "positives": f"same_{rule}",
        "row_ids": row_ids, "col_ids": col_ids, "memory_budget": memory_budget, "backend": backend,
        "group": batch.ranks,
    }  # fmt: skip
    if reduction == "none":
        stats = pair_reduce(image, text, **options)
        assert stats.row_positives is not None
        return stats.rows + stats.row_positives
    weight = batch.weight(reduction)
    return pair_loss(image, text, row_weight=weight, row_positive_weight=weight, **options)


def row_bias(logit_bias: float | Tensor | None, image: Tensor) -> Tensor | None:
    if logit_bias is None:
        return None
    bias = check.scalar("logit_bias", logit_bias, device=image.device)
    n = image.shape[0]
    return bias.expand(n) if isinstance(bias, Tensor) else wide(image.new_empty(0)).new_full((n,), bias)


class SigLipLoss(LossModule):
    """Module twin of siglip_loss. forward(image_features, text_features, logit_scale=..., logit_bias=...); with
    learnable=True the module owns both: log_logit_scale (from init_scale) and logit_bias (from init_bias)."""

    function = staticmethod(siglip_loss)

    def __init__(
        self,
        *,
        learnable: bool = False,
        init_scale: float = 10.0,
        init_bias: float = -10.0,
        normalize: bool = False,
        reduction: str = "mean",
        memory_budget: int | None = None,
        backend: str = "auto",
        group: Group = None,
    ) -> None:
        own = {"logit_scale": init_scale} if learnable else {}
        super().__init__(
            "logit_scale" if learnable else None, **own, normalize=normalize, reduction=reduction,
            memory_budget=memory_budget, backend=backend, group=group,
        )  # fmt: skip
        if learnable:
            if not math.isfinite(init_bias):
                raise ValueError(f"init_bias must be finite, got {init_bias}")
            self.logit_bias = nn.Parameter(torch.tensor(float(init_bias)))

    def learned(self) -> dict[str, Tensor]:
        values = super().learned()
        return values if self.learn is None else {**values, "logit_bias": self.logit_bias}
