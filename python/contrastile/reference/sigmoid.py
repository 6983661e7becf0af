"""Sigmoid pair loss (SigLIP)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dense import Scalar, reduce_rows, unit


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar,
    logit_bias: Scalar | None = None,
    *,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Independent binary classification of every image-text pair as matched or not.

        loss = 1/N sum_ij -log sigmoid( y_ij (logit_scale <x_i, t_j> + logit_bias) )

    y_ij = 1 if i = j (with ids: exactly where the ids are equal), else -1. "sum": not divided by N; "none": the sum
    over texts of each image, (N,).

    Source: Zhai et al. 2023 (arXiv 2303.15343), Sec. 3.2; official code google-research/big_vision
    @0127fb6, trainers/proj/image_text/siglip.py.
    """
    if image_ids is None and text_ids is not None:
        raise ValueError("text_ids needs image_ids")
    logits = logit_scale * (unit(image_features, normalize) @ unit(text_features, normalize).T)
    if logit_bias is not None:
        logits = logits + logit_bias
    matched = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if image_ids is not None:
        matched = image_ids[:, None] == (image_ids if text_ids is None else text_ids)[None, :]
    # logsigmoid, not softplus: torch's softplus drops 2e-9 above 20, too much for float64
    return reduce_rows(-F.logsigmoid(torch.where(matched, logits, -logits)).sum(dim=1), reduction)
