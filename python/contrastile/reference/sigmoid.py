"""Sigmoid pair loss (SigLIP)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dense import Scalar, of_present, reduce_rows, unit


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Scalar,
    logit_bias: Scalar | None = None,
    *,
    image_labels: Tensor | None = None,
    text_labels: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Independent binary classification of every image-text pair as matched or not.

        loss = 1/N sum_ij -log sigmoid( y_ij (logit_scale <x_i, t_j> + logit_bias) )

    y_ij = 1 if i = j (with labels: exactly where the labels are equal), else -1. With ids, pairs i != j of equal ids
    are left out. "sum": not divided by N; "none": the sum over texts of each image, (N,). weights: of the images' sums;
    present: pairs that are not are taken out of the batch.

    Source: Zhai et al. 2023 (arXiv 2303.15343), Sec. 3.2; official code google-research/big_vision
    @0127fb6, trainers/proj/image_text/siglip.py.
    """
    image_features, text_features, image_labels, text_labels, image_ids, text_ids = (
        of_present(x, present) for x in (image_features, text_features, image_labels, text_labels, image_ids, text_ids)
    )
    logits = logit_scale * (unit(image_features, normalize) @ unit(text_features, normalize).T)
    if logit_bias is not None:
        logits = logits + logit_bias
    matched = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    dropped = _equal("ids", image_ids, text_ids)
    dropped = None if dropped is None else dropped & ~matched
    labelled = _equal("labels", image_labels, text_labels)
    if labelled is not None:
        if dropped is not None:
            raise ValueError("ids cannot be combined with labels")
        matched = labelled
    # logsigmoid, not softplus: torch's softplus drops 2e-9 above 20, too much for float64
    terms = -F.logsigmoid(torch.where(matched, logits, -logits))
    # where, not a product: a dropped term may be infinite
    terms = terms if dropped is None else torch.where(dropped, torch.zeros_like(terms), terms)
    return reduce_rows(terms.sum(dim=1), reduction, weights, present)


def _equal(what: str, image: Tensor | None, text: Tensor | None) -> Tensor | None:
    if image is None:
        if text is not None:
            raise ValueError(f"text_{what} needs image_{what}")
        return None
    return image[:, None] == (image if text is None else text)[None, :]
